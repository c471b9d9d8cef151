"""`manage.py import_adapter`: directories and hub ids, many in one call, proofs awaited, refusals told."""

from __future__ import annotations

import io
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from inference.tasks.card import Card, write_embedding
from inference.tasks.vectors import embedding_of
from inference.wire.protocol import Finished, Probe, Stats
from loraland import inference_client
from loraland.bases import Base
from loraland.catalogue import store
from loraland.catalogue.card import CardError, read_card
from loraland.catalogue.embeddings import InputEmbedding
from loraland.catalogue.models import Adapter, AdapterVersion
from loraland.catalogue.upload import hub
from loraland.catalogue.upload.hub import HubError, Listing
from tests.loraland.adapter_files import lora_tensors, write_adapter

CARD = '''
name = "Tweet emotion"
category = "Classification"
summary = "Names the emotion of a tweet."
description = "Reads a tweet and answers with one word."
base = "SmolLM2-135M-Instruct"
license = "CC-BY-4.0"
author = "LoRA Land"

[dataset]
name = "tweet_eval"
source = "https://example.org/tweet_eval"
license = "CC-BY-3.0"
restricted = false
train_rows = 3257

[prompt]
template = """Tweet: {text}
Emotion:
"""

[[prompt.field]]
name = "text"
label = "Tweet"
rows = 2

[[example]]
inputs = { text = "What a day!" }
expected = "joy"

[training]
steps = 150
learning_rate = 1e-3
target_modules = ["q_proj", "v_proj"]
date = 2026-11-23

[score]
metric = "accuracy"
base = 0.0
tuned = 0.81
low = 0.78
high = 0.84
n = 600
split = "test"
base_prompt = "zero-shot"
gain = "gain"
'''


@pytest.fixture
def run(db: None, adapter_store: Path, probes: list[Probe]) -> Callable[..., tuple[str, str]]:
    """`run(*arguments)` imports and gives what was printed; the error text ends with why it failed, if it did."""

    def call(*arguments: object) -> tuple[str, str]:
        out, err = io.StringIO(), io.StringIO()
        try:
            call_command("import_adapter", *map(str, arguments), stdout=out, stderr=err)
        except CommandError as error:
            err.write(str(error))
        return out.getvalue(), err.getvalue()

    return call


def test_a_directory_with_a_card_becomes_an_adapter(run: Callable[..., tuple[str, str]], tmp_path: Path) -> None:
    _, errors = run(write_adapter(tmp_path / "tweet_emotion", card=CARD), "--no-wait")
    assert errors == ""
    version = AdapterVersion.objects.get()
    adapter = version.adapter
    assert (adapter.slug, adapter.name, adapter.license) == ("tweet_emotion", "Tweet emotion", "CC-BY-4.0")
    assert adapter.dataset["train_rows"] == 3257
    assert version.template == "Tweet: {text}\nEmotion:\n"
    assert version.fields == [{"name": "text", "label": "Tweet", "rows": 2}]
    assert version.examples == [{"inputs": {"text": "What a day!"}, "expected": "joy"}]
    assert (version.score["base"], version.score["tuned"]) == (0.0, 0.81)
    assert version.training["date"] == "2026-11-23"
    assert version.status == version.Status.VALIDATING


def test_a_bare_directory_is_named_after_itself(run: Callable[..., tuple[str, str]], tmp_path: Path) -> None:
    run(write_adapter(tmp_path / "snips_slots"), "--no-wait")
    adapter = Adapter.objects.get()
    assert (adapter.slug, adapter.name, adapter.base) == ("snips_slots", "Snips slots", "SmolLM2-135M-Instruct")


def test_importing_again_changes_nothing(
    run: Callable[..., tuple[str, str]], tmp_path: Path, probes: list[Probe], monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = [write_adapter(tmp_path / f"adapter-{seed}", seed=seed) for seed in range(3)]
    run(*sources, "--no-wait")
    before = list(AdapterVersion.objects.values())

    def copied(directory: Path) -> str:
        raise AssertionError("a known adapter was copied again")

    monkeypatch.setattr(store, "receive_directory", copied)
    assert run(*sources, "--no-wait")[1] == ""
    assert list(AdapterVersion.objects.values()) == before
    assert len(probes) == 3


def test_a_store_that_was_lost_is_filled_again(
    run: Callable[..., tuple[str, str]], tmp_path: Path, adapter_store: Path
) -> None:
    source = write_adapter(tmp_path / "emotion")
    run(source, "--no-wait")
    shutil.rmtree(adapter_store)
    run(source, "--no-wait")
    assert (adapter_store / AdapterVersion.objects.get().digest / store.WEIGHTS).exists()


def test_one_refused_adapter_fails_the_call_and_not_the_others(
    run: Callable[..., tuple[str, str]], tmp_path: Path
) -> None:
    sound = write_adapter(tmp_path / "sound")
    damaged = write_adapter(tmp_path / "damaged", tensors=lora_tensors(rank=3))
    _, errors = run(damaged, sound, tmp_path / "missing", "--no-wait")
    assert "damaged: refused.\n  - The rank is 3 but adapter_config.json says 2" in errors
    assert "is no directory" in errors
    assert errors.endswith("2 of 3 adapters were refused.")
    assert AdapterVersion.objects.get(adapter__slug="sound").status == "validating"


def test_an_error_that_nobody_foresaw_refuses_one_adapter_and_not_the_others(
    run: Callable[..., tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(path: Path) -> Card:
        raise LookupError("an encoding that nobody knows")

    monkeypatch.setattr("loraland.catalogue.card.read_card", read)
    odd, plain = write_adapter(tmp_path / "odd", seed=1, card=CARD), write_adapter(tmp_path / "plain", seed=2)
    out, errors = run(odd, plain, "--no-wait")
    assert "odd: refused." in errors
    assert "could not be read (LookupError: an encoding that nobody knows)" in errors
    assert "plain:" in out
    assert Adapter.objects.get().slug == "plain"


def test_an_adapter_that_is_here_gets_the_embedding_that_its_card_has_by_now(
    run: Callable[..., tuple[str, str]], tmp_path: Path
) -> None:
    folder = write_adapter(tmp_path / "emotion")
    (folder / "card.toml").write_text(CARD, encoding="utf-8")
    run(folder, "--no-wait")
    assert InputEmbedding.objects.get().texts == 1
    learnt = embedding_of(["What a day!", "Oh no."])
    assert learnt is not None
    write_embedding(folder / "card.toml", learnt.table())
    run(folder, "--no-wait")
    assert (InputEmbedding.objects.get().value, InputEmbedding.objects.get().is_given) == (learnt, True)


@pytest.mark.parametrize(
    ("name", "arguments", "complaint"),
    [
        ("with space", (), "is no slug"),
        ("base", (), "base is the name of the base model itself"),
        ("auto", (), "auto is what asks for the adapter that fits"),
        ("emotion", ("--slug", "no slug"), "is no slug"),
    ],
)
def test_a_name_that_is_no_slug_is_refused(
    name: str, arguments: tuple[str, ...], complaint: str, run: Callable[..., tuple[str, str]], tmp_path: Path
) -> None:
    assert complaint in run(write_adapter(tmp_path / name), *arguments, "--no-wait")[1]
    assert not Adapter.objects.exists()


def test_a_slug_names_one_adapter(run: Callable[..., tuple[str, str]], tmp_path: Path) -> None:
    assert "import one source at a time" in run(tmp_path, tmp_path, "--slug", "both")[1]


def test_a_directory_without_weights_is_refused(run: Callable[..., tuple[str, str]], tmp_path: Path) -> None:
    source = write_adapter(tmp_path / "emotion")
    (source / store.WEIGHTS).rename(source / "adapter_model.bin")
    assert "has its weights as a pickle" in run(source, "--no-wait")[1]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("delta", "outcome"), [(1.5, "Published"), (0.0, "It changes nothing")])
def test_the_command_waits_for_the_proof(
    delta: float, outcome: str, adapter_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def prove(probe: Probe, base: Base) -> None:
        def answer() -> None:
            version = AdapterVersion.objects.select_related("adapter").get(probe_id=probe.id)
            version.record_proof(Finished(probe.id, "done", Stats(logit_delta=delta)))
            connection.close()

        threading.Timer(0.5, answer).start()

    monkeypatch.setattr(inference_client, "submit_probe", prove)
    source = str(write_adapter(tmp_path / "emotion"))
    if delta:
        call_command("import_adapter", source)
    else:
        with pytest.raises(CommandError, match="1 of 1 adapters were refused"):
            call_command("import_adapter", source)
    printed = capsys.readouterr()
    assert outcome in printed.out + printed.err


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('name = "Tweet emotion"', "", "has no name"),
        ('name = "Tweet emotion"', "name = ", "is not TOML"),
        ('name = "Tweet emotion"', 'name = "a\\u0000b"', "cannot be kept"),
        ('license = "CC-BY-4.0"', 'licence = "CC-BY-4.0"', "unknown key 'licence'"),
        ('category = "Classification"', "category = 5", "category in card.toml must be text"),
        ("restricted = false", 'restricted = "no"', "must be of type bool"),
        ("tuned = 0.81", "tuned = nan", "cannot be kept"),
        ("n = 600", "n = true", "must be of type int"),
        ('gain = "gain"', 'gain = "huge"', "write 'gain' or 'no clear gain'"),
        ('gain = "gain"', "gain = []", "write 'gain' or 'no clear gain'"),
        ("steps = 150", "epochs = 3", "unknown key 'epochs'"),
        ("Tweet: {text}", "Tweet: {tweet}", "no place for the field text"),
        ("rows = 2", "rows = 0", "use a whole number from 1 to 30"),
        ('inputs = { text = "What a day!" }', "inputs = {}", "Example 1: the field text is missing"),
    ],
)
def test_a_card_that_cannot_be_used_says_why(old: str, new: str, complaint: str, tmp_path: Path) -> None:
    assert old in CARD
    path = tmp_path / "card.toml"
    path.write_text(CARD.replace(old, new), encoding="utf-8")
    with pytest.raises(CardError) as refusal:
        read_card(path)
    assert any(complaint in reason for reason in refusal.value.reasons), refusal.value.reasons


class DirectoryHub:
    """A hub whose repositories are directories."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.fetched: list[str] = []

    def listing(self, repository: str) -> Listing:
        files = (self.root / repository).iterdir()
        return Listing("0" * 40, {path.name: path.stat().st_size for path in files})

    def download(self, repository: str, revision: str, name: str, directory: Path) -> None:
        self.fetched.append(name)
        shutil.copy(self.root / repository / name, directory / name)


def test_an_adapter_comes_from_the_hub_by_two_files(
    run: Callable[..., tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_adapter(tmp_path / "owner" / "viggo")
    (tmp_path / "owner" / "viggo" / "adapter_model.bin").write_bytes(b"pickle")
    local = DirectoryHub(tmp_path)
    monkeypatch.setattr(hub, "HuggingFaceHub", lambda: local)
    monkeypatch.chdir(tmp_path / "owner")
    assert run("owner/viggo", "--no-wait")[1] == ""
    assert local.fetched == [store.CONFIG, store.WEIGHTS]
    assert AdapterVersion.objects.get().adapter.slug == "viggo"


@pytest.mark.parametrize("name", ["owner/../secret", "owner/a b", "-owner/name", "owner", "a/b/c", "https://host/x"])
def test_what_is_no_hub_id_is_never_asked_for(name: str, tmp_path: Path) -> None:
    with pytest.raises(HubError, match="neither a directory here nor a hub id"):
        hub.fetch(DirectoryHub(tmp_path / "nowhere"), name, tmp_path)


def test_a_repository_past_the_limit_is_refused_before_any_byte(tmp_path: Path, settings: Any) -> None:
    settings.MAX_UPLOAD_MB = 1
    write_adapter(tmp_path / "owner" / "large", tensors=bytes(2**20))
    local = DirectoryHub(tmp_path)
    with pytest.raises(HubError, match="this site takes 1 MB"):
        hub.fetch(local, "owner/large", tmp_path)
    assert local.fetched == []


@pytest.mark.slow
def test_an_adapter_of_mlx_is_imported_as_pefts(run: Callable[..., tuple[str, str]], tmp_path: Path) -> None:
    tensors, mlx = lora_tensors(), {}
    for name, (dtype, (rows, columns), _) in tensors.items():
        module = name.removeprefix("base_model.model.").replace("lora_A.weight", "lora_a")
        mlx[module.replace("lora_B.weight", "lora_b")] = (dtype, (columns, rows), bytes(4 * rows * columns))
    write_adapter(
        tmp_path / "mood", tensors=mlx, config={"lora_parameters": {"rank": 2, "scale": 4.0}, "num_layers": 1}
    )
    (tmp_path / "mood" / store.WEIGHTS).rename(tmp_path / "mood" / "adapters.safetensors")
    _, errors = run(tmp_path / "mood", "--no-wait")
    version = AdapterVersion.objects.get()
    assert (version.adapter.slug, version.rank, version.status) == ("mood", 2, version.Status.VALIDATING), errors


@pytest.mark.slow
def test_an_adapter_of_mlx_that_is_a_whole_model_is_refused(
    run: Callable[..., tuple[str, str]], tmp_path: Path
) -> None:
    write_adapter(tmp_path / "mood", config={"fine_tune_type": "full"})
    (tmp_path / "mood" / store.WEIGHTS).rename(tmp_path / "mood" / "adapters.safetensors")
    _, errors = run(tmp_path / "mood", "--no-wait")
    assert "all weights were trained; only lora and dora are adapters" in errors
    assert not Adapter.objects.exists()
