"""Adapters with biases of their own, beside the base and adapters without, against PEFT, which runs each alone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor

from inference.adapters.examination import examine_files
from inference.adapters.file import AdapterRefused, Base, HostAdapter
from inference.adapters.identity import composed_digest
from inference.adapters.mapped import load_mapped
from inference.adapters.slots import LoraSlots
from inference.adapters.store import AdapterCache, AdapterStore
from inference.decoders.native.bank import NativeBank
from inference.decoders.native.build import library_path, missing_feature
from inference.decoders.native.decoder import NativeDecoder
from inference.decoders.native.library import open_library, units_of
from inference.model.architecture import read_architecture
from inference.model.weights import load_weights
from inference.wire.protocol import Component
from tests.inference.checkpoints import load_base, load_reference, make_adapter, publish
from tests.inference.families import load_family, make_family
from tests.inference.passes import Chunk, Passes, answer

HERE = units_of(open_library(library_path())) if missing_feature() is None else []
BLOCK_SIZE, NUM_TOKENS, WEIGHTS = 32, 4, "adapter_model.safetensors"
BIASED = (
    *("llama, biases", "qwen2", "qwen3, biases, window", "smollm3, biases, window", "granite, biases, tied"),
    *("olmo2, biases, one key head", "phi", "phi, normed heads, grouped, GELU", "gemma, biases, untied"),
    *("gemma2, no caps", "stablelm", "stablelm, parallel, normed heads", "glm", "glm4"),
)
"""Variants whose linears have biases; two families have them in their norms, too."""
WITHOUT = ("llama", "phi3, short context", "gemma3")
"""Of which only `lora_bias` makes any, on fused linears too."""
KINDS: list[dict[str, Any]] = [
    {"target_modules": "all-linear", "bias": "all"},
    {"target_modules": "all-linear"},
    {"target_modules": ["o_proj", "dense", "up_proj", "fc1", "gate_up_proj", "q_proj"], "bias": "lora_only"},
    {"target_modules": "all-linear", "lora_bias": True, "rank_pattern": {"v_proj": 3}},
    {"target_modules": ["v_proj", "lm_head", "embed_tokens"], "bias": "all", "use_dora": True},
    {"target_modules": ["lm_head", "v_proj", "qkv_proj"], "lora_bias": True, "alpha_pattern": {"lm_head": 5}},
]
Change = Callable[[dict[str, Tensor]], Any]


def make_decoder(model: Path, unit: str, dtype: torch.dtype = torch.float32) -> Any:
    """The torch decoder, or the native one on a `unit`."""
    if unit == "torch":
        return load_family(model, dtype)
    architecture = read_architecture(model / "config.json").within(128)
    weights = load_weights(model, architecture, dtype)
    return NativeDecoder(architecture, weights, NativeBank(8), library_path(), BLOCK_SIZE, 1, unit)


def base_for(decoder: Any, model: Path, dtype: torch.dtype = torch.float32) -> Base:
    return replace(load_base(model, dtype), is_packed=decoder.bank.is_packed)


def prompts(count: int) -> list[list[int]]:
    """One of each length from 20 up, so that tiles are whole and broken."""
    random = torch.Generator().manual_seed(3)
    return [torch.randint(0, 131, (20 + 9 * index,), generator=random).tolist() for index in range(count)]


def passes_of(decoder: Any, dtype: torch.dtype = torch.float32) -> Passes:
    return Passes(decoder, block_size=BLOCK_SIZE, dtype=dtype)


def make_all(model: Path, store: Path) -> list[str]:
    """An adapter of each kind for the linears that the model has."""
    names = {name.rpartition(".")[2] for name, _ in load_reference(model).named_modules()}
    kinds = [
        {**kind, "target_modules": [name for name in kind["target_modules"] if name in names]}
        if isinstance(kind["target_modules"], list)
        else kind
        for kind in KINDS
    ]
    return [make_adapter(model, store, seed, 0.1, **kind) for seed, kind in enumerate(kinds)]


@pytest.mark.cell("biases", "torch")
@pytest.mark.cell("biases", "C++")
@pytest.mark.parametrize(
    "variant", [pytest.param(name, marks=[pytest.mark.slow] * (name != "phi")) for name in (*BIASED, *WITHOUT)]
)
@pytest.mark.usefixtures("one_thread")
def test_trained_biases_answer_as_with_peft_beside_the_base_and_adapters_without(
    tmp_path: Path, store: Path, variant: str
) -> None:
    model = make_family(tmp_path / "model", variant)
    digests = make_all(model, store)
    texts = prompts(len(digests) + 2)
    for unit in ("torch", *HERE[:1]):
        decoder = make_decoder(model, unit)
        slots = LoraSlots(8, AdapterStore(store, base_for(decoder, model)).load, decoder.bank)
        rows = [-1, *(slots.acquire(digest) for digest in digests), -1]
        logits, replies = answer(passes_of(decoder), texts, rows, NUM_TOKENS)  # type: ignore[arg-type]
        for text, reply, got, digest in zip(texts, replies, logits, ["", *digests, ""], strict=True):
            expected = peft_logits(model, store, digest, text + reply[:-1])[len(text) - 1 :]
            torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-5)
            assert reply == expected.argmax(-1).tolist()


HEADS: dict[str, dict[str, Any]] = {
    "whole": {"modules_to_save": ["lm_head"], "bias": "all"},
    "rows": {"trainable_token_indices": {"embed_tokens": [3], "lm_head": [3, 90]}},
    "rows and biases": {"trainable_token_indices": {"lm_head": [3, 90]}, "bias": "all"},
    "a LoRA and rows of the embedding": {
        "target_modules": ["fc1", "lm_head"],
        "trainable_token_indices": [3],
        "bias": "all",
    },
}


@pytest.mark.parametrize("unit", ["torch", *HERE[:1]])
def test_what_was_trained_of_a_head_with_a_bias_answers_as_with_peft(tmp_path: Path, store: Path, unit: str) -> None:
    model = make_family(tmp_path / "model", "phi")
    kinds = [{"target_modules": ["q_proj", "fc1"], **kind} for kind in HEADS.values()]
    digests = [make_adapter(model, store, seed, 0.1, **kind) for seed, kind in enumerate(kinds)]
    decoder = make_decoder(model, unit)
    slots = LoraSlots(8, AdapterStore(store, base_for(decoder, model)).load, decoder.bank)
    texts = [[*text, 3, 90] for text in prompts(len(digests) + 1)]
    rows = [*(slots.acquire(digest) or 0 for digest in digests), -1]
    logits, replies = answer(passes_of(decoder), texts, rows, NUM_TOKENS)
    for text, reply, got, digest in zip(texts, replies, logits, [*digests, ""], strict=True):
        expected = peft_logits(model, store, digest, text + reply[:-1])[len(text) - 1 :]
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("bias", ["none", "all"])
def test_a_heads_bias_of_a_vocabulary_that_was_enlarged_is_cut_where_it_was_not_trained(
    tmp_path: Path, store: Path, bias: Any
) -> None:
    model = make_family(tmp_path / "model", "phi")
    base: Any = load_reference(model)
    base.resize_token_embeddings(136)
    get_peft_model(base, LoraConfig(target_modules=["q_proj"], bias=bias)).save_pretrained(store / "staging")
    digest = publish(store / "staging", store)
    if bias == "none":
        assert list(loaded(model, store, digest).weights) == ["q_proj"]
        return
    with pytest.raises(AdapterRefused, match="A bias is 136 where model has 131 numbers: lm_head"):
        loaded(model, store, digest)


def peft_logits(model: Path, store: Path, digest: str, token_ids: list[int]) -> Tensor:
    """What PEFT says after each of `token_ids`, or the base where there is no adapter."""
    base: Any = load_reference(model)
    told = PeftModel.from_pretrained(base, store / digest).eval() if digest else base
    with torch.no_grad():
        logits: Tensor = told(torch.tensor([token_ids])).logits[0]
    return logits


@pytest.mark.slow
@pytest.mark.parametrize("unit", HERE)
@pytest.mark.parametrize("variant", ["phi", "stablelm", "glm4"])
@pytest.mark.usefixtures("one_thread")
def test_biases_are_added_alike_on_every_unit(tmp_path: Path, store: Path, variant: str, unit: str) -> None:
    model = make_family(tmp_path / "model", variant)
    digest = make_adapter(model, store, 0, 0.1, target_modules="all-linear", bias="all")
    (text,) = prompts(1)
    logits = []
    for kind in ("torch", unit):
        decoder = make_decoder(model, kind)
        slots = LoraSlots(1, AdapterStore(store, base_for(decoder, model)).load, decoder.bank)
        logits.append(answer(passes_of(decoder), [text], [slots.acquire(digest) or 0], NUM_TOKENS)[0])
    torch.testing.assert_close(logits[1], logits[0], atol=1e-4, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["torch", *HERE])
@pytest.mark.parametrize("variant", ["qwen2", "phi, normed heads, grouped, GELU", "stablelm"])
def test_rows_with_biases_and_rows_beside_them_keep_their_bits_in_any_company(
    tmp_path: Path, store: Path, variant: str, unit: str
) -> None:
    model = make_family(tmp_path / "model", variant)
    digests, dtype = make_all(model, store), torch.bfloat16
    texts, decoder = prompts(len(digests) + 1), make_decoder(model, unit, dtype)
    slots = LoraSlots(8, AdapterStore(store, base_for(decoder, model, dtype)).load, decoder.bank)
    rows = [*(slots.acquire(digest) or 0 for digest in digests), -1]
    together, _ = answer(passes_of(decoder, dtype), texts, rows, NUM_TOKENS)
    for text, row, got in zip(texts, rows, together, strict=True):
        alone, _ = answer(passes_of(decoder, dtype), [text], [row], NUM_TOKENS)
        assert torch.equal(got, alone[0])
    plain, _ = answer(passes_of(make_decoder(model, unit, dtype), dtype), texts[-1:], [-1], NUM_TOKENS)
    assert torch.equal(together[-1], plain[0])


@pytest.mark.parametrize("unit", ["torch", *HERE[:1]])
def test_hidden_states_are_those_behind_the_adapters_own_norm(tmp_path: Path, store: Path, unit: str) -> None:
    model = make_family(tmp_path / "model", "stablelm")
    digest = make_adapter(model, store, 0, 0.1, target_modules=["q_proj"], bias="all")
    decoder = make_decoder(model, unit)
    slot = LoraSlots(8, AdapterStore(store, base_for(decoder, model)).load, decoder.bank).acquire(digest)
    passes, (first, second) = passes_of(decoder), prompts(2)
    batch, _ = passes.batch(Chunk(passes.sequence(slot or 0), first), Chunk(passes.sequence(), second))
    wanted = torch.tensor([3, len(first) + 5])
    decoder.forward(replace(batch, sample_rows=torch.tensor([0]), hidden_rows=wanted), passes.cache)
    told = PeftModel.from_pretrained(load_reference(model), store / digest).eval()
    with torch.no_grad():
        adapted = told.get_base_model().model(torch.tensor([first])).last_hidden_state[0, 3]
        base = load_reference(model).model(torch.tensor([second])).last_hidden_state[0, 5]
    torch.testing.assert_close(decoder.hidden, torch.stack([adapted, base]), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("unit", ["torch", *HERE[:1]])
def test_biases_of_adapters_that_are_added_up_are_added_up_by_weight(tmp_path: Path, store: Path, unit: str) -> None:
    model = make_family(tmp_path / "model", "phi")
    kinds: list[dict[str, Any]] = [{"bias": "all"}, {"lora_bias": True}, {"target_modules": ["lm_head"]}]
    kinds = [{"target_modules": ["q_proj", "fc1"], **kind} for kind in kinds]
    digests = [make_adapter(model, store, seed, 0.1, **kind) for seed, kind in enumerate(kinds)]
    weights = {digests[0]: 0.5, digests[1]: -0.7, digests[2]: 1.5}
    digest = composed_digest(weights.items())
    decoder = make_decoder(model, unit)
    load = AdapterStore(store, base_for(decoder, model)).load
    cache = AdapterCache(load, 2**30, prepare=decoder.bank.prepare)
    cache.load(digest, tuple(Component(*part) for part in weights.items()))
    slot = LoraSlots(8, cache.load, decoder.bank).acquire(digest)
    (text,) = prompts(1)
    passes = passes_of(decoder)
    (got,) = passes.run(Chunk(passes.sequence(slot or 0), text))
    summed: Any = load_reference(model)
    with torch.no_grad():
        own = {name: tensor.clone() for name, tensor in summed.state_dict().items()}
        for part, weight in weights.items():
            merged = PeftModel.from_pretrained(load_reference(model), store / part).merge_and_unload().state_dict()
            for name, tensor in summed.state_dict().items():
                tensor += weight * (merged[name] - own[name])
        torch.testing.assert_close(got, summed(torch.tensor([text])).logits[0], atol=1e-4, rtol=1e-5)


def loaded(model: Path, store: Path, digest: str, dtype: torch.dtype = torch.float32) -> HostAdapter:
    return AdapterStore(store, load_base(model, dtype)).load(digest)


def changed(store: Path, digest: str, change: Change, **config: Any) -> str:
    """The adapter with other tensors; its digest."""
    folder = store / digest
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)
    told = json.loads((folder / "adapter_config.json").read_text()) | config
    (folder / "adapter_config.json").write_text(json.dumps(told))
    return publish(folder, store)


def test_biases_that_are_the_bases_own_take_nothing(tmp_path: Path, store: Path) -> None:
    model = make_family(tmp_path / "model", "phi")
    own = load_file(model / "model.safetensors")

    def untrained(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if name.endswith(".bias")]:
            tensors[name] = own[name.removeprefix("base_model.model.").replace(".base_layer", "")].clone()

    digest = changed(store, make_adapter(model, store, 0, target_modules=["q_proj"], bias="all"), untrained)
    for dtype in (torch.float32, torch.bfloat16):
        weights = loaded(model, store, digest, dtype).weights
        assert {target: list(pair.parts) for target, pair in weights.items()} == {"q_proj": ["a", "b"]}


def test_biases_count_as_bytes_and_take_no_rank(tmp_path: Path, store: Path) -> None:
    model = make_family(tmp_path / "model", "phi")
    digest = make_adapter(model, store, 0, target_modules=["q_proj"], bias="all")
    adapter = loaded(model, store, digest, torch.bfloat16)
    ranks = {target: pair.rank for target, pair in adapter.weights.items()}
    assert ranks.pop("q_proj") == adapter.rank == 8
    assert ranks == dict.fromkeys(
        ["attention_norm", "last_norm", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj", "lm_head"], 0
    )
    width = 3 * (64 + 4 * 64 + 96 + 64) + 64 + 131
    assert adapter.num_bytes == 4 * width + 2 * 2 * 3 * 64 * 8


@pytest.mark.parametrize("is_packed", [False, True])
def test_biases_are_mapped_as_they_were_read(tmp_path: Path, store: Path, is_packed: bool) -> None:
    model = make_family(tmp_path / "model", "phi")
    digest = make_adapter(model, store, 0, target_modules=["q_proj", "lm_head"], bias="all")
    base = replace(load_base(model, torch.bfloat16), is_packed=is_packed)
    first, again = (load_mapped(store / digest, digest, base, 64) for _ in range(2))
    for target, pair in first.weights.items():
        assert pair.parts.keys() == again.weights[target].parts.keys()
        for name, part in pair.parts.items():
            assert torch.equal(part, again.weights[target].parts[name])
    assert first.num_bytes == again.num_bytes


def test_the_names_of_peft_before_it_wrapped_linears_are_read(tmp_path: Path, store: Path) -> None:
    model = make_family(tmp_path / "model", "qwen2")
    digest = make_adapter(model, store, 0, target_modules=["q_proj"], bias="lora_only")
    expected = loaded(model, store, digest).weights["q_proj"].bias

    def rename(tensors: dict[str, Tensor]) -> None:
        for name in list(tensors):
            tensors[name.replace(".base_layer.bias", ".bias")] = tensors.pop(name)

    bias = loaded(model, store, changed(store, digest, rename)).weights["q_proj"].bias
    assert bias is not None
    assert expected is not None
    assert torch.equal(bias, expected)


LAYER = "base_model.model.model.layers.1"
REFUSALS: list[tuple[str, dict[str, Any], Change, dict[str, Any], str]] = [
    (
        "phi",
        {"bias": "all"},
        lambda tensors: tensors.update({f"{LAYER}.mlp.fc1.bias": torch.zeros(95)}),
        {},
        r"A bias is 95 where model has 96 numbers: model\.layers\.1\.mlp\.fc1",
    ),
    (
        "phi",
        {"bias": "all"},
        lambda tensors: tensors.update({f"{LAYER}.input_layernorm.bias": torch.zeros(2, 32)}),
        {},
        r"A bias is 2×32 where model has 64 numbers: model\.layers\.1\.input_layernorm",
    ),
    (
        "phi",
        {"bias": "all"},
        lambda tensors: tensors.update({"base_model.model.model.layers.3.mlp.fc1.bias": torch.zeros(96)}),
        {},
        r"model has no bias there: model\.layers\.3\.mlp\.fc1",
    ),
    (
        "qwen2",
        {"bias": "all"},
        lambda tensors: tensors.update({f"{LAYER}.self_attn.o_proj.bias": torch.zeros(64)}),
        {},
        r"model has no bias there: model\.layers\.1\.self_attn\.o_proj",
    ),
    (
        "qwen2",
        {"bias": "all"},
        lambda tensors: tensors.update({f"{LAYER}.input_layernorm.bias": torch.zeros(64)}),
        {},
        r"model has no bias there: model\.layers\.1\.input_layernorm",
    ),
    (
        "phi",
        {"bias": "all"},
        lambda tensors: tensors.update({f"{LAYER}.mlp.fc1.bias": torch.full((96,), float("nan"))}),
        {},
        r"These tensors hold NaN or infinity",
    ),
    (
        "qwen2",
        {"lora_bias": True},
        lambda tensors: tensors.update({f"{LAYER}.self_attn.q_proj.lora_B.bias": torch.zeros(63)}),
        {},
        r"lora_B\.bias is 63, not one number for each output: model\.layers\.1\.self_attn\.q_proj",
    ),
    (
        "qwen2",
        {"lora_bias": True},
        lambda tensors: tensors.pop(f"{LAYER}.self_attn.q_proj.lora_B.bias"),
        {},
        r"lora_bias is set, but lora_B\.bias is missing: model\.layers\.1\.self_attn\.q_proj",
    ),
    (
        "qwen2",
        {"lora_bias": True},
        lambda tensors: None,
        {"lora_bias": False},
        r"lora_B\.bias comes without lora_bias: model\.layers\.0\.self_attn\.q_proj",
    ),
    (
        "qwen2",
        {"lora_bias": True},
        lambda tensors: None,
        {"use_dora": True},
        r"lora_bias comes with use_dora, for which PEFT has no arithmetic",
    ),
    (
        "qwen2",
        {"lora_bias": True},
        lambda tensors: tensors.update({"base_model.model.model.embed_tokens.lora_B.bias": torch.zeros(64)}),
        {},
        r"Whole embeddings and heads are shared by all adapters; train a LoRA on them",
    ),
]


@pytest.mark.parametrize(
    ("variant", "options", "change", "config", "sentence"), REFUSALS, ids=[sentence for *_, sentence in REFUSALS]
)
def test_biases_that_cannot_be_served_are_refused_with_their_place(
    tmp_path: Path, store: Path, variant: str, options: Any, change: Change, config: dict[str, Any], sentence: str
) -> None:
    model = make_family(tmp_path / "model", variant)
    digest = changed(store, make_adapter(model, store, 0, target_modules=["q_proj"], **options), change, **config)
    with pytest.raises(AdapterRefused) as caught:
        loaded(model, store, digest)
    assert re.search(sentence, "; ".join(caught.value.reasons))
    architecture = read_architecture(model / "config.json")
    found = examine_files(store / digest / "adapter_config.json", store / digest / WEIGHTS, architecture, 64)
    assert re.search(sentence, "; ".join(found.reasons).replace(model.name, "model"))


def test_biases_that_were_trained_and_not_saved_are_remarked_on(tmp_path: Path, store: Path) -> None:
    model = make_family(tmp_path / "model", "qwen2")
    digest = make_adapter(model, store, 0, target_modules=["q_proj"], bias="lora_only")

    def forget(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if name.endswith(".bias")]:
            del tensors[name]

    folder = store / changed(store, digest, forget)
    architecture = read_architecture(model / "config.json")
    found = examine_files(folder / "adapter_config.json", folder / WEIGHTS, architecture, 64)
    assert found.reasons == []
    assert found.remarks == ("The config says that biases were trained, and the file has none: model's are used.",)
