"""What inputs look like: vectors of texts and of tasks, and the card that keeps them."""

from __future__ import annotations

import dataclasses
import hashlib
import tomllib

import numpy as np
import pytest

from inference.tasks.card import CARD, Card, write_card, write_embedding, write_score
from inference.tasks.embedding import EMBEDDER, of_table
from inference.tasks.ngrams import BUCKETS, MOST_CHARS, buckets
from inference.tasks.vectors import FROZEN, embed, embedding_of, general, vector_of

BANK = ["Where is my card?", "Why was my transfer declined?", "How do I top up my account by card?"]
GAMES = ["inform(name[Portal 2], genres[puzzle])", "request(specifier[favorite])", "confirm(name[Tetris])"]


def test_a_text_is_nearest_to_the_task_that_it_belongs_to():
    bank, games = embedding_of(BANK), embedding_of(GAMES)
    asked = embed("How long does a transfer to my account take?")
    assert vector_of(bank) @ asked > 0.1 > vector_of(games) @ asked
    assert vector_of(games) @ embed("suggest(name[Tetris], genres[puzzle])") > 0.1


def test_vectors_have_the_length_one_and_a_scale_changes_none():
    vector = vector_of(embedding_of(BANK))
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)
    assert [np.linalg.norm(kind) for kind in general()] == pytest.approx([1] * len(general()), abs=1e-6)


@pytest.mark.parametrize("text", ["", " ", "\n", "\ud800", "é" * 50_000, "\0"])
def test_any_text_has_a_vector(text):
    assert np.isfinite(embed(text)).all()


def test_of_a_long_text_the_beginning_and_the_length_count():
    beginning = "word " * (MOST_CHARS // 5)
    assert buckets(beginning + "x" * 5000) == buckets(beginning + "y" * 5000)
    assert buckets(beginning + "x" * 5000) != buckets(beginning + "x" * 50_000)


def test_a_task_without_texts_has_no_embedding():
    assert embedding_of([]) is None


def test_what_decides_a_vector_has_its_own_name():
    """Whoever changes a vector changes the name, or vectors that are kept would be compared with others."""
    vector = embed("The quick brown fox, 12 times:\njumps over Dr. Who.")
    told = hashlib.sha256(FROZEN.read_bytes() + np.round(vector * 1000).astype(np.int16).tobytes()).hexdigest()[:12]
    assert (EMBEDDER, told) == ("ngrams-1", "44c78585ef92")


def test_a_card_keeps_an_embedding_and_a_score_written_after_it(tmp_path):
    embedding = embedding_of(BANK)
    write_card(tmp_path, Card(name="Bank", embedding=embedding.table()))
    write_score(tmp_path / CARD, {"metric": "accuracy"})
    assert of_table(_card(tmp_path)["embedding"]) == embedding
    write_embedding(tmp_path / CARD, embedding_of(GAMES).table())
    write_embedding(tmp_path / CARD, embedding_of(GAMES).table())
    card = _card(tmp_path)
    assert of_table(card["embedding"]) == embedding_of(GAMES)
    assert card["score"] == {"metric": "accuracy"}
    assert (tmp_path / CARD).read_text().count("[embedding]") == 1


@pytest.mark.parametrize(
    "table",
    [
        {},
        {"embedder": "another", "texts": 3, "vector": "AAAA"},
        {"embedder": EMBEDDER, "texts": 3, "vector": "AAAA"},
        {"embedder": EMBEDDER, "texts": 3, "vector": "no base64!"},
    ],
)
def test_an_embedding_that_means_nothing_here_is_none(table):
    assert of_table(table) is None


def test_an_embedding_of_zeros_is_none():
    zeros = dataclasses.replace(embedding_of(BANK), numbers=bytes(BUCKETS))
    assert of_table(zeros.table()) is None


def _card(folder):
    return tomllib.loads((folder / CARD).read_text())
