"""Adapters in the native decoder's order: the same numbers, packed once and never moved again."""

from __future__ import annotations

import pytest
import torch

from inference.adapters.composition import compose
from inference.adapters.file import HostAdapter
from inference.adapters.identity import composed_digest
from inference.adapters.packed_lora import pack_adapter, unpack
from inference.adapters.weights import AdapterWeights, TargetWeights
from inference.decoders.native.bank import NativeBank
from inference.decoders.native.library import TARGETS

WIDTHS = {"q_proj": (32, 48), "embed_tokens": (37, 32), "lm_head": (32, 37)}


def make_weights(seed: int, rank: int, has_scale: bool = False) -> AdapterWeights:
    """Pairs of `rank` and the padding to 8, one of each kind of target."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for target, (width_in, width_out) in WIDTHS.items():
        num_layers = 3 if target == "q_proj" else 1
        a, b = torch.zeros(num_layers, width_in, 8), torch.zeros(num_layers, 8, width_out)
        a[:, :, :rank] = torch.randn(num_layers, width_in, rank, generator=generator)
        b[:, :rank] = torch.randn(num_layers, rank, width_out, generator=generator)
        scale = torch.rand(num_layers, width_out, generator=generator) if has_scale else None
        weights[target] = TargetWeights(a.bfloat16(), b.bfloat16(), scale)
    return weights


def addresses(weights: AdapterWeights) -> list[int]:
    return [
        tensor.data_ptr() for pair in weights.values() for tensor in (pair.a, pair.b, pair.scale) if tensor is not None
    ]


@pytest.mark.parametrize("target", WIDTHS)
def test_what_is_unpacked_is_what_was_packed(target: str) -> None:
    pair = make_weights(1, 8, has_scale=True)[target]
    packed = pack_adapter({target: pair})[target]
    again = unpack(packed)
    width = pair.b.shape[2]
    assert packed.b.shape[2] % 16 == 0
    assert torch.equal(again.a, pair.a)
    assert torch.equal(again.b[:, :, :width], pair.b)
    assert not again.b[:, :, width:].any()
    assert pair.scale is not None
    assert again.scale is not None
    assert torch.equal(again.scale[:, :width], pair.scale)
    assert (again.rank, packed.rank, unpack(pair)) == (8, 8, pair)


@pytest.mark.parametrize(("dtype", "first"), [(torch.bfloat16, [0, 10, 1, 11]), (torch.float32, [0, 1, 2, 3])])
def test_as_many_ranks_of_an_output_lie_side_by_side_as_are_multiplied_at_once(
    dtype: torch.dtype, first: list[int]
) -> None:
    a, b = torch.arange(8.0).expand(1, 4, 8), torch.arange(80.0).view(1, 8, 10)
    packed = pack_adapter({"q_proj": TargetWeights(a.to(dtype), b.to(dtype))})["q_proj"]
    assert packed.b.flatten().tolist()[:4] == first
    assert packed.a.transpose(1, 2).flatten().tolist()[:8] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert packed.a.transpose(1, 2).is_contiguous()


def test_what_is_packed_is_pointed_at_where_it_lies() -> None:
    packed = pack_adapter(make_weights(2, 8, has_scale=True))
    bank = NativeBank(1)
    assert addresses(bank.prepare(packed)) == addresses(packed)
    bank.put(0, packed)
    views = [bank.views[0].contents.targets[TARGETS.index(target)] for target in packed]
    assert [place for view in views for place in (view.a, view.b, view.scale)] == addresses(packed)


@pytest.mark.parametrize("rank", [3, 8])
def test_a_sum_of_packed_adapters_is_the_packed_sum(rank: int) -> None:
    weights = [make_weights(seed, rank) for seed in (3, 4)]
    digest = composed_digest([("a", 0.5), ("b", 2.0)])

    def add(parts: list[AdapterWeights]) -> AdapterWeights:
        hosts = [HostAdapter(name, part, rank, 0) for name, part in zip("ab", parts, strict=True)]
        return pack_adapter(compose(digest, list(zip(hosts, (0.5, 2.0), strict=True)), 64).weights)

    for one, other in zip(add([pack_adapter(part) for part in weights]).values(), add(weights).values(), strict=True):
        assert torch.equal(one.a, other.a)
        assert torch.equal(one.b, other.b)
