"""The operator guide says what the program says."""

import re
from pathlib import Path
from typing import Any, get_args

import pytest

from aos_operator.settings import OperatorSettings

ROOT = Path(__file__).parents[3]
GUIDE = (ROOT / "docs" / "operator-guide.md").read_text()
SOURCES = "\n".join(
    path.read_text()
    for room in ("operator", "service", "dispatcher", "protocol", "chain")
    for path in (ROOT / room).rglob("*.py")
)


def _model(annotation: Any) -> Any:
    """The group that a field holds, or may hold."""
    return next(iter(get_args(annotation)), annotation)


def test_it_explains_every_key_and_no_other() -> None:
    groups = OperatorSettings.model_fields
    alone = {"backends"}  # a list, whose entries docs/backends.md explains
    known = {
        f"{name}.{key}"
        for name, group in groups.items()
        if name not in alone
        for key in _model(group.annotation).model_fields
    }
    explained = set(re.findall(rf"`((?:{'|'.join(groups)})\.[a-z_]+)`", GUIDE))
    assert explained == known
    assert all(f"| `{name}` |" in GUIDE for name in alone)


def test_it_tells_the_right_defaults() -> None:
    told = re.findall(r"\| `([a-z]+)\.([a-z_]+)` \| `?([a-z0-9]+)`? \|", GUIDE)
    assert len(told) >= 11
    for group, key, default in told:
        field = _model(OperatorSettings.model_fields[group].annotation).model_fields[key]
        assert str(field.default) == default, f"{group}.{key}"


def phrases() -> list[str]:
    """The fixed words of every message that the troubleshooting tables quote."""
    tables = GUIDE.split("## Troubleshooting")[1]
    quoted = re.findall(r"^\| (?:\d \| )?(`[^|]*`) \|", tables, re.MULTILINE)
    pieces = [
        piece for cell in quoted for piece in re.split(r"`|\.\.\.|0x|FILE:LINE: group.key: |attempt: ", cell)
    ]
    return [phrase for piece in pieces if len(phrase := piece.strip(" ,:()")) > 8]


@pytest.mark.parametrize("phrase", phrases())
def test_its_messages_are_the_programs(phrase: str) -> None:
    words = re.escape(phrase).replace(r"\ ", r"(?:\s|\"\s*f?\")+")
    assert re.search(words, SOURCES), f"no message says {phrase!r}"


def test_there_are_messages_to_compare() -> None:
    assert len(phrases()) > 20
