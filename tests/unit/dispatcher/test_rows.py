"""Rows of a statement become arrays."""

from datetime import UTC, datetime

from sqlalchemy import text

from aos_dispatcher.round_sql import ROWS, statement
from aos_dispatcher.rows import Rows, insertion
from aos_dispatcher.tables import Assignment, Job


def test_each_column_is_an_array_of_its_type() -> None:
    rows = Rows.of(Job, "id", "sequence", "request", "deadline")
    assert rows.types == {"id": "text", "sequence": "bigint", "request": "json", "deadline": "timestamptz"}
    assert rows.sql.startswith("unnest(cast(:new_jobs_id as text[]), cast(:new_jobs_sequence as bigint[]), ")
    assert rows.sql.endswith(" as new_jobs(id, sequence, request, deadline)")


def test_json_is_text_and_none_is_null_in_it_too() -> None:
    now = datetime.now(UTC)
    rows = [
        {"id": "a", "request": {"x": [1, None]}, "deadline": now, "more": 1},
        {"id": "b", "request": None, "deadline": None},
    ]
    assert Rows.of(Job, "id", "request", "deadline").parameters(rows) == {
        "new_jobs_id": ["a", "b"],
        "new_jobs_request": ['{"x": [1, null]}', None],
        "new_jobs_deadline": [now, None],
    }


def test_an_insertion_names_its_columns() -> None:
    statement = insertion(Assignment, Rows("new", {"round_id": "bigint", "operator": "text"}))
    assert statement == (
        "insert into assignments (round_id, operator) select new.round_id, new.operator "
        "from unnest(cast(:new_round_id as bigint[]), cast(:new_operator as text[])) as new(round_id, operator)"
    )


def test_a_statement_has_the_parts_that_there_are_rows_for_and_their_parameters() -> None:
    """Any set of parts is a statement, whose parameters are those of its rows and of the lease."""
    always = {"owner", "locked", "asked_id", "asked_fencing_token"}
    for first in range(len(ROWS)):
        for last in range(first, len(ROWS) + 1):
            some = ROWS[first:last]
            needed = {name for rows in some for name in rows.parameters([])}
            made = statement(tuple(rows.name for rows in some))
            assert set(text(made.text).compile().params) == needed | always
