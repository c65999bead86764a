"""What a database is made of and what it holds, to compare before and after a revision; and a row for every table."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import asyncpg
from sqlalchemy import URL, Column, MetaData
from sqlalchemy.sql.sqltypes import ARRAY

_COLUMNS = """
select table_name, column_name, udt_name, is_nullable = 'YES' as nullable, column_default
from information_schema.columns where table_schema = 'public' and table_name <> 'alembic_version'
"""
_CONSTRAINTS = """
select relname as table_name, conname, pg_get_constraintdef(c.oid) as definition,
       array(select attname::text from pg_attribute where attrelid = r.oid and attnum = any(c.conkey)) as columns
from pg_constraint c join pg_class r on r.oid = c.conrelid
where r.relnamespace = 'public'::regnamespace and relname <> 'alembic_version' and contype <> 'n'
"""
_INDEXES = """
select tablename as table_name, indexname from pg_indexes where schemaname = 'public' and tablename <> 'alembic_version'
"""


@dataclass(frozen=True)
class Shape:
    """The type of a column, whether it may be null, and its default."""

    type: str
    nullable: bool
    default: str | None


@dataclass(frozen=True)
class Schema:
    """Tables and their columns; each table's constraints, by what they say, with their columns; and its indexes."""

    columns: dict[str, dict[str, Shape]] = field(default_factory=dict)
    constraints: dict[str, dict[str, frozenset[str]]] = field(default_factory=dict)
    indexes: dict[str, set[str]] = field(default_factory=dict)


Rows = dict[str, list[dict[str, Any]]]


async def connect(url: URL) -> asyncpg.Connection:
    """A bare connection."""
    return await asyncpg.connect(**url.get_dialect()().create_connect_args(url)[1])


async def read_schema(connection: asyncpg.Connection) -> Schema:
    """What the database is made of now."""
    schema = Schema()
    for row in await connection.fetch(_COLUMNS):
        shape = Shape(row["udt_name"], row["nullable"], row["column_default"])
        schema.columns.setdefault(row["table_name"], {})[row["column_name"]] = shape
    for row in await connection.fetch(_CONSTRAINTS):
        schema.constraints.setdefault(row["table_name"], {})[row["definition"]] = frozenset(row["columns"])
    for row in await connection.fetch(_INDEXES):
        schema.indexes.setdefault(row["table_name"], set()).add(row["indexname"])
    return schema


async def read_rows(connection: asyncpg.Connection, tables: Iterable[str]) -> Rows:
    """All that these tables hold."""
    return {
        table: [dict(row) for row in await connection.fetch(f'select * from "{table}" order by 1')]
        for table in tables
    }


def shared(rows: Rows, schema: Schema, former: dict[str, str]) -> Rows:
    """The rows as far as a schema has room for them, with the former names of its columns."""
    named = {
        table: [{former.get(name, name): value for name, value in row.items()} for row in held]
        for table, held in rows.items()
    }
    return {
        table: [{name: value for name, value in row.items() if name in columns} for row in named[table]]
        for table, columns in schema.columns.items()
        if table in named
    }


def violations(before: Schema, after: Schema, source: str) -> list[str]:
    """What a revision does that a program of the revision before cannot go on with, or is held up by for long.

    Allowed are tables, columns that may be left out, constraints on new columns only, and indexes by `build_index`.
    """
    found = []
    for table, columns in before.columns.items():
        now = after.columns.get(table)
        if now is None:
            found.append(f"table {table} is gone")
            continue
        found += [f"{table}.{name} is gone or another" for name in columns if now.get(name) != columns[name]]
        new = now.keys() - columns.keys()
        found += [
            f"{table}.{name} cannot be left out"
            for name in new
            if not now[name].nullable and now[name].default is None
        ]
        old_rules, rules = before.constraints.get(table, {}), after.constraints.get(table, {})
        found += [f"{table} has lost: {rule}" for rule in old_rules.keys() - rules.keys()]
        found += [
            f"{table} demands: {rule}" for rule in rules.keys() - old_rules.keys() if not rules[rule] <= new
        ]
        indexes = after.indexes.get(table, set()) - before.indexes.get(table, set())
        if "build_index(" not in source:
            found += [f"{table} is locked while index {name} is built" for name in indexes]
    return sorted(found)


_VALUES: dict[str, Any] = {
    "text": "x",
    "int8": 1,
    "float8": 0.5,
    "bool": True,
    "json": '{"a": 1}',
    "bytea": b"x",
    "timestamptz": "2024-09-27T03:36:04+00:00",
}


def row_for(columns: Iterable[Column[Any]], types: dict[str, Shape], fixed: dict[str, Any]) -> dict[str, Any]:
    """Values for every column of a row; all texts are equal and all numbers are, so that every reference holds."""
    return {
        column.name: fixed.get(column.name, _VALUES.get(types[column.name].type))
        for column in columns
        if column.name in fixed or not isinstance(column.type, ARRAY)
    }


async def fill(connection: asyncpg.Connection, metadata: MetaData, fixed: dict[str, dict[str, Any]]) -> None:
    """Put a row into each table, whose columns have the values `fixed` says, or any."""
    schema = await read_schema(connection)
    for table in metadata.sorted_tables:
        types = schema.columns[table.name]
        values = row_for(table.columns, types, fixed.get(table.name, {}))
        names = ", ".join(f'"{name}"' for name in values)
        texts = [None if value is None else _text(value) for value in values.values()]
        slots = ", ".join(f"${n}::text::{types[name].type}" for n, name in enumerate(values, start=1))
        await connection.execute(f'insert into "{table.name}" ({names}) values ({slots})', *texts)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
