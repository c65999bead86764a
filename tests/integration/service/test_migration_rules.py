"""Every revision of both programs, one by one: programs of the revision before can go on, and nobody loses data by going back.

docs/runbook.md says how revisions are written; these tests hold them to it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import URL, MetaData

from aos_dispatcher.tables import Base as DispatcherBase
from aos_operator.tables import Base as OperatorBase
from aos_service.database import database_url, migrate
from aos_service.revisions import Program, alembic_config
from support.schemas import Rows, Schema, Shape, connect, fill, read_rows, read_schema, shared, violations

BEFORE_THE_RULE = {"0002", "operator_0002"}
"""Revisions of when one dispatcher, or operator, was stopped before its tables changed."""
ALLOWED = {"0005": ["api_tokens is locked while index api_tokens_id_key is built"]}
"""What does no harm all the same: a table of few rows."""

FORMER_NAMES = {"operator_0002": {"request": "dispatch"}}
"""Columns that a revision of before the rule has renamed."""

PROGRAMS = [
    pytest.param(
        "dispatcher",
        DispatcherBase.metadata,
        {
            "jobs": {"status": "completed"},
            "challenges": {"status": "open"},
            "rounds": {"challenge": 0, "status": "completed"},
            "api_tokens": {"expires_at": None, "revoked_at": None},
        },
        id="dispatcher",
    ),
    pytest.param(
        "operator",
        OperatorBase.metadata,
        {"tasks": {"state": "accepted", "method": "dispatch_job", "challenge": 0}},
        id="operator",
    ),
]
"""Rows that older schemas have room for: what is special to a newer one, as a challenge's round, is lost on the way back."""


def history(program: Program) -> list[str]:
    """All revisions, oldest first."""
    scripts = ScriptDirectory.from_config(alembic_config(program))
    return [script.revision for script in reversed(list(scripts.walk_revisions()))]


def source(program: Program, revision: str) -> str:
    script = ScriptDirectory.from_config(alembic_config(program)).get_revision(revision)
    assert script is not None
    return Path(script.path).read_text()


@dataclass(frozen=True)
class Moment:
    """A database at one revision."""

    schema: Schema
    rows: Rows


async def moment(url: URL) -> Moment:
    connection = await connect(url)
    schema = await read_schema(connection)
    rows = await read_rows(connection, schema.columns)
    await connection.close()
    # Marks that revisions set and take back by themselves.
    if "counters" in rows:
        rows["counters"] = [row for row in rows["counters"] if row["name"] == "x"]
    return Moment(schema, rows)


async def at(url: URL, program: Program, revision: str) -> Moment:
    await migrate(url, program, revision)
    return await moment(url)


@pytest.mark.parametrize(("program", "metadata", "fixed"), PROGRAMS)
async def test_a_program_of_the_revision_before_goes_on(
    new_database: Any, program: Program, metadata: MetaData, fixed: dict[str, Any]
) -> None:
    url = database_url(await new_database(None))
    before, found = Schema(), {}
    for revision in history(program):
        after = (await at(url, program, revision)).schema
        found[revision] = violations(before, after, source(program, revision))
        before = after
    for revision in BEFORE_THE_RULE & found.keys():
        assert found.pop(revision), "this revision would not have to be excused"
    wrong = {name: said for name, said in found.items() if said != ALLOWED.get(name, [])}
    assert wrong == {}, "a revision only adds what a program that does not know of it can leave out"
    assert metadata.tables.keys() == before.columns.keys()
    assert fixed.keys() <= before.columns.keys()


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("program", "metadata", "fixed"), PROGRAMS)
async def test_every_revision_can_be_undone_and_done_again_without_loss(
    new_database: Any, program: Program, metadata: MetaData, fixed: dict[str, Any]
) -> None:
    url = database_url(await new_database(program))
    connection = await connect(url)
    await fill(connection, metadata, fixed)
    await connection.close()
    newer = await moment(url)
    assert all(newer.rows.values())
    revisions = history(program)
    for revision, earlier in zip(reversed(revisions), [*reversed(revisions[:-1]), "base"], strict=True):
        older = await at(url, program, earlier)
        former = FORMER_NAMES.get(revision, {})
        assert older.rows == shared(newer.rows, older.schema, former), f"going back from {revision}"
        again = await at(url, program, revision)
        assert again.schema == newer.schema, revision
        assert shared(again.rows, older.schema, former) == older.rows, f"{revision} once more"
        newer = await at(url, program, earlier)
    assert newer.schema == Schema()
    assert (await at(url, program, "head")).schema.columns.keys() == metadata.tables.keys()


def test_what_is_found_to_be_wrong() -> None:
    """The rule itself: each of these would break, or hold up, a program of before."""

    text, needed = Shape("text", nullable=True, default=None), Shape("text", nullable=False, default=None)
    before = Schema(
        {"jobs": {"id": needed, "state": text, "note": text}, "old": {"id": needed}},
        {"jobs": {"UNIQUE (note)": frozenset({"note"})}},
        {"jobs": {"jobs_pkey"}},
    )
    after = Schema(
        {"jobs": {"id": needed, "state": needed, "must": needed, "may": text}, "new": {"id": needed}},
        {"jobs": {"UNIQUE (state)": frozenset({"state"}), "CHECK (may)": frozenset({"may"})}},
        {"jobs": {"jobs_pkey", "jobs_state"}},
    )
    assert violations(before, after, "") == [
        "jobs demands: UNIQUE (state)",
        "jobs has lost: UNIQUE (note)",
        "jobs is locked while index jobs_state is built",
        "jobs.must cannot be left out",
        "jobs.note is gone or another",
        "jobs.state is gone or another",
        "table old is gone",
    ]
    assert violations(after, after, "") == []
