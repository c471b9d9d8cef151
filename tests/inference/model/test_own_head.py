"""A head that is the embedding, by config.json or by the weights: what transformers makes of it, token by token."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from checkpoints import load_reference, make_model
from passes import Chunk, Passes
from safetensors.torch import load_file, save_file

from inference.decoders.torch.decoder import TorchDecoder
from inference.decoders.torch.lora import LoraBank
from inference.model.architecture import read_architecture
from inference.model.base_weights import BaseWeights
from inference.model.checkpoint import WeightsError
from inference.model.checkpoints import with_own_head
from inference.model.weights import load_weights

TABLE, HEAD = "model.embed_tokens.weight", "lm_head.weight"
IDS = [5, 6, 7, 90, 11]


def model_with(directory: Path, is_tied: bool, *stored: str, same: bool = False) -> Path:
    """A tiny llama of which only `stored` of the two tables is saved, both the `same` or each its own."""
    make_model(directory)
    tensors = load_file(directory / "model.safetensors")
    if same:
        tensors[HEAD] = tensors[TABLE].clone()
    for name in {TABLE, HEAD} - set(stored):
        del tensors[name]
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    config = json.loads((directory / "config.json").read_text()) | {"tie_word_embeddings": is_tied}
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def ours(directory: Path) -> torch.Tensor:
    architecture = read_architecture(directory / "config.json")
    passes = Passes(TorchDecoder(architecture, load_weights(directory, architecture, torch.float32), LoraBank()))
    return passes.run(Chunk(passes.sequence(), IDS))[0]


@pytest.mark.parametrize(
    ("stored", "same", "is_told"),
    [((TABLE,), False, False), ((HEAD,), False, False), ((TABLE, HEAD), True, False), ((TABLE, HEAD), False, True)],
    ids=["the embedding alone", "the head alone", "both, the same", "both, each its own"],
)
def test_a_tied_model_has_the_tables_that_transformers_takes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, stored: tuple[str, ...], same: bool, is_told: bool
) -> None:
    directory = model_with(tmp_path, True, *stored, same=same)
    with torch.inference_mode():
        wanted = load_reference(directory)(torch.tensor([IDS])).logits[0]
    with caplog.at_level(logging.WARNING):
        torch.testing.assert_close(ours(directory), wanted, atol=1e-4, rtol=0)
    assert ("has a head of its own, which is taken" in caplog.text) is is_told


def test_who_reads_adapters_has_the_same_head(tmp_path: Path) -> None:
    directory = model_with(tmp_path, True, TABLE, HEAD)
    architecture = with_own_head(directory, read_architecture(directory / "config.json"))
    assert not architecture.tied_embeddings
    read = BaseWeights(directory, architecture, torch.float32).read("lm_head", 0)
    assert torch.equal(read, load_file(directory / "model.safetensors")[HEAD])


def test_an_untied_model_without_a_head_is_refused_with_what_would_work(tmp_path: Path) -> None:
    directory = model_with(tmp_path, False, TABLE)
    with pytest.raises(WeightsError, match=r"has no tensor 'lm_head\.weight', .*; say true there if its embedding is"):
        ours(directory)
