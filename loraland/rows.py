"""Rows that every call of a program reads or writes, by SQL that Django writes once: to write a statement anew takes it
up to thirty times as long as SQLite takes to answer it. The database is asked each time all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, cached_property
from typing import Any, Final, Generic, TypeVar

from django.db import connection, models

Row = TypeVar("Row", bound=models.Model)
Values = tuple[Any, ...]

OPEN: Final = "\0"
"""What stands in a statement for the text that is looked for. No text of a database holds it."""
MOST: Final = 1024
"""How many rows are remembered at once."""


class Statement:
    """The SQL of `rows`, a query set for the text that is looked for, of which it takes no more than a parameter."""

    def __init__(self, rows: Callable[[str], models.QuerySet[Any, Any]]) -> None:
        self._rows = rows

    def ask(self, text: str, most: int = 2) -> list[Values]:
        """The first `most` rows that are found for `text`, as the database gives them."""
        sql, parameters = self._written
        with connection.cursor() as cursor:
            cursor.execute(sql, [text if each == OPEN else each for each in parameters])
            found: list[Values] = cursor.fetchmany(most)
        return found

    @cached_property
    def _written(self) -> tuple[str, Values]:
        return self._rows(OPEN).query.sql_with_params()


class Remembered(Generic[Row]):
    """Rows that were read before, each as it stands in the database now: it is fetched, and where all its columns are
    those of before what was made of them is given again. `read` makes it anew; nobody may change it.
    """

    def __init__(self, rows: Callable[[str], models.QuerySet[Row]], read: Callable[[str], Row | None]) -> None:
        self._statement, self._read = Statement(rows), read
        self._known: dict[str, tuple[Values, Row]] = {}

    def one(self, text: str) -> Row | None:
        """The one row that is found for `text`; None where there is none, or more than one."""
        found = self._statement.ask(text)
        if len(found) != 1:
            return None
        values, row = self._known.get(text, ((), None))
        return row if values == found[0] else self._made(text, found)

    def _made(self, text: str, found: list[Values]) -> Row | None:
        """The row, read anew; remembered unless it was changed meanwhile."""
        row = self._read(text)
        if row is not None and self._statement.ask(text) == found:
            if len(self._known) >= MOST:
                self._known.clear()
            self._known[text] = found[0], row
        return row


def insert(row: models.Model) -> None:
    """Write a new row, which has its key, as `save` does for one without parents whose signals nobody hears."""
    values = [field.get_db_prep_save(field.pre_save(row, True), connection) for field in row._meta.concrete_fields]
    with connection.cursor() as cursor:
        cursor.execute(_insertion(type(row)), values)
    row._state.adding, row._state.db = False, connection.alias


def update(model: type[models.Model], values: Mapping[str, Any], held: Mapping[str, Any]) -> bool:
    """Set `values` in the row that has those which are `held`, its key among them; whether there was one."""
    given = [
        _field(model, name).get_db_prep_save(value, connection) for name, value in (*values.items(), *held.items())
    ]
    with connection.cursor() as cursor:
        cursor.execute(_change(model, tuple(values), tuple(held)), given)
        return bool(cursor.rowcount)


@cache
def _change(model: type[models.Model], values: tuple[str, ...], held: tuple[str, ...]) -> str:
    quoted = connection.ops.quote_name
    new, old = ([f"{quoted(str(_field(model, name).column))} = %s" for name in names] for names in (values, held))
    return f"UPDATE {quoted(model._meta.db_table)} SET {', '.join(new)} WHERE {' AND '.join(old)}"


def _field(model: type[models.Model], name: str) -> models.Field[Any, Any]:
    field = model._meta.get_field(name)
    assert isinstance(field, models.Field)
    return field


@cache
def _insertion(model: type[models.Model]) -> str:
    quoted = connection.ops.quote_name
    columns = [quoted(str(field.column)) for field in model._meta.concrete_fields]
    places = ", ".join(["%s"] * len(columns))
    return f"INSERT INTO {quoted(model._meta.db_table)} ({', '.join(columns)}) VALUES ({places})"
