"""Rows and their batches: what is read, what is held out, what the loss sees."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from inference.tasks.data import DataError, Row, hold_out, read_rows, read_split
from inference.tasks.recipe import load_recipe
from inference.training.examples import IGNORED, batches, collate, encode, encode_all

RECIPE = load_recipe("tweet_emotion")


def row(text: str, target: str = "joy") -> Row:
    return Row({"tweet": text}, target)


def test_held_out_questions_are_in_no_other_part() -> None:
    rows = [row(f"tweet {number % 50}", target) for number, target in enumerate(["joy", "anger"] * 50)]
    kept, held_out = hold_out(rows, 5)
    questions = {row.inputs["tweet"] for row in held_out}
    assert len(held_out) == len(questions) == 5
    assert questions.isdisjoint(row.inputs["tweet"] for row in kept)
    assert len(kept) == 90


def test_the_same_rows_are_held_out_every_time() -> None:
    rows = [row(f"tweet {number}") for number in range(50)]
    assert hold_out(rows, 5) == hold_out(rows, 5)


def test_a_split_is_found_in_its_folder_and_beside_others(data: Path) -> None:
    split = read_split(data, "tweet_emotion", ["tweet"])
    data.rename(data.parent / "tweet_emotion")
    assert read_split(data.parent, "tweet_emotion", ["tweet"]) == split
    assert (len(split.train), len(split.validation), len(split.test)) == (32, 8, 8)


def test_data_that_is_not_there_is_refused_with_what_would_be_right(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no data for tweet_emotion .* train\.jsonl and test\.jsonl"):
        read_split(tmp_path, "tweet_emotion", ["tweet"])


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("not json", "line 1 is not"),
        ('{"inputs": {"tweet": "x"}}', "line 1 has no target"),
        ('{"inputs": {"text": "x"}, "target": "joy"}', "has the fields text; needed: tweet"),
        ('{"inputs": {"tweet": [3]}, "target": "joy"}', "has a list as the value of 'tweet'"),
        ("", "is empty"),
    ],
)
def test_a_line_that_is_no_row_of_the_recipe_is_refused(tmp_path: Path, line: str, problem: str) -> None:
    (tmp_path / "train.jsonl").write_text(line)
    with pytest.raises(DataError, match=problem):
        read_rows(tmp_path / "train.jsonl", ["tweet"])


def test_the_loss_covers_exactly_the_target_and_the_end_token(tokenizer: Any) -> None:
    rows = [encode(row("short"), RECIPE, tokenizer), encode(row("somewhat longer", "sadness"), RECIPE, tokenizer)]
    batch = collate(rows, pad_id=tokenizer.eos_token_id)
    for index, target in enumerate(["joy", "sadness"]):
        seen = batch.labels[index][batch.labels[index] != IGNORED].tolist()
        assert tokenizer.decode(seen) == target + tokenizer.eos_token
    assert batch.mask.sum(dim=1).tolist() == [len(row.token_ids) for row in rows]


def test_a_prompt_has_the_tokens_that_a_server_gives_the_filled_template(tokenizer: Any) -> None:
    encoded = encode(row("hello"), RECIPE, tokenizer)
    served = tokenizer("Tweet: hello\nEmotion:", add_special_tokens=False)["input_ids"]
    assert list(encoded.token_ids[: encoded.start]) == served


def test_control_tokens_in_a_row_are_text_as_they_are_to_a_server(tokenizer: Any) -> None:
    end = tokenizer.eos_token
    encoded = encode(row(f"so {end} it", f"joy{end}"), RECIPE, tokenizer)
    assert encoded.token_ids.count(tokenizer.eos_token_id) == 1
    assert encoded.token_ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(encoded.token_ids[encoded.start : -1]) == f"joy{end}"


def test_rows_longer_than_the_recipe_allows_are_left_out(tokenizer: Any) -> None:
    assert len(encode_all([row("short"), row("long " * 200)], RECIPE, tokenizer)) == 1
    with pytest.raises(ValueError, match="no row of tweet_emotion fits max_length = 320"):
        encode_all([row("long " * 200)], RECIPE, tokenizer)


def test_batches_go_over_all_rows_before_any_comes_again(tokenizer: Any) -> None:
    rows = encode_all([row(f"tweet {'x' * number}") for number in range(12)], RECIPE, tokenizer)
    seen = [batch.mask.sum(dim=1).tolist() for batch in batches(rows, size=4, steps=3, seed=1, pad_id=0)]
    assert sorted(length for batch in seen for length in batch) == sorted(len(row.token_ids) for row in rows)


def test_a_seed_decides_the_order_of_batches(tokenizer: Any) -> None:
    rows = encode_all([row(f"tweet {'x' * number}") for number in range(12)], RECIPE, tokenizer)

    def order(seed: int) -> str:
        return json.dumps([batch.token_ids.tolist() for batch in batches(rows, 4, 6, seed, 0)])

    assert order(1) == order(1)
    assert order(1) != order(2)
