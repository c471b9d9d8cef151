"""The file that an adapter is mapped from: written once, and made anew when anything behind it has changed."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import load_base, make_adapter
from safetensors.torch import load_file, save_file

from inference.adapters import mapped
from inference.adapters.file import AdapterRefused, Base, read_adapter
from inference.adapters.mapped import load_mapped
from inference.adapters.weights import AdapterWeights
from inference.engine.loading import AdapterLoader
from inference.wire.protocol import Component, GateRef


@pytest.fixture(scope="module", params=[False, True], ids=["in order", "packed"])
def base(request: pytest.FixtureRequest, tiny_model: Path) -> Base:
    return dataclasses.replace(load_base(tiny_model, torch.bfloat16), is_packed=request.param)


@pytest.fixture(params=[False, True], ids=["plain", "dora"])
def folder(request: pytest.FixtureRequest, tiny_model: Path, store: Path) -> Path:
    targets = ["q_proj", "down_proj", "embed_tokens", "lm_head"]
    return store / make_adapter(tiny_model, store, target_modules=targets, use_dora=request.param)


def forbid_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: Any) -> None:
        raise AssertionError("the adapter was read again")

    monkeypatch.setattr(mapped, "read_adapter", read)


def assert_same(weights: AdapterWeights, expected: AdapterWeights) -> None:
    assert list(weights) == list(expected)
    for target, pair in expected.items():
        for side in ("a", "b", "scale"):
            mine, other = getattr(weights[target], side), getattr(pair, side)
            assert (mine is None) == (other is None)
            assert mine is None or (mine.dtype == other.dtype and torch.equal(mine, other)), (target, side)


def mapped_file(folder: Path) -> Path:
    (path,) = [file for file in folder.iterdir() if "mapped" in file.name]
    return path


def test_a_second_load_maps_what_the_first_has_read(folder: Path, base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = read_adapter(folder, folder.name, base, 64)
    assert_same(load_mapped(folder, folder.name, base, 64).weights, expected.weights)
    forbid_reading(monkeypatch)
    again = load_mapped(folder, folder.name, base, 64)
    assert_same(again.weights, expected.weights)
    assert (again.digest, again.rank, again.num_bytes) == (expected.digest, expected.rank, expected.num_bytes)
    assert mapped_file(folder).name == ("mapped.bfloat16.packed" if base.is_packed else "mapped.bfloat16")


def test_a_mapped_adapter_outlives_its_files(folder: Path, base: Base) -> None:
    load_mapped(folder, folder.name, base, 64)
    expected = read_adapter(folder, folder.name, base, 64)
    mapped = load_mapped(folder, folder.name, base, 64)
    for path in folder.iterdir():
        path.unlink()
    assert_same(mapped.weights, expected.weights)


def test_an_adapter_changed_behind_its_mapped_file_is_refused(folder: Path, base: Base) -> None:
    load_mapped(folder, folder.name, base, 64)
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    next(iter(tensors.values())).add_(1)
    save_file(tensors, path)
    with pytest.raises(AdapterRefused, match="changed since it was imported"):
        load_mapped(folder, folder.name, base, 64)


def flip_last_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        flip_last_byte,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:100]),
        lambda path: path.write_bytes(b"\xff" * 64),
        lambda path: path.write_bytes(bytes(64)),
        lambda path: path.write_bytes(b"\x02" + bytes(7) + b"[]"),
    ],
)
def test_a_damaged_mapped_file_is_made_anew(folder: Path, base: Base, damage: Callable[[Path], Any]) -> None:
    load_mapped(folder, folder.name, base, 64)
    sound = mapped_file(folder).read_bytes()
    damage(mapped_file(folder))
    assert_same(load_mapped(folder, folder.name, base, 64).weights, read_adapter(folder, folder.name, base, 64).weights)
    assert mapped_file(folder).read_bytes() == sound


def test_another_format_or_another_base_makes_the_file_anew(
    folder: Path, base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_mapped(folder, folder.name, base, 64)
    first = mapped_file(folder).read_bytes()
    load_mapped(folder, folder.name, dataclasses.replace(base, identity="another"), 64)
    second = mapped_file(folder).read_bytes()
    monkeypatch.setattr(mapped, "FORMAT", mapped.FORMAT + 1)
    load_mapped(folder, folder.name, base, 64)
    assert len({first, second, mapped_file(folder).read_bytes()}) == 3


def test_each_type_and_order_has_a_file_of_its_own(folder: Path, base: Base, tiny_model: Path) -> None:
    for other in (base, dataclasses.replace(base, is_packed=not base.is_packed), load_base(tiny_model, torch.float32)):
        for _ in range(2):
            pair = load_mapped(folder, folder.name, other, 64).weights["q_proj"]
            assert (pair.a.dtype, pair.b.dim() == 4) == (other.dtype, other.is_packed)
    assert len([path for path in folder.iterdir() if "mapped" in path.name]) == 3


def test_a_mapped_adapter_above_a_lowered_rank_is_refused(folder: Path, base: Base) -> None:
    load_mapped(folder, folder.name, base, 64)
    with pytest.raises(AdapterRefused, match="r is 8; it must be a whole number from 1 to 4"):
        load_mapped(folder, folder.name, base, 4)


def test_an_adapter_whose_file_cannot_be_written_is_served(
    folder: Path, base: Base, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(source: str, target: Path) -> None:
        raise OSError(28, "No space left on device")

    names = sorted(folder.iterdir())
    monkeypatch.setattr(os, "replace", full)
    adapter = load_mapped(folder, folder.name, base, 64)
    assert_same(adapter.weights, read_adapter(folder, folder.name, base, 64).weights)
    assert sorted(folder.iterdir()) == names
    assert "No space left" in caplog.text


def test_loading_leaves_the_other_threads_their_cores() -> None:
    before = torch.get_num_threads()
    seen: list[int] = []

    def load(digest: str, components: tuple[Component, ...], gate: GateRef | None) -> Any:
        seen.append(torch.get_num_threads())
        raise FileNotFoundError(digest)

    loader = AdapterLoader(load)
    loader.want("a")
    loader.poll(10)
    loader.close()
    assert seen == [1]
    assert torch.get_num_threads() == before
