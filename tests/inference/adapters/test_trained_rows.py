"""Adapters that trained rows of the embedding and of the head themselves, beside PEFT, which runs each alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor

from inference.adapters.examination import examine_files
from inference.adapters.file import AdapterRefused
from inference.adapters.slots import LoraSlots
from inference.adapters.store import AdapterStore
from inference.decoders.torch.lora import LoraBank
from inference.model.architecture import read_architecture
from tests.inference.checkpoints import load_base, load_decoder, load_reference, make_model, publish
from tests.inference.passes import Chunk, Passes

IDS = [3, 90, 17, 130]
PROMPT = [5, 17, 3, 90, 40, 17, 8]
EMBED_ROWS = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"


@pytest.fixture(scope="module", params=[False, True], ids=["two tables", "one table"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"), tie_word_embeddings=request.param)


def save(model: Path, directory: Path, **options: Any) -> PeftModel:
    """Save an adapter whose LoRA and whose rows were changed at random, and give it as PEFT computes it."""
    torch.manual_seed(3)
    config = LoraConfig(**{"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"], **options})
    trained = get_peft_model(load_reference(model), config)
    train(trained, IDS)
    trained.save_pretrained(directory, save_embedding_layers=False)
    return PeftModel.from_pretrained(load_reference(model), directory).eval()


@torch.no_grad()
def train(adapter: PeftModel, ids: list[int]) -> None:
    """Change at random what is trained, of whole tables the rows `ids`."""
    for name, parameter in adapter.named_parameters():
        if "lora_magnitude" in name:
            parameter *= 1 + 0.2 * torch.randn_like(parameter)
        elif "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
        elif "trainable_tokens_delta" in name:
            parameter += 0.3 * torch.randn_like(parameter)
        elif "modules_to_save" in name:
            parameter[ids] += 0.3 * torch.randn_like(parameter[ids])


def expected(reference: PeftModel) -> Tensor:
    with torch.no_grad():
        logits: Tensor = reference(torch.tensor([PROMPT])).logits[0, -1]
    return logits


def computed(model: Path, store: Path, digest: str) -> tuple[Tensor, Tensor]:
    """The logits behind `PROMPT` of the adapter and of the base, in one batch."""
    decoder = load_decoder(model)
    decoder.bank = LoraBank()
    slots = LoraSlots(4, AdapterStore(store, load_base(model)).load, decoder.bank)
    slot = slots.acquire(digest)
    assert slot is not None
    passes = Passes(decoder)
    adapted, plain = passes.run(Chunk(passes.sequence(slot), PROMPT), Chunk(passes.sequence(), PROMPT))
    return adapted[-1], plain[-1]


OPTIONS: dict[str, dict[str, Any]] = {
    "rows of the embedding": {"trainable_token_indices": IDS},
    "rows of both by name": {"trainable_token_indices": {"embed_tokens": IDS, "lm_head": IDS}},
    "other rows of each": {"trainable_token_indices": {"embed_tokens": IDS, "lm_head": [4, 5]}},
    "rows of the head": {"trainable_token_indices": {"lm_head": IDS}},
    "a whole embedding": {"modules_to_save": ["embed_tokens"]},
    "a whole head": {"modules_to_save": ["lm_head"]},
    "both whole": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "rows beside a DoRA": {"trainable_token_indices": IDS, "use_dora": True},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_an_adapter_with_rows_of_its_own_computes_what_peft_does(model: Path, tmp_path: Path, name: str) -> None:
    reference = save(model, tmp_path / "staging", **OPTIONS[name])
    digest = publish(tmp_path / "staging", tmp_path)
    ours, base = computed(model, tmp_path, digest)
    torch.testing.assert_close(ours, expected(reference), atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        plain = load_reference(model)(torch.tensor([PROMPT])).logits[0, -1]
    torch.testing.assert_close(base, plain, atol=1e-4, rtol=1e-4)
    assert (ours - base).abs().max() > 0.01


def test_another_choice_of_rows_is_another_adapter(model: Path, tmp_path: Path) -> None:
    digests = set()
    for ids in ([3, 4], [4, 3]):
        save(model, tmp_path / "staging", trainable_token_indices=ids)
        digests.add(publish(tmp_path / "staging", tmp_path))
    assert len(digests) == 2


Files = Callable[[dict[str, Any], dict[str, Tensor]], Any]
REFUSALS: list[tuple[dict[str, Any], Files, str]] = [
    (
        {"trainable_token_indices": IDS},
        lambda config, tensors: config.update(trainable_token_indices=IDS[:3]),
        "The trained rows are 4×64 for 3 tokens of trainable_token_indices",
    ),
    (
        {"trainable_token_indices": IDS},
        lambda config, tensors: (
            config.update(trainable_token_indices=None),
            tensors.update({EMBED_ROWS: torch.zeros(0, 64)}),
        ),
        "The trained rows are 0×64 for 0 tokens of trainable_token_indices",
    ),
    (
        {"trainable_token_indices": IDS},
        lambda config, tensors: config.update(trainable_token_indices=[*IDS[:3], 131]),
        "names 1 tokens that {name} does not have, the last of which is 130; train tokens that it has",
    ),
    (
        {"trainable_token_indices": IDS},
        lambda config, tensors: config.update(trainable_token_indices=[*range(65)]),
        "names 65 tokens of embed_tokens; up to 64 (MAX_RANK) are served",
    ),
    (
        {"trainable_token_indices": IDS},
        lambda config, tensors: config.update(trainable_token_indices=[3, 3]),
        "it must list ids of tokens, each once",
    ),
    (
        {"trainable_token_indices": IDS},
        lambda config, tensors: config.update(trainable_token_indices={"q_proj": [3]}),
        'trainable_token_indices names "q_proj"; rows of embed_tokens and lm_head are served',
    ),
    (
        {"trainable_token_indices": IDS},
        lambda config, tensors: tensors.pop(EMBED_ROWS),
        "trainable_token_indices names a table whose rows are not in the file: embed_tokens",
    ),
    (
        {"trainable_token_indices": IDS},
        lambda config, tensors: tensors.update({EMBED_ROWS: torch.zeros(4, 63)}),
        "The trained rows have 63 numbers where {name} has 64",
    ),
    (
        {"modules_to_save": ["lm_head"]},
        lambda config, tensors: tensors.pop("base_model.model.lm_head.weight"),
        "modules_to_save names a table that is not in the file: lm_head",
    ),
    (
        {"modules_to_save": ["lm_head"]},
        lambda config, tensors: config.update(modules_to_save=["lm_head", "score"]),
        "carries whole modules (modules_to_save: score), which all adapters share here",
    ),
    (
        {"modules_to_save": ["lm_head"]},
        lambda config, tensors: tensors.update({"base_model.model.lm_head.weight": torch.randn(131, 64)}),
        "131 rows of the table of lm_head were trained; up to 64 (MAX_RANK) are served, each as a rank of its own",
    ),
    (
        {"modules_to_save": ["lm_head"]},
        lambda config, tensors: tensors.update({"base_model.model.lm_head.weight": torch.randn(135, 64)}),
        "The vocabulary was enlarged by 4 tokens, and all adapters share that of {name}. Train on tokens of which its "
        "table has a row, up to 130",
    ),
]


@pytest.mark.parametrize(("options", "change", "sentence"), REFUSALS, ids=[sentence for *_, sentence in REFUSALS])
def test_rows_that_cannot_be_served_are_refused_with_their_count(
    tmp_path: Path, tiny_model: Path, options: dict[str, Any], change: Files, sentence: str
) -> None:
    staging = tmp_path / "staging"
    save(tiny_model, staging, **options)
    config, tensors = json.loads((staging / "adapter_config.json").read_text()), load_file(staging / WEIGHTS)
    change(config, tensors)
    (staging / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, staging / WEIGHTS)
    digest = publish(staging, tmp_path)
    with pytest.raises(AdapterRefused) as caught:
        AdapterStore(tmp_path, load_base(tiny_model)).load(digest)
    assert sentence.format(name=tiny_model.name) in "; ".join(caught.value.reasons)


WEIGHTS = "adapter_model.safetensors"


def test_the_site_finds_the_same_by_names_and_shapes(tmp_path: Path, tiny_model: Path) -> None:
    save(tiny_model, tmp_path, trainable_token_indices=IDS)
    architecture = read_architecture(tiny_model / "config.json")
    found = examine_files(tmp_path / "adapter_config.json", tmp_path / WEIGHTS, architecture, 64)
    assert found.reasons == []
    assert list(found.rows) == ["model.embed_tokens"]


def test_a_whole_table_that_is_the_bases_own_changes_nothing(tmp_path: Path, tiny_model: Path) -> None:
    staging = tmp_path / "staging"
    save(tiny_model, staging, modules_to_save=["lm_head"])
    tensors = load_file(staging / WEIGHTS)
    tensors["base_model.model.lm_head.weight"] = load_reference(tiny_model).lm_head.weight.detach().clone()
    save_file(tensors, staging / WEIGHTS)
    adapter = AdapterStore(tmp_path, load_base(tiny_model)).load(publish(staging, tmp_path))
    assert sorted(adapter.weights) == ["q_proj", "v_proj"]


@pytest.mark.parametrize("targets", [["q_proj"], ["q_proj", "embed_tokens", "lm_head"]], ids=["linears", "tables"])
@pytest.mark.parametrize("use_dora", [False, True], ids=["LoRA", "DoRA"])
def test_an_adapter_of_a_vocabulary_that_was_cut_computes_what_peft_does(
    tmp_path: Path, targets: list[str], use_dora: bool
) -> None:
    model, height = make_model(tmp_path / "model"), 124
    reference = resized(model, tmp_path / "staging", height, target_modules=targets, use_dora=use_dora)
    assert load_file(tmp_path / "staging" / WEIGHTS)[TABLES[len(targets) > 1]].shape == (height, 64)
    ours, _ = computed(model, tmp_path, publish(tmp_path / "staging", tmp_path))
    ids = [id for id in PROMPT if id < height]
    assert ids == PROMPT
    torch.testing.assert_close(ours[:height], expected(reference), atol=1e-4, rtol=1e-4)


def test_rows_that_were_added_and_not_trained_are_left_out(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    reference = resized(model, tmp_path / "staging", 136)
    digest = publish(tmp_path / "staging", tmp_path)
    ours, _ = computed(model, tmp_path, digest)
    torch.testing.assert_close(ours, expected(reference)[:131], atol=1e-4, rtol=1e-4)
    folder, architecture = tmp_path / digest, read_architecture(model / "config.json")
    found = examine_files(folder / "adapter_config.json", folder / WEIGHTS, architecture, 64)
    assert found.remarks == (
        "The table has 5 rows beyond those of model, untrained, which are left out with their tokens: "
        "lm_head, model.embed_tokens.",
    )


WRAPPED: dict[str, tuple[dict[str, Any], int]] = {
    "rows of the embedding": ({"trainable_token_indices": [3, 90]}, 124),
    "rows of the embedding, enlarged": ({"trainable_token_indices": [3, 90]}, 136),
    "rows of both": ({"trainable_token_indices": {"embed_tokens": [3, 90], "lm_head": [4, 5]}}, 124),
    "a whole head": ({"modules_to_save": ["lm_head"]}, 124),
    "a whole embedding": ({"modules_to_save": ["embed_tokens"]}, 124),
    "both whole": ({"modules_to_save": ["embed_tokens", "lm_head"]}, 124),
}
"""What was trained of tables whose height changed: then PEFT saves the base's own and what wraps it, too."""


@pytest.mark.parametrize("name", WRAPPED)
def test_trained_rows_of_a_vocabulary_of_another_height_compute_what_peft_does(
    model: Path, tmp_path: Path, name: str
) -> None:
    options, height = WRAPPED[name]
    reference = resized(model, tmp_path / "staging", height, **options)
    names = "".join(load_file(tmp_path / "staging" / WEIGHTS))
    assert ("token_adapter.base_layer" if "rows" in name else "original_module") in names
    ours, base = computed(model, tmp_path, publish(tmp_path / "staging", tmp_path))
    least = min(height, 131)
    torch.testing.assert_close(ours[:least], expected(reference)[:least], atol=1e-4, rtol=1e-4)
    assert (ours - base).abs().max() > 0.01


def test_a_table_beside_its_trained_rows_is_the_bases_own(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    resized(model, tmp_path / "staging", 124, trainable_token_indices=[3])
    tensors = load_file(tmp_path / "staging" / WEIGHTS)
    tensors[EMBED_ROWS.replace("trainable_tokens_delta", "base_layer.weight")][7:9] += 1
    save_file(tensors, tmp_path / "staging" / WEIGHTS)
    with pytest.raises(AdapterRefused, match=r"the table of model\.embed_tokens is not the base's own: 2 of its rows"):
        AdapterStore(tmp_path, load_base(model)).load(publish(tmp_path / "staging", tmp_path))


def test_what_wraps_a_whole_table_is_read_nowhere_but_beside_it(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    resized(model, tmp_path, 124, modules_to_save=["lm_head"])
    tensors = load_file(tmp_path / WEIGHTS)
    del tensors["base_model.model.lm_head.weight"]
    save_file(tensors, tmp_path / WEIGHTS)
    architecture = read_architecture(model / "config.json")
    reasons = "; ".join(examine_files(tmp_path / "adapter_config.json", tmp_path / WEIGHTS, architecture, 64).reasons)
    assert "modules_to_save names a table that is not in the file: lm_head" in reasons
    assert "base_model.model.lm_head.original_module.weight" in reasons


CUT_IDS = [3, 90, 17]
TABLES = ["base_model.model.model.embed_tokens.weight", "base_model.model.model.embed_tokens.base_layer.weight"]


def resized(model: Path, directory: Path, height: int, **options: Any) -> PeftModel:
    """Save an adapter of the model with a vocabulary of `height`, and give it as PEFT computes it."""
    torch.manual_seed(3)
    base = load_reference(model)
    base.resize_token_embeddings(height, mean_resizing=False)
    config = LoraConfig(**{"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"], **options})
    trained = get_peft_model(base, config)
    train(trained, CUT_IDS)
    trained.save_pretrained(directory)
    return trained.eval()
