"""Rows of a statement as arrays, one for each column: however many rows there are, the statement's text is the same, and it is one round trip."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from sqlalchemy import JSON, BigInteger, Boolean, DateTime, Text
from sqlalchemy.types import TypeEngine

from aos_dispatcher.tables import Base

_TYPES: Final[Mapping[type[TypeEngine[Any]], str]] = {
    BigInteger: "bigint",
    Boolean: "boolean",
    DateTime: "timestamptz",
    JSON: "json",
    Text: "text",
}


@dataclass(frozen=True)
class Rows:
    """Rows that a statement calls `name`; `types` are PostgreSQL's names of their columns' types."""

    name: str
    types: Mapping[str, str]

    @classmethod
    def of(cls, table: type[Base], *columns: str) -> Self:
        """Return rows of these columns of a table, called as the table is, with `new_` before it."""
        known = table.__table__.columns
        return cls(f"new_{table.__tablename__}", {name: _TYPES[type(known[name].type)] for name in columns})

    @property
    def columns(self) -> str:
        """The columns' names, as in a list of them."""
        return ", ".join(self.types)

    @property
    def sql(self) -> str:
        """What stands after `from` or `join`."""
        arrays = ", ".join(f"cast(:{self.name}_{name} as {type_}[])" for name, type_ in self.types.items())
        return f"unnest({arrays}) as {self.name}({self.columns})"

    def parameters(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
        """Return the statement's parameters for these rows. A None is NULL, in a column of JSON, too."""
        return {
            f"{self.name}_{name}": [_json(row[name]) for row in rows]
            if type_ == "json"
            else [row[name] for row in rows]
            for name, type_ in self.types.items()
        }


def insertion(table: type[Base], rows: Rows) -> str:
    """Return an `insert` of these rows, to which joins and conditions may be added."""
    named = ", ".join(f"{rows.name}.{name}" for name in rows.types)
    return f"insert into {table.__tablename__} ({rows.columns}) select {named} from {rows.sql}"  # noqa: S608 - names of our own


def _json(value: object) -> str | None:
    return None if value is None else json.dumps(value)
