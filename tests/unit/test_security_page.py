"""The threat model names tests that exist, and says of every message what becomes of it in every hand."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from aos_dispatcher.projects import CACHE_S
from aos_dispatcher.settings import Limits
from unit.dispatcher.test_tokens import SCANNED_FOR

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)))


@cache
def _tests_of(path: str) -> set[str]:
    """Every test function of a file, in classes or not."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {function.name for function in functions if function.name.startswith("test_")}


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_every_test_that_it_names_exists(path: str, name: str) -> None:
    assert name in _tests_of(path)


def test_it_names_many_and_in_one_form_only() -> None:
    assert len(NAMED) > 80
    assert len(re.findall(r"tests/[\w/]+\.py", PAGE)) == len(re.findall(r"`tests/[\w/]+\.py::\w+`", PAGE))


def test_every_table_of_messages_has_every_fault_with_a_test_or_says_that_nothing_protects() -> None:
    messages = PAGE.partition("## Messages")[2].partition("## Who sends much")[0]
    tables = re.findall(r"(?:^\|.*\n)+", messages, re.MULTILINE)
    assert len(tables) >= 10
    for table in tables:
        rows = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in table.splitlines()[2:]]
        assert [row[0] for row in rows] == ["forged", "replayed", "delayed", "dropped"]
        for row in rows:
            assert "::test_" in row[2] or "nothing protects" in row[1], row


@pytest.mark.parametrize(
    "message",
    [
        "challenge",
        "connect",
        "welcome",
        "draw",
        "dispatch_job",
        "job_result",
        "score_job",
        "job_score",
        "attest",
    ],
)
def test_every_message_of_the_protocol_has_its_place(message: str) -> None:
    assert f"`{message}`" in "".join(re.findall(r"^### .*$", PAGE, re.MULTILINE))


@pytest.mark.parametrize(
    "actor",
    ["project", "operator", "dispatcher", "network attacker", "host of a worker", "PostgreSQL", "Redis"],
)
def test_every_actor_is_there(actor: str) -> None:
    assert re.search(rf"^\*\*[^*]*{actor}[^*]*\*\*", PAGE, re.MULTILINE)


def test_its_numbers_are_the_program_s() -> None:
    assert f"After {Limits().wrong_tokens} tokens that nobody has" in PAGE
    assert f"looked up for {CACHE_S:g} seconds" in PAGE
    assert SCANNED_FOR.pattern in PAGE
