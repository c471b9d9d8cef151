"""The masks of a guide, beside what a slow reading of the same constraint allows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import regex

from inference.model.tokenizer import Tokenizer
from inference.structured.grammar import ConstraintRefused
from inference.structured.guide import Guide, Guides
from inference.wire.protocol import Constraint
from tests.inference.engines import make_tokenizer

CHOICES = ["yes", "yesterday", "nö", "no way", "日本"]
REGEXES = [r"[ab]{2,4}c?", r"[0-9]+(\.[0-9]{1,2})?", r"(foo|fob) (ü|🙂)*!", r'"[a-z ü]{0,5}"']


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer(make_tokenizer(tmp_path_factory.mktemp("bytes")))


@pytest.fixture(scope="module")
def guides(tokenizer: Tokenizer) -> Iterator[Guides]:
    guides = Guides(tokenizer)
    yield guides
    guides.close()


def allowed(guide: Guide, tokenizer: Tokenizer) -> set[int]:
    (mask,) = guide.masks()
    return set(np.flatnonzero(mask.allowed(tokenizer.vocab_size)).tolist())


def expected(
    tokenizer: Tokenizer, begins: Callable[[bytes], bool], is_whole: Callable[[bytes], bool], said: bytes
) -> set[int]:
    """Every token tried by itself: one that begins something allowed, or the end where that is whole."""
    plain = {id for id in range(tokenizer.vocab_size) if (data := tokenizer.token_bytes(id)) and begins(said + data)}
    return plain | (set(tokenizer.eos_ids) if is_whole(said) else set())


def walk(
    guide: Guide, tokenizer: Tokenizer, begins: Callable[[bytes], bool], is_whole: Callable[[bytes], bool], seed: int
) -> None:
    """Go on by random tokens to the end, and compare at each step."""
    noise, said = np.random.default_rng(seed), b""
    for _ in range(12):
        if guide.is_complete:
            assert is_whole(said)
            return
        found = allowed(guide, tokenizer)
        assert found == expected(tokenizer, begins, is_whole, said)
        token_id = int(noise.choice(sorted(found - tokenizer.eos_ids)))
        said += tokenizer.token_bytes(token_id)
        guide.take(token_id)


@pytest.mark.parametrize("seed", range(6))
def test_masks_of_choices_allow_what_begins_one(guides: Guides, tokenizer: Tokenizer, seed: int):
    guide, choices = guides.guide(Constraint("choice", json.dumps(CHOICES))), [choice.encode() for choice in CHOICES]
    walk(guide, tokenizer, lambda said: any(one.startswith(said) for one in choices), choices.__contains__, seed)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("pattern", REGEXES)
def test_masks_of_a_regular_expression_allow_what_may_still_match(
    guides: Guides, tokenizer: Tokenizer, pattern: str, seed: int
):
    def begins(said: bytes) -> bool:
        text = said.decode("utf-8", errors="ignore")
        rest = said[len(text.encode()) :]
        tails = [tail for tail in "ü🙂" if tail.encode().startswith(rest)]  # what a part of a character may become
        ends = tails if rest else [""]
        return any(regex.fullmatch(pattern, text + end, partial=True) for end in ends)

    def is_whole(said: bytes) -> bool:
        return bool(regex.fullmatch(pattern, said.decode(errors="replace")))

    walk(guides.guide(Constraint("regex", pattern)), tokenizer, begins, is_whole, seed)


def test_masks_behind_a_draft_are_those_that_its_tokens_lead_to(guides: Guides, tokenizer: Tokenizer):
    constraint, draft = Constraint("choice", json.dumps(CHOICES)), tokenizer.encode_text("yes")
    guide, stepwise = guides.guide(constraint), guides.guide(constraint)
    masks = [mask.allowed(tokenizer.vocab_size) for mask in guide.masks(draft)]
    for token_id, mask in zip([*draft, None], masks, strict=True):
        assert (mask == stepwise.masks()[0].allowed(tokenizer.vocab_size)).all()
        if token_id is not None:
            stepwise.take(token_id)
    assert allowed(guide, tokenizer) == allowed(guides.guide(constraint), tokenizer), "the draft left a trace"


def test_a_draft_that_is_not_allowed_changes_nothing(guides: Guides, tokenizer: Tokenizer):
    guide = guides.guide(Constraint("choice", '["yes"]'))
    masks = guide.masks(tokenizer.encode_text("yak"))
    assert [int(mask.allowed(tokenizer.vocab_size).sum()) for mask in masks[:2]] == [1, 1]
    assert guide.advance(tokenizer.encode_text("yes"))
    assert guide.is_complete


def test_control_tokens_are_no_text(guides: Guides, tokenizer: Tokenizer):
    found = allowed(guides.guide(Constraint("regex", ".{3}")), tokenizer)
    assert not [id for id in found if not tokenizer.token_bytes(id)]


def test_two_answers_of_one_constraint_do_not_meet(guides: Guides, tokenizer: Tokenizer):
    one, other = (guides.guide(Constraint("regex", "ab")) for _ in range(2))
    one.take(tokenizer.encode_text("a")[0])
    assert allowed(one, tokenizer) != allowed(other, tokenizer)


def test_a_constraint_that_cannot_be_kept_has_no_guide(guides: Guides):
    with pytest.raises(ConstraintRefused):
        guides.guide(Constraint("regex", "("))
