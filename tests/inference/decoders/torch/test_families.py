"""Every family of bases against transformers, and its rows against the company they keep."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from checkpoints import load_reference
from passes import Chunk, Passes, answer
from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3TextConfig

from inference.decoders.torch.decoder import TorchDecoder
from tests.inference.checkpoints import TINY
from tests.inference.families import NO_ENDS, VARIANTS, load_family, make_family
from tests.inference.rounding import check_rounding

PROMPT_LENGTH, ANSWER_LENGTH = 71, 9


def tokens(count: int, seed: int = 0, vocab: int = 131) -> list[int]:
    return torch.randint(0, vocab, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def replied(decoder: TorchDecoder, prompt: list[int], length: int = ANSWER_LENGTH) -> tuple[torch.Tensor, list[int]]:
    """Logits [prompt and answer, vocab] of `prompt` and what is greedily answered, and the answer."""
    passes = Passes(decoder)
    sequence = passes.sequence()
    rows, reply = passes.run(Chunk(sequence, prompt)), []
    for _ in range(length):
        reply.append(int(rows[-1][-1].argmax()))
        rows += passes.run(Chunk(sequence, reply[-1:], False))
    return torch.cat(rows), reply


@pytest.mark.cell("full", "torch")
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_family_equals_transformers_token_by_token(tmp_path: Path, variant: str) -> None:
    directory = make_family(tmp_path, variant)
    prompt = tokens(PROMPT_LENGTH)
    logits, reply = replied(load_family(directory), prompt)
    with torch.no_grad():
        expected = load_reference(directory)(torch.tensor([prompt + reply])).logits[0]
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
    assert reply == expected[PROMPT_LENGTH - 1 : -1].argmax(-1).tolist()


def test_gemma_3_reads_its_text_alone_where_it_was_published_with_pictures(tmp_path: Path) -> None:
    text = Gemma3TextConfig(**{**TINY, **NO_ENDS, **VARIANTS["gemma3"][1]})
    pictures = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Gemma3Config(text_config=text, vision_config=pictures, mm_tokens_per_image=4)
    model = Gemma3ForConditionalGeneration(config).eval()
    model.save_pretrained(tmp_path)
    prompt = tokens(PROMPT_LENGTH)
    logits, reply = replied(load_family(tmp_path), prompt)
    with torch.no_grad():
        expected = model(torch.tensor([prompt + reply])).logits[0]
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)


@pytest.mark.cell("bfloat16", "torch")
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_family_rounds_to_bfloat16_as_transformers_does(tmp_path: Path, variant: str) -> None:
    directory = make_family(tmp_path, variant)
    texts = [tokens(length, length) for length in (67, 71)]
    logits, replies = answer(Passes(load_family(directory, torch.bfloat16)), texts, [-1, -1], ANSWER_LENGTH)
    check_rounding(directory, texts, replies, logits)


@pytest.mark.cell("bits", "torch")
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_row_of_every_family_is_bitwise_the_same_in_any_company(tmp_path: Path, variant: str) -> None:
    decoder = load_family(make_family(tmp_path, variant), torch.bfloat16)
    texts = [tokens(length, length) for length in (45, 7, 33)]
    together, _ = answer(Passes(decoder), texts, [-1] * 3, 4)
    alone, _ = answer(Passes(decoder), texts[:1], [-1], 4)
    assert torch.equal(together[0], alone[0])
