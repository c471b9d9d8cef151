"""The decoder against transformers, and each row against the company it keeps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from checkpoints import load_decoder, load_reference, make_model
from passes import Chunk, Passes
from torch import Tensor

from inference.decoders.torch.decoder import TorchDecoder
from tests.inference.families import LLAMA3, YARN

PROMPT_LENGTH, ANSWER_LENGTH = 71, 9
VARIANTS = {
    "llama": ("llama", {}),
    "llama, one key head": ("llama", {"num_key_value_heads": 1}),
    "llama, tied": ("llama", {"tie_word_embeddings": True}),
    "llama, wide heads": ("llama", {"head_dim": 32}),
    "llama, linear rope": ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}),
    "llama, dynamic rope": ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}),
    "llama, llama3 rope": ("llama", {"rope_parameters": LLAMA3}),
    "llama, yarn rope": ("llama", {"rope_parameters": YARN}),
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral, window": ("mistral", {"sliding_window": 20}),
    "mistral, window of a block, tied": ("mistral", {"sliding_window": 16, "tie_word_embeddings": True}),
}


def tokens(count: int, seed: int = 0, vocab: int = 131) -> list[int]:
    return torch.randint(0, vocab, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.mark.parametrize("block_size", [16, 32])
@pytest.mark.parametrize("variant", VARIANTS)
def test_prefill_and_decode_equal_transformers(tmp_path: Path, variant: str, block_size: int) -> None:
    kind, overrides = VARIANTS[variant]
    directory = make_model(tmp_path, kind, **overrides)
    ids = tokens(PROMPT_LENGTH + ANSWER_LENGTH)
    passes = Passes(load_decoder(directory), block_size=block_size)
    sequence = passes.sequence()
    rows = passes.run(Chunk(sequence, ids[:PROMPT_LENGTH]))
    rows += [passes.run(Chunk(sequence, [token], False))[0] for token in ids[PROMPT_LENGTH:]]
    with torch.no_grad():
        expected = load_reference(directory)(torch.tensor([ids])).logits[0]
    torch.testing.assert_close(torch.cat(rows), expected, atol=1e-4, rtol=0)


def test_a_window_changes_the_logits(tmp_path: Path) -> None:
    ids = tokens(PROMPT_LENGTH)
    narrow = Passes(load_decoder(make_model(tmp_path / "narrow", "mistral", sliding_window=20)))
    wide = Passes(load_decoder(make_model(tmp_path / "wide", "mistral", sliding_window=None)))
    (seen,) = narrow.run(Chunk(narrow.sequence(), ids))
    (all_seen,) = wide.run(Chunk(wide.sequence(), ids))
    assert torch.equal(seen[:16], all_seen[:16])
    assert not torch.allclose(seen[-1], all_seen[-1], atol=1e-2)


@pytest.fixture(scope="module", params=[torch.bfloat16, torch.float32], ids=["bfloat16", "float32"])
def decoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TorchDecoder:
    """A model with the widths of the default base, where kernels do differ by the number of rows."""
    directory = make_model(
        tmp_path_factory.mktemp("wide"),
        hidden_size=576,
        intermediate_size=1536,
        num_attention_heads=9,
        num_key_value_heads=3,
        num_hidden_layers=2,
        initializer_range=0.05,
    )
    return load_decoder(directory, request.param)


def alone(decoder: TorchDecoder, prompt: list[int], reply: list[int]) -> Tensor:
    """Logits of every row of a sequence that has the machine to itself."""
    passes = Passes(decoder)
    sequence = passes.sequence()
    rows = passes.run(Chunk(sequence, prompt))
    return torch.cat(rows + [passes.run(Chunk(sequence, [token], False))[0] for token in reply])


@pytest.mark.slow
def test_a_row_is_bitwise_the_same_in_any_company(decoder: TorchDecoder) -> None:
    lengths = [45, 1, 32, 64, 33, 7, 90, 20, 31, 50, 12, 77, 64, 5, 40, 3, 61, 28, 96]
    prompts = [tokens(length, seed) for seed, length in enumerate(lengths)]
    replies = [tokens(4, 100 + seed) for seed in range(len(lengths))]
    passes = Passes(decoder)
    sequences = [passes.sequence() for _ in prompts]
    rows = [[row] for row in passes.run(*map(Chunk, sequences, prompts))]
    for step in range(4):
        chunks = [Chunk(one, [reply[step]], False) for one, reply in zip(sequences, replies, strict=True)]
        for kept, row in zip(rows, passes.run(*chunks), strict=True):
            kept.append(row)
    for prompt, reply, kept in list(zip(prompts, replies, rows, strict=True))[::3]:
        assert torch.equal(torch.cat(kept), alone(decoder, prompt, reply))


@pytest.mark.slow
def test_a_row_is_bitwise_the_same_with_any_chunk_size(decoder: TorchDecoder) -> None:
    prompt, reply = tokens(90), tokens(6, 1)
    passes = Passes(decoder)
    sequence, other = passes.sequence(), passes.sequence()
    rows = [passes.run(Chunk(sequence, prompt[at : at + 32]))[0] for at in (0, 32, 64)]
    passes.run(Chunk(other, tokens(33, 2)))
    for token in reply:
        row, _ = passes.run(Chunk(sequence, [token], False), Chunk(other, [token], False))
        rows.append(row)
    assert torch.equal(torch.cat(rows), alone(decoder, prompt, reply))


@pytest.mark.slow
def test_replayed_tokens_in_one_pass_give_the_bits_of_one_at_a_time(decoder: TorchDecoder) -> None:
    prompt, reply = tokens(40), tokens(20, 1)
    passes = Passes(decoder)
    sequence = passes.sequence()
    rows = passes.run(Chunk(sequence, prompt)) + passes.run(Chunk(sequence, reply, False))
    assert torch.equal(torch.cat(rows), alone(decoder, prompt, reply))


def test_decode_rows_and_tiles_share_a_pass(decoder: TorchDecoder) -> None:
    prompt, reply = tokens(40), tokens(3, 1)
    passes = Passes(decoder)
    sequence = passes.sequence()
    rows = passes.run(Chunk(sequence, prompt))
    for seed, token in enumerate(reply):
        newcomer = Chunk(passes.sequence(), tokens(50, seed))
        rows.append(passes.run(newcomer, Chunk(sequence, [token], False))[1])
    assert torch.equal(torch.cat(rows), alone(decoder, prompt, reply))


def test_what_another_sequence_left_in_a_block_has_no_effect(decoder: TorchDecoder) -> None:
    prompt, reply = tokens(37), tokens(3, 1)
    passes = Passes(decoder)
    for cache in passes.cache.keys + passes.cache.values:
        cache.fill_(float("nan"))
    sequence = passes.sequence()
    rows = passes.run(Chunk(sequence, prompt))
    rows += [passes.run(Chunk(sequence, [token], False))[0] for token in reply]
    assert torch.equal(torch.cat(rows), alone(decoder, prompt, reply))


def test_no_sample_rows_give_no_logits(tiny_model: Path) -> None:
    passes = Passes(load_decoder(tiny_model))
    batch, _ = passes.batch(Chunk(passes.sequence(), tokens(3)))
    object.__setattr__(batch, "sample_rows", torch.tensor([], dtype=torch.int64))
    assert passes.decoder.forward(batch, passes.cache).shape == (0, 131)
