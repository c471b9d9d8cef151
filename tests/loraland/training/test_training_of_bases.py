"""Trainings where several bases are served: each is planned for one, and proven and measured by its workers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.conf import settings as site_settings
from django.test import Client
from redis import Redis

from inference.server import queue as training_queue
from inference.wire.protocol import Probe
from loraland import bases, inference_client
from loraland.bases import Base
from loraland.catalogue.models import AdapterVersion
from loraland.evals.forecast import Known
from loraland.evals.models import DataSet
from loraland.training import speed
from loraland.training.drafting import examine
from loraland.training.models import Training
from loraland.training.slices import measure
from loraland.training.tasks import take_step
from tests.inference.engines import make_tokenizer
from tests.loraland.adapter_files import SMOLLM2, lora_config, lora_tensors, write_adapter
from tests.loraland.training.test_training_pages import form

ADD = "/admin/training/training/add/"
OURS = site_settings.BASE_NAME
PHI = {
    "architectures": ["PhiForCausalLM"],
    "vocab_size": 258,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 96,
    "partial_rotary_factor": 0.5,
}
"""A base that has no gate, calls some linears otherwise and reads short texts."""
Plan = Callable[..., Training]


@pytest.fixture
def other(db: None, adapter_store: Path, other_base: str, settings: Any) -> str:
    """The second base with its files: every byte is one of its tokens."""
    make_tokenizer(settings.MODELS_DIR / other_base)
    write_config(settings, PHI)
    return other_base


def write_config(settings: Any, config: dict[str, Any]) -> None:
    folder = settings.MODELS_DIR / "Tiny-Llama"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))


def asked(client: Client, data: DataSet, **query: str) -> str:
    return client.get(ADD, {"data": data.pk, **query}).content.decode()


def test_the_plan_asks_for_the_base_where_there_are_several(
    owner: Client, upload: Callable[..., DataSet], other: str
) -> None:
    data = upload()
    default, chosen = asked(owner, data), asked(owner, data, base=other.lower())
    assert f'name="base" value="{OURS}"' in default
    assert f'name="base" value="{other}"' in chosen
    assert default.count('class="ticket"') == chosen.count('class="ticket"') == 5 + 3
    assert f"base={other}" in chosen.split("How long it learns")[1], "a preset stays with the base"
    assert f'<dd class="base-name">{other}</dd>' in chosen
    assert owner.get(ADD, {"data": data.pk, "base": "nobody"}).status_code == 404


def test_with_one_base_nothing_is_asked(owner: Client, upload: Callable[..., DataSet]) -> None:
    page = asked(owner, upload())
    assert "Which base it learns on" not in page
    assert "base=" not in page.split('id="recipe"')[1]


def test_linears_and_numbers_are_those_of_the_base(owner: Client, upload: Callable[..., DataSet], other: str) -> None:
    data = upload()
    page = asked(owner, data, base=other)
    assert "gate_proj" in asked(owner, data)
    assert "gate_proj" not in page
    assert "o_proj (dense)" in page
    assert 'name="max_length" value="96" min="32" max="96"' in page.replace(' required id="id_max_length"', "").replace(
        'value="96" required', 'value="96"'
    )
    refused = owner.post(f"{ADD}?data={data.pk}", form(base=other, rank="17", target_modules=["gate_proj"]))
    html = refused.content.decode()
    assert "less than or equal to 16" in html
    assert "less than or equal to 96" in html
    assert "gate_proj is not one of the available choices" in html


def test_tokens_are_counted_by_the_base(owner: Client, upload: Callable[..., DataSet], other: str) -> None:
    data = upload()
    owner.post(f"{ADD}?data={data.pk}", form(base=other, name="Theirs", max_length="96"))
    owner.post(f"{ADD}?data={data.pk}", form(name="Ours", max_length="96"))
    theirs, ours = (Training.objects.get(name=name) for name in ("Theirs", "Ours"))
    assert (theirs.base, ours.base) == (other, OURS)
    assert theirs.max_answer == len("sadness") + 8, "a byte is a token"
    assert abs(theirs.tokens - 30 * 4 * len("Text: day 10 of angerMood:anger--")) < 200
    again = asked(owner, data, like=str(theirs.pk))
    assert f'name="base" value="{other}"' in again


def test_a_base_that_went_while_the_form_was_written_is_told(
    owner: Client, upload: Callable[..., DataSet], other: str, settings: Any
) -> None:
    data = upload()
    settings.BASE_MODELS = (settings.BASE_MODEL,)
    html = owner.post(f"{ADD}?data={data.pk}", form(base=other)).content.decode()
    assert f"{other} is not served here; what is begun now would be trained for the base that is shown." in html
    assert f'name="base" value="{OURS}"' in html
    assert not Training.objects.exists()


def test_a_slug_belongs_to_one_base(
    owner: Client, upload: Callable[..., DataSet], plan: Plan, publish: Callable[..., AdapterVersion], other: str
) -> None:
    data = upload()
    plan(slug="mine", state="training")
    answer = owner.post(f"{ADD}?data={data.pk}", form(base=other, slug="mine", max_length="96"))
    assert (
        f"mine is being trained for {OURS} just now; write another slug to train for {other}."
        in answer.content.decode()
    )
    Training.objects.update(state="done")
    publish("mine")
    answer = owner.post(f"{ADD}?data={data.pk}", form(base=other, slug="mine", max_length="96"))
    assert f"mine is an adapter for {OURS}, and its versions are for one base" in answer.content.decode()
    assert owner.post(f"{ADD}?data={data.pk}", form(slug="mine")).status_code == 302


def test_the_training_server_hears_of_the_base_as_the_site_finds_it(plan: Plan, redis: Redis, other: str) -> None:
    take_step(plan(base=other))
    claim = training_queue.claim(redis, 60)
    assert claim is not None
    assert claim.train.base == "owner/Tiny-Llama"


def test_a_base_that_went_while_it_waited_ends_the_training(
    plan: Plan, redis: Redis, other: str, settings: Any
) -> None:
    training = plan(base=other)
    settings.BASE_MODELS = (settings.BASE_MODEL,)
    take_step(training)
    told = f"It was planned for {other}, which this site no longer serves; there is {OURS}."
    assert (training.state, training.reason) == ("failed", told)
    assert training_queue.claim(redis, 60) is None


def test_what_was_trained_is_that_base_s_and_its_workers_prove_it(
    plan: Plan, other: str, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[Probe, Base]] = []
    monkeypatch.setattr(inference_client, "submit_probe", lambda probe, base: sent.append((probe, base)))
    write_config(settings, SMOLLM2)  # the same shapes: only what was planned says which base is meant
    training = plan(base=other, state="examining", rows=44, minutes=1.5)
    config = lora_config(base_model_name_or_path=other)
    write_adapter(training.folder / "out", config=config, tensors=lora_tensors())
    examine(training)
    version = AdapterVersion.objects.select_related("adapter").get()
    assert (version.adapter.base, version.status) == (other, "validating")
    assert [base.name for _, base in sent] == [other]


@pytest.mark.django_db(transaction=True)
def test_it_is_measured_by_the_workers_of_its_base(
    plan: Plan, redis: Redis, other: str, settings: Any, publish: Callable[..., AdapterVersion]
) -> None:
    training = plan(base=other, state="measuring", version=publish("moods", base=other))
    async_to_sync(measured)(training)
    assert (training.state, training.note) == (
        "measuring",
        f"No worker of {other} is ready; the measurement goes on when one is.",
    )
    settings.BASE_MODELS = (settings.BASE_MODEL,)
    async_to_sync(measured)(training)
    assert training.reason == f"It is trained, and a draft, but was not measured: {other} is no longer served here."
    assert training.can_be_measured


async def measured(training: Training) -> None:
    await measure(training)
    await inference_client.close()


def test_time_is_told_from_trainings_on_the_same_base_else_by_its_size(plan: Plan, other: str, settings: Any) -> None:
    ours, theirs = bases.served()
    plan(state="done", minutes=10.0, tokens=580_000)
    assert speed.ms_a_token(ours) == pytest.approx(1.0)
    assert speed.ms_a_token(theirs) == pytest.approx(1.5 * 2 * (4 * 64 * 64 + 2 * 64 * 128) / 106_168_320)
    write_config(settings, SMOLLM2 | {"num_hidden_layers": 60})
    assert speed.ms_a_token(theirs) == pytest.approx(3.0)


def test_the_gain_is_guessed_from_what_was_measured_on_the_same_base(
    owner: Client, upload: Callable[..., DataSet], other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    named: list[str] = []

    def known(base: str = "") -> list[Known]:
        named.append(base)
        return []

    monkeypatch.setattr("loraland.evals.forecast.known", known)
    assert "too few tasks are measured here on this base" in asked(owner, upload(), base=other)
    assert named[-1] == other
