"""Every family of bases on the decoder for a GPU, in Triton's interpreter, against the decoder of torch: the base and
an adapter on every linear in one batch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="the kernels need the package triton")

from inference.adapters.slots import LoraSlots
from inference.adapters.store import AdapterStore
from inference.decoders.contract import Decoder
from inference.decoders.gpu import decoder as gpu_decoder
from inference.decoders.gpu import step
from inference.decoders.gpu.bank import SlotBank
from inference.decoders.gpu.decoder import TritonDecoder, unsupported_on_gpu
from inference.decoders.torch.decoder import TorchDecoder
from inference.decoders.torch.lora import LoraBank
from inference.model.architecture import read_architecture
from inference.model.linear import Int4Linear, Int8Linear
from inference.model.spec import EMBEDDING, HEAD, TARGETS
from inference.model.weights import load_weights
from tests.inference.checkpoints import load_base, make_adapter
from tests.inference.families import VARIANTS, load_family, make_family
from tests.inference.passes import Chunk, Passes, Sequence, answer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        torch.cuda.is_available(), reason="the kernels are compiled here; test_on_a_device.py tests them"
    ),
]
CONTEXT, NUM_TOKENS = 128, 2
TEXTS = [list(range(60, 83)), list(range(37))]
"""Longer than every window."""
ADAPTERS: list[dict[str, Any]] = [
    {"target_modules": "all-linear", "trainable_token_indices": [3, 41, 43, 48]},
    {
        "target_modules": [*TARGETS, "qkv_proj", "gate_up_proj", "dense", "fc1", "fc2", EMBEDDING, HEAD],
        "use_dora": True,
    },
]
"""A family's variants have the one and the other in turn."""
PROMPTED = ("olmo2", "phi, normed heads, grouped, GELU", "gemma2, low caps", "glm4")
"""Families that between them do all that there is to a prompt's rows."""

BIASES: list[tuple[str, dict[str, Any]]] = [
    ("qwen2", {"target_modules": ["v_proj", "up_proj"], "lora_bias": True}),
    ("phi, normed heads, grouped, GELU", {"target_modules": ["q_proj", "fc2", HEAD], "bias": "all", "use_dora": True}),
    ("stablelm", {"target_modules": "all-linear", "bias": "all"}),
]
"""Of B, of linears that have no pair too, and of norms of rows and of heads, of one block and of two."""


@dataclass(frozen=True)
class World:
    """A model and, in a store, an adapter by its digest."""

    model: Path
    store: Path
    digest: str


def layers(count: int, variant: str) -> dict[str, Any]:
    """What makes so many layers, the first ones of those that the variant tells apart."""
    by_layer = {"layer_types", "no_rope_layers"} & VARIANTS[variant][1].keys()
    return {
        "num_hidden_layers": count,
        **{name: (VARIANTS[variant][1][name] or [])[:count] or None for name in by_layer},
    }


def make_world(directory: Path, variant: str, num_layers: int = 2) -> World:
    model, store = make_family(directory / "model", variant, **layers(num_layers, variant)), directory / "adapters"
    store.mkdir()
    return World(model, store, make_adapter(model, store, 0, 0.1, **ADAPTERS[list(VARIANTS).index(variant) % 2]))


def make_triton(model: Path, is_deterministic: bool = False, quantization: str = "none") -> TritonDecoder:
    architecture = read_architecture(model / "config.json").within(CONTEXT)
    assert unsupported_on_gpu(architecture) is None
    weights = load_weights(model, architecture, torch.float32, quantization=quantization)
    return TritonDecoder(architecture, weights, SlotBank(1, 64, torch.device("cpu")), len(TEXTS), is_deterministic)


def slots_of(world: World, decoder: Decoder) -> list[int]:
    """The base and the adapter."""
    slot = LoraSlots(1, AdapterStore(world.store, load_base(world.model)).load, decoder.bank).acquire(world.digest)
    assert slot is not None
    return [-1, slot]


def prompted(world: World) -> tuple[Passes, list[Sequence], list[int]]:
    """Torch's decoder that has read `TEXTS`, each for another slot, and the first tokens of its answers."""
    passes = Passes(load_family(world.model), num_blocks=32)
    sequences = [passes.sequence(slot) for slot in slots_of(world, passes.decoder)]
    rows = passes.run(*(Chunk(one, text) for one, text in zip(sequences, TEXTS, strict=True)))
    return passes, sequences, [int(row[-1].argmax()) for row in rows]


def beside(passes: Passes, decoder: TritonDecoder) -> Passes:
    """`decoder` over a copy of what `passes` have in their cache."""
    other = Passes(decoder, num_blocks=passes.num_blocks)
    for mine, theirs in zip(
        other.cache.keys + other.cache.values, passes.cache.keys + passes.cache.values, strict=True
    ):
        mine.copy_(theirs)
    return other


def decoded(passes: Passes, sequences: list[Sequence], tokens: list[int]) -> Tensor:
    """Logits [texts, tokens, vocab] of what greedily follows `tokens`."""
    sequences, steps = [Sequence(one.blocks, one.slot, one.length) for one in sequences], []
    for _ in range(NUM_TOKENS):
        chunks = (Chunk(one, [token], False) for one, token in zip(sequences, tokens, strict=True))
        steps.append(torch.cat(passes.run(*chunks)))
        tokens = steps[-1].argmax(-1).tolist()
    return torch.stack(steps, dim=1)


def expect_near(logits: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
    assert logits.argmax(-1).tolist() == expected.argmax(-1).tolist()


@pytest.mark.cell("full", "Triton")
@pytest.mark.cell("adapters", "Triton")
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_family_decodes_as_torch_does(tmp_path: Path, variant: str) -> None:
    world = make_world(tmp_path, variant)
    passes, sequences, tokens = prompted(world)
    decoder = make_triton(world.model)
    assert slots_of(world, decoder) == [one.slot for one in sequences]
    ours = decoded(beside(passes, decoder), sequences, tokens)
    expect_near(ours, decoded(passes, sequences, tokens))


@pytest.mark.parametrize("variant", PROMPTED)
def test_prompts_of_these_families_are_read_as_torch_reads_them(tmp_path: Path, variant: str) -> None:
    world = make_world(tmp_path, variant, 1)
    told = []
    for decoder in (make_triton(world.model), load_family(world.model)):
        told.append(answer(Passes(decoder), TEXTS[:1], slots_of(world, decoder)[1:], 1)[0])
    expect_near(*told)


@pytest.mark.cell("biases", "Triton")
@pytest.mark.parametrize(("variant", "adapter"), BIASES)
def test_biases_of_adapters_are_added_as_torch_adds_them(
    tmp_path: Path, store: Path, variant: str, adapter: dict[str, Any]
) -> None:
    model = make_family(tmp_path / "model", variant, **layers(1, variant))
    world, told = World(model, store, make_adapter(model, store, 0, 0.1, **adapter)), []
    for decoder in (make_triton(model), load_family(model)):
        base, slot = slots_of(world, decoder)
        passes = Passes(decoder)
        prompt, others = Chunk(passes.sequence(slot), TEXTS[0]), (passes.sequence(number) for number in (base, slot))
        told.append(torch.cat(passes.run(prompt, *(Chunk(one, [number], False) for number, one in enumerate(others)))))
    expect_near(*told)


@pytest.mark.parametrize(("quantization", "kind"), [("int8", Int8Linear), ("int4", Int4Linear)])
def test_a_base_in_few_bits_decodes_as_its_expanded_weights_do(
    tmp_path: Path, quantization: str, kind: type[Int8Linear | Int4Linear]
) -> None:
    world = make_world(tmp_path, "phi")
    decoder = make_triton(world.model, quantization=quantization)
    linears = [linear for layer in decoder.weights.layers for linear in vars(layer).values() if callable(linear)]
    linears.append(decoder.weights.head)
    assert {type(linear) for linear in linears} == {kind, Int8Linear}, "a head has 8 bits at least"
    for linear in linears:
        linear.quantizes_rows = False
    told = []
    for each in (decoder, TorchDecoder(decoder.architecture, decoder.weights, LoraBank())):
        passes, slots = Passes(each), slots_of(world, each)
        rows = passes.run(*(Chunk(passes.sequence(slot), [7, slot + 5], False) for slot in slots))
        told.append(torch.cat(rows))
    expect_near(*told)


def test_a_row_has_the_same_bits_in_any_company_where_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (step, gpu_decoder):
        monkeypatch.setattr(module, "PANEL", 4)
    world = make_world(tmp_path, "phi, normed heads, grouped, GELU")
    passes, sequences, tokens = prompted(world)
    decoder = make_triton(world.model, is_deterministic=True)
    slots_of(world, decoder)
    together = decoded(beside(passes, decoder), sequences, tokens)
    for row, (sequence, token) in enumerate(zip(sequences, tokens, strict=True)):
        (alone,) = decoded(beside(passes, decoder), [sequence], [token])
        assert torch.equal(alone, together[row])
