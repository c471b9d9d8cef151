"""A small land for `auto` to choose in: adapters for a bank's customers, talk of games, and pairs of sentences."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from loraland.catalogue import embeddings
from loraland.catalogue.models import AdapterVersion

BANK = ["Where is my card?", "Why was my transfer declined?", "How do I top up my account by card?"]
GAMES = ["inform(name[Portal 2], genres[puzzle])", "request(specifier[favorite])", "confirm(name[Tetris])"]
PAIRS = ["A man walks his dog.", "Two children sleep."]
ACT = "suggest(name[Tetris], genres[puzzle])"


def fill(publish: Callable[..., AdapterVersion], letters: Mapping[str, str] = MappingProxyType({})) -> None:
    """Publish them; `letters` are of what some one's digest is to be."""
    for slug, fields, texts in (("bank", ["text"], BANK), ("games", ["act"], GAMES), ("pair", ["a", "b"], PAIRS)):
        examples = [{"inputs": dict.fromkeys(fields, text), "expected": ""} for text in texts]
        template = "\n".join([slug, *(f"<{{{name}}}>" for name in fields)])
        prompt = {"template": template, "fields": [{"name": name, "label": name, "rows": 1} for name in fields]}
        embeddings.keep(publish(slug, letters.get(slug, slug[0]), **prompt, examples=examples))
