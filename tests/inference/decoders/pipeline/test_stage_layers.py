"""Who has which layers, and that a stage holds nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import make_model
from staged import load_stage, stages_of

from inference.decoders.native.build import missing_feature
from inference.model.architecture import Architecture, read_architecture
from inference.model.spec import DecoderSpec
from inference.model.stage import Stage, cut
from inference.model.weights import stream_weights

SMOL = Architecture(
    vocab_size=49152,
    hidden_size=576,
    intermediate_size=1536,
    num_layers=30,
    num_heads=9,
    num_kv_heads=3,
    head_dim=64,
    norm_eps=1e-5,
    max_position=8192,
    tied_embeddings=True,
)


def layers(stages: tuple[Stage, ...]) -> list[int]:
    return [stage.end - stage.first for stage in stages]


def test_one_stage_has_all_layers() -> None:
    assert cut(SMOL, 1, 16, 16) == (Stage(0, 30, 30),)


def test_the_last_stage_has_the_fewer_layers_for_its_head() -> None:
    assert layers(cut(SMOL, 2, 16, 16)) == [19, 11]
    assert layers(cut(SMOL, 4, 16, 16)) == [9, 10, 9, 2]


def test_a_head_in_more_bits_than_the_layers_counts_for_more() -> None:
    assert layers(cut(SMOL, 2, 4, 8)) == [23, 7]


@pytest.mark.parametrize("count", range(1, 31))
def test_every_layer_is_in_one_stage_and_no_stage_is_empty(count: int) -> None:
    stages = cut(SMOL, count, 16, 16)
    assert [layer for stage in stages for layer in range(stage.first, stage.end)] == list(range(30))
    assert all(layers(stages))
    assert [stage.is_first for stage in stages] == [True] + [False] * (count - 1)
    assert [stage.is_last for stage in stages] == [False] * (count - 1) + [True]


def test_what_layers_differ_in_goes_with_them() -> None:
    spec = DecoderSpec(windowed=(True, False, True, False, True), turning=(True, True, True, False, True))
    whole = replace(SMOL, num_layers=5, sliding_window=20, spec=spec)
    own = Stage(2, 4, 5).of(whole)
    assert own.num_layers == 2
    assert [own.window(layer) for layer in range(2)] == [20, None]
    assert [own.rope_of(layer) is None for layer in range(2)] == [False, True]


@pytest.mark.parametrize("tied", [True, False])
def test_a_stage_has_the_tensors_of_its_layers_and_no_others(tmp_path: Path, tied: bool) -> None:
    model = make_model(tmp_path / "tiny", num_hidden_layers=3, tie_word_embeddings=tied)
    architecture = read_architecture(model / "config.json")
    whole = stream_weights(model, architecture, torch.float32).held()
    first, middle, last = (
        stream_weights(model, architecture, torch.float32, stage=stage).held() for stage in stages_of([1, 2, 3])
    )
    assert [len(part.layers) for part in (first, middle, last)] == [1, 1, 1]
    for number, part in enumerate((first, middle, last)):
        assert torch.equal(part.layers[0].qkv.weight, whole.layers[number].qkv.weight)
    assert torch.equal(first.embedding, whole.embedding)
    assert torch.equal(last.head.weight, whole.head.weight)
    assert [len(part.embedding) for part in (middle, last)] == [0, 0]
    assert [len(part.head.weight) for part in (first, middle)] == [0, 0]


@pytest.mark.skipif(missing_feature() is not None, reason=f"not here: {missing_feature()}")
def test_so_has_its_native_decoder(tmp_path: Path) -> None:
    model = make_model(tmp_path / "tiny", num_hidden_layers=3, vocab_size=1000)
    decoders = [load_stage(model, "native", torch.float32, stage) for stage in stages_of([1, 2, 3])]
    kept: list[list[Any]] = [decoder._kept for decoder in decoders]  # type: ignore[attr-defined]
    first, middle, last = (sum(part.nbytes for part in parts if isinstance(part, torch.Tensor)) for parts in kept)
    assert first == middle + 1000 * 64 * 4
    assert last == middle + 1008 * 64 * 4
