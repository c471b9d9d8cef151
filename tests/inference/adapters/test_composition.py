"""Adding adapters up: who is refused, what is kept, and that a sum's identity is its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from engines import drain, make_reading_engine, make_tokenizer

from inference.adapters.composition import compose
from inference.adapters.file import AdapterRefused, HostAdapter
from inference.adapters.identity import composed_digest
from inference.adapters.store import AdapterCache
from inference.adapters.weights import TargetWeights
from inference.wire.protocol import AdapterRef, Component, Generate, Sampling, decode, encode


def adapter(digest: str, rank: int = 3, targets: tuple[str, ...] = ("q_proj",), is_dora: bool = False) -> HostAdapter:
    """Ones in `rank` columns of 8, and padding that would be noticed."""
    a, b = torch.full((2, 4, 8), 9.0), torch.full((2, 8, 4), 9.0)
    a[:, :, :rank], b[:, :rank] = 1.0, 1.0
    pair = TargetWeights(a, b, torch.ones(2, 4) if is_dora else None)
    return HostAdapter(digest, dict.fromkeys(targets, pair), rank, 100)


def add(*parts: tuple[HostAdapter, float], max_rank: int = 64) -> HostAdapter:
    return compose(composed_digest((part.digest, weight) for part, weight in parts), list(parts), max_rank)


def test_ranks_lie_side_by_side_without_their_old_padding() -> None:
    total = add((adapter("a"), 0.5), (adapter("b", 6), -2.0))
    pair = total.weights["q_proj"]
    assert (total.rank, pair.a.shape, pair.b.shape) == (9, (2, 4, 16), (2, 16, 4))
    assert pair.a[0, 0].tolist() == [1] * 9 + [0] * 7
    assert pair.b[0, :, 0].tolist() == [0.5] * 3 + [-2] * 6 + [0] * 7
    assert total.num_bytes == pair.a.nbytes + pair.b.nbytes


def test_a_target_of_one_adapter_alone_is_in_the_sum() -> None:
    total = add((adapter("a"), 1.0), (adapter("b", targets=("v_proj",)), 1.0))
    assert {target: pair.rank for target, pair in total.weights.items()} == {"q_proj": 8, "v_proj": 8}


@pytest.mark.parametrize(
    ("parts", "named"),
    [
        ([(adapter("a", is_dora=True), 1.0), (adapter("b"), 1.0)], "a is a DoRA"),
        ([(adapter("a", 5), 1.0), (adapter("b", 6), 1.0)], "add up to 11, above 10"),
        ([(adapter("a"), 3e38), (adapter("b"), float("inf"))], "overflow"),
    ],
)
def test_adapters_that_cannot_be_added_are_refused(parts: list[tuple[HostAdapter, float]], named: str) -> None:
    with pytest.raises(AdapterRefused, match=named):
        add(*parts, max_rank=10)


def test_a_sum_under_a_foreign_identity_is_refused() -> None:
    with pytest.raises(AdapterRefused, match="not the identity"):
        compose(composed_digest([("a", 0.5)]), [(adapter("a"), 0.6)], 64)


def test_the_identity_of_a_sum_follows_its_digests_weights_and_order() -> None:
    sums = [(("a", 1.0), ("b", 2.0)), (("b", 2.0), ("a", 1.0)), (("a", 1.0),), (("a", 1.0), ("b", 2.5))]
    assert len({composed_digest(parts) for parts in sums}) == 4
    assert composed_digest([("a", 1)]) == composed_digest([("a", 1.0)])


def test_a_sum_and_its_parts_are_kept_in_host_memory() -> None:
    loads: list[str] = []

    def load(digest: str) -> HostAdapter:
        loads.append(digest)
        return adapter(digest)

    cache = AdapterCache(load, max_bytes=10_000)
    components = (Component("a", 0.5), Component("b", 2.0))
    digest = composed_digest((part.digest, part.weight) for part in components)
    assert cache.load(digest, components) is cache.load(digest, components)
    cache.load("a")
    assert (loads, sorted(cache.digests)) == (["a", "b"], sorted(["a", "b", digest]))


def ask(digest: str, *components: Component) -> Generate:
    return Generate("one", AdapterRef(digest, components=components), prompt="hi", sampling=Sampling(max_tokens=2))


def test_the_wire_carries_a_sum_and_reads_entries_from_before_there_were_any() -> None:
    request = ask("d", Component("a", 0.5), Component("b"))
    assert decode(encode(request)) == request
    old = '{"kind":"generate","id":"one","adapter":{"digest":"d","template":"","fields":[]},"prompt":"hi"}'
    assert decode(old).adapter.components == ()


def test_an_engine_answers_with_a_sum_and_names_the_part_that_is_missing(tmp_path: Path) -> None:
    engine = make_reading_engine(make_tokenizer(tmp_path))
    for names, failure in ((("a", "b"), ""), (("a", "missing"), "missing")):
        components = tuple(Component(name, 0.5) for name in names)
        digest = composed_digest((part.digest, part.weight) for part in components)
        engine.add(ask(digest, *components))
        record = drain(engine)["one"]
        if failure:
            assert "The adapter missing is not stored" in record.failed.error
        else:
            assert record.finished.stats.digest == digest
    engine.close()
