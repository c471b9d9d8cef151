"""What a config says of rows of the embedding and of the head that an adapter trained themselves, beside its LoRA."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from inference.adapters.config_file import show

EMBEDDING: Final = "embed_tokens"
TABLES: Final = (EMBEDDING, "lm_head")
INDICES: Final = "trainable_token_indices"
WHOLE: Final = "modules_to_save"


@dataclass(frozen=True)
class TrainedTables:
    """`rows` are the ids of the tokens that were trained, by table; `whole` the tables that were saved with all."""

    rows: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    whole: tuple[str, ...] = ()

    @property
    def saved(self) -> tuple[str, ...]:
        """The tables whose rows are in the file. PEFT keeps those of a head once that has them from the embedding."""
        shared = self.rows.get(EMBEDDING)
        return tuple(table for table, rows in self.rows.items() if table == EMBEDDING or rows != shared)

    def rows_of(self, table: str) -> tuple[int, ...]:
        """The ids of the rows that a file has of `table`; a head that is the embedding may repeat those of that."""
        return self.rows.get(table) or self.rows.get(EMBEDDING, ())


def table_of(module: str) -> str:
    """The name in `TABLES` of a module that is a table."""
    return module.rpartition(".")[2]


def read_tables(config: Mapping[str, Any], max_rank: int) -> tuple[TrainedTables, list[str]]:
    """What the config says, and what is wrong with it, in sentences. A row takes a rank, of which there are
    `max_rank`."""
    given = config.get(INDICES) or {}
    rows = given if isinstance(given, dict) else {EMBEDDING: given}
    whole = config.get(WHOLE) or []
    reasons = [*_wrong_rows(rows, max_rank), *_wrong_modules(whole)]
    if reasons:
        return TrainedTables(), reasons
    named = {table_of(name): tuple(ids) for name, ids in rows.items()}
    return TrainedTables(named, tuple(map(table_of, whole))), []


def _wrong_rows(rows: Mapping[str, Any], max_rank: int) -> list[str]:
    reasons = []
    for name, ids in rows.items():
        if table_of(name) not in TABLES:
            reasons.append(f"{INDICES} names {show(name)}; rows of {' and '.join(TABLES)} are served.")
        elif not isinstance(ids, list) or not all(type(id) is int and id >= 0 for id in ids) or len({*ids}) < len(ids):
            reasons.append(f"{INDICES} is {show(ids)}; it must list ids of tokens, each once.")
        elif len(ids) > max_rank:
            reasons.append(
                f"{INDICES} names {len(ids)} tokens of {name}; up to {max_rank} (MAX_RANK) are served, each as a rank "
                "of its own. Train fewer, or raise MAX_RANK."
            )
    return reasons


def _wrong_modules(whole: Any) -> list[str]:
    if not isinstance(whole, list) or not all(isinstance(name, str) for name in whole):
        return [f"{WHOLE} is {show(whole)}; it must list modules."]
    others = [name for name in whole if table_of(name) not in TABLES]
    shown = ", ".join(others[:5])
    return [
        f"The adapter carries whole modules ({WHOLE}: {shown}), which all adapters share here; train without them."
    ] * bool(others)
