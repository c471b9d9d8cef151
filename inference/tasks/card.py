"""A card: what an adapter is for, how it was made and what it is worth, in the file card.toml beside its weights."""

from __future__ import annotations

import dataclasses
import datetime
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypedDict, cast, get_type_hints

from inference.tasks.recipe import Recipe
from inference.tasks.recipe_text import toml_value
from inference.tasks.verdict import CLEAR, VERDICTS

CARD: Final = "card.toml"
TEXTS: Final = {
    "name": 120,
    "category": 60,
    "summary": 240,
    "description": 20_000,
    "base": 200,
    "license": 120,
    "author": 120,
}
"""The plain texts of a card and how many characters each may have."""


class DatasetTable(TypedDict, total=False):
    """What it learnt from."""

    name: str
    source: str
    license: str
    restricted: bool
    train_rows: int


class TrainingTable(TypedDict, total=False):
    """How it was made. Of a blend `gate` is the kind, and `parts` are named as its recipe names them; the losses are in
    nats a token, of the answers to `loss_rows` rows, and `loss_low` and `loss_high` the 95 % interval of their change.
    """

    steps: int
    batch: int
    learning_rate: float
    rank: int
    lora_alpha: float
    target_modules: list[str]
    nola_basis: int
    invocation: str
    gate: str
    parts: list[str]
    temperature: float
    top_k: int
    g: int
    loss_rows: int
    loss_before: float
    loss_after: float
    loss_low: float
    loss_high: float
    max_length: int
    seed: int
    minutes: float
    device: str
    date: str


class ScoreTable(TypedDict, total=False):
    """What it is worth, from 0 to 1; `low` and `high` bound `tuned`, `gain` is its verdict, `scoring` the rules."""

    metric: str
    base: float
    tuned: float
    low: float
    high: float
    n: int
    split: str
    base_prompt: str
    gain: str
    remark: str
    scoring: int


class EmbeddingTable(TypedDict, total=False):
    """What its inputs look like, see `inference.tasks.embedding`: `vector` in base64, made of so many `texts`."""

    embedder: str
    texts: int
    vector: str


_EMBEDDING: Final = "[embedding]"
_SCORE: Final = "[score]"
TABLES: Final = {
    "dataset": DatasetTable,
    "training": TrainingTable,
    "embedding": EmbeddingTable,
    "score": ScoreTable,
}


@dataclass(frozen=True)
class Card:
    """The facts of an adapter and of the version whose files it lies beside. `base` is advisory."""

    name: str
    category: str = ""
    summary: str = ""
    description: str = ""
    base: str = ""
    license: str = ""
    author: str = ""
    dataset: DatasetTable = field(default_factory=DatasetTable)
    template: str = ""
    fields: list[dict[str, Any]] = field(default_factory=list)
    examples: list[dict[str, Any]] = field(default_factory=list)
    training: TrainingTable = field(default_factory=TrainingTable)
    embedding: EmbeddingTable = field(default_factory=EmbeddingTable)
    score: ScoreTable = field(default_factory=ScoreTable)


def card_of(recipe: Recipe, base: str, train_rows: int, minutes: float, device: str = "") -> Card:
    """The card of an adapter that was made today by `recipe`, which says nothing of a score yet."""
    schedule, lora, source = recipe.schedule, recipe.lora, recipe.dataset
    training: TrainingTable = {
        "steps": schedule.steps,
        "batch": schedule.batch,
        "learning_rate": schedule.learning_rate,
        "rank": lora.rank,
        "lora_alpha": lora.lora_alpha,
        "target_modules": list(lora.target_modules),
        "max_length": schedule.max_length,
        "seed": schedule.seed,
        "minutes": round(minutes, 1),
        "device": device,
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
    }
    if lora.nola_basis:
        training["nola_basis"] = lora.nola_basis
    if lora.invocation:
        training["invocation"] = lora.invocation
    return Card(
        name=recipe.name,
        category=recipe.category,
        summary=recipe.summary,
        description=recipe.description,
        base=base,
        license=recipe.license,
        author=recipe.author,
        dataset={
            "name": source.name,
            "source": source.source,
            "license": source.license,
            "restricted": source.restricted,
            "train_rows": train_rows,
        },
        template=recipe.template,
        fields=[dataclasses.asdict(entry) for entry in recipe.fields],
        examples=[dataclasses.asdict(example) for example in recipe.examples],
        training=training,
    )


def score_table(**values: float | str | None) -> ScoreTable:
    """The table of `values`, figures to four places, without what is not known."""
    assert values.keys() <= ScoreTable.__annotations__.keys()
    known = {key: value for key, value in values.items() if value not in (None, "")}
    return cast(
        "ScoreTable", {key: round(value, 4) if isinstance(value, float) else value for key, value in known.items()}
    )


def write_card(folder: Path, card: Card) -> None:
    """Write card.toml into `folder`, in one piece: a card that is there is whole."""
    partial = folder / f"{CARD}.partial"
    partial.write_text(card_text(card), encoding="utf-8")
    partial.replace(folder / CARD)


def card_text(card: Card) -> str:
    """The text of the file; a score stands at its end."""
    sections = [
        _table("", {key: getattr(card, key) for key in TEXTS}),
        _table("[dataset]", card.dataset),
        f"[prompt]\ntemplate = {_multiline(card.template)}",
        *(_table("[[prompt.field]]", entry) for entry in card.fields),
        *(_table("[[example]]", example) for example in card.examples),
        _table("[training]", card.training),
        *([_table(_EMBEDDING, card.embedding)] if card.embedding else []),
        *([_table(_SCORE, card.score)] if card.score else []),
    ]
    return "\n\n".join(sections) + "\n"


def write_score(path: Path, score: ScoreTable) -> None:
    """Let the card at `path` end in `score`, in place of the one that it had; all else stays as it was written."""
    before, _, _ = path.read_text(encoding="utf-8").partition(f"\n{_SCORE}\n")
    path.write_text("\n\n".join([before.rstrip("\n"), _table(_SCORE, score)]) + "\n", encoding="utf-8")


def write_embedding(path: Path, embedding: EmbeddingTable) -> None:
    """Let the card at `path` have `embedding`, in place of the one that it had; all else stays as it was written."""
    before, score, after = path.read_text(encoding="utf-8").partition(f"\n{_SCORE}\n")
    kept, _, _ = before.partition(f"\n{_EMBEDDING}\n")
    table = _table(_EMBEDDING, embedding)
    path.write_text("\n\n".join([kept.rstrip("\n"), table]) + "\n" + score + after, encoding="utf-8")


def has_score(path: Path) -> bool:
    """Whether the card at `path` is there and tells a score."""
    return path.is_file() and f"\n{_SCORE}\n" in path.read_text(encoding="utf-8")


def faults(data: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the texts and tables in `data`, a card as TOML has it, in sentences; the prompt aside."""
    known = {*TEXTS, *TABLES, "prompt", "example"}
    for key in data.keys() - known:
        yield f"{CARD} has an unknown key {key!r}; known are {', '.join(sorted(known))}."
    if not data.get("name"):
        yield f"{CARD} has no name; give the adapter's name for people."
    for key, limit in TEXTS.items():
        value = data.get(key, "")
        if not isinstance(value, str):
            yield f"{key} in {CARD} must be text in quotes."
        elif len(value) > limit:
            yield f"{key} in {CARD} has {len(value)} characters; at most {limit} are shown."
    for name in TABLES:
        if isinstance(table := data.get(name, {}), Mapping):
            yield from _table_faults(name, table)
        else:
            yield f"{name} in {CARD} must be a table: [{name}]."


def _table_faults(name: str, table: Mapping[str, Any]) -> Iterator[str]:
    kinds = get_type_hints(TABLES[name])
    for key, value in table.items():
        if key not in kinds:
            yield f"[{name}] in {CARD} has an unknown key {key!r}; known are {', '.join(kinds)}."
        elif not _is(plain(value), wanted := _KINDS.get(kinds[key], (kinds[key],))):
            types = " or ".join(kind.__name__ for kind in wanted)
            yield f"{key} in [{name}] of {CARD} is {value!r}; it must be of type {types}."
    if name == "score" and (gain := table.get("gain", CLEAR)) not in tuple(VERDICTS):
        yield f"gain in [score] of {CARD} is {gain!r}; write {' or '.join(map(repr, VERDICTS))}."


_KINDS: Final[dict[Any, tuple[type, ...]]] = {float: (int, float), list[str]: (list,)}
"""What TOML may have for a type that it does not have itself."""


def _is(value: Any, kinds: tuple[type, ...]) -> bool:
    """Whether `value` is of one of `kinds`; a switch is not a number, and a number is finite."""
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))


def plain(value: Any) -> Any:
    """TOML's dates as text, so that they can be kept as JSON."""
    return value.isoformat() if hasattr(value, "isoformat") else value


def _table(header: str, values: Mapping[str, Any]) -> str:
    return "\n".join([*filter(None, [header]), *(f"{key} = {toml_value(value)}" for key, value in values.items())])


def _multiline(text: str) -> str:
    """A TOML string over several lines; `text` must not start with a line end."""
    return '"""' + "\n".join(toml_value(line)[1:-1] for line in text.split("\n")) + '"""'
