"""What a card.toml may hold before anybody reads it."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.conf import settings

from inference.tasks.card import card_text
from loraland.catalogue.card import MAX_CARD_BYTES, MAX_DOTS, CardError, read_card


def card(directory: Path, text: str) -> Path:
    path = directory / "card.toml"
    path.write_text(text)
    return path


MANY = MAX_CARD_BYTES // 2 - 20
LONG_KEYS = {
    "a key": "a" + ".a" * MANY + " = 1",
    "quoted": '"a"' + '."a"' * (MANY // 2) + " = 1",
    "quoted with quotes": '"\\""' + ' . "\\""' * (MANY // 4) + " = 1",
    "in single quotes": "'a'" + ".'a'" * (MANY // 2) + " = 1",
    "a table": "[a" + ".a" * MANY + "]",
    "in a table": "a = {a" + ".a" * MANY + " = 1}",
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("which", LONG_KEYS)
def test_a_key_of_many_parts_is_refused_before_it_is_followed(tmp_path: Path, which: str) -> None:
    with pytest.raises(CardError, match=f"card.toml is not TOML: line 2 has more than {MAX_DOTS} dots"):
        read_card(card(tmp_path, f"name = 'A'\n{LONG_KEYS[which]}"))


def test_dots_in_a_text_are_welcome(tmp_path: Path) -> None:
    dots = ("." * 80 + " a.b.c. Yes. " * 40 + "\n") * 10
    assert read_card(card(tmp_path, f'name = "A"\ndescription = """{dots}"""')).description == dots


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_a_card_full_of_the_longest_keys_is_read_in_one_go(tmp_path: Path) -> None:
    key = ".a" * (MAX_DOTS - 1) + " = 1\n"
    lines = "".join(f"a{number}{key}" for number in range(MAX_CARD_BYTES // (len(key) + 5)))
    with pytest.raises(CardError, match="cannot be kept"):
        read_card(card(tmp_path, lines))


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "pump", ["a", "a.", ".", '"', "'", '"a".', " ", " .", "\\", '"\\', "a\n", "[a.b]\n", "[", "{a="]
)
def test_a_card_of_the_largest_size_is_refused_in_one_go(tmp_path: Path, pump: str) -> None:
    with pytest.raises(CardError):
        read_card(card(tmp_path, (pump * MAX_CARD_BYTES)[: MAX_CARD_BYTES - 1]))


@pytest.mark.parametrize(
    "path", sorted(settings.DEMO_ADAPTERS_DIR.glob("*/card.toml")), ids=lambda path: path.parent.name
)
def test_a_shipped_card_is_written_as_it_was_read(path: Path) -> None:
    assert card_text(read_card(path)) == path.read_text(encoding="utf-8")
