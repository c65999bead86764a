"""What a monitor keeps is written whole or not at all, and what was not written by one is refused."""

import json
from pathlib import Path

import pytest

from aos_auditor.errors import BadState
from aos_auditor.memory import Memory, Said, load, save
from aos_protocol.fields import parse_message
from aos_protocol.log import TreeHead
from support.evidence import signed_head


def kept(path: Path) -> Memory:
    memory = Memory(dispatcher="0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A")
    memory.head = parse_message(TreeHead, signed_head([b"one"]))
    memory.frontier.append("one")
    memory.note_entry(0, "a" * 64)
    memory.note_said(memory.dispatcher or "", 1, Said("b" * 64, "a" * 64))
    save(path, memory)
    return memory


def test_nothing_is_known_at_first(tmp_path: Path) -> None:
    memory = load(tmp_path / "state")
    assert (memory.head, memory.jobs, memory.said, memory.frontier.size) == (None, {}, {}, 0)


def test_what_was_kept_is_there_again(tmp_path: Path) -> None:
    before, after = kept(tmp_path / "state"), load(tmp_path / "state")
    assert (before.dispatcher, before.head, before.jobs, before.said) == (
        after.dispatcher, after.head, after.jobs, after.said,
    )  # fmt: skip
    assert sorted(file.name for file in tmp_path.iterdir()) == ["state", "state.journal"]


def test_the_first_word_stands(tmp_path: Path) -> None:
    memory = kept(tmp_path / "state")
    operator = memory.dispatcher or ""
    assert memory.note_said(operator, 1, Said("c" * 64, "d" * 64)) == Said("b" * 64, "a" * 64)
    assert memory.unwritten == []


def test_a_crash_between_journal_and_state_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "state"
    memory = kept(path)
    journal = tmp_path / "state.journal"
    journal.write_bytes(journal.read_bytes() + b'[1,"half a li')
    again = load(path)
    assert again.jobs == memory.jobs
    again.note_entry(1, "e" * 64)
    save(path, again)
    assert load(path).jobs == {"a" * 64: [0], "e" * 64: [1]}


@pytest.mark.parametrize(
    "change",
    [
        {"version": "aos-monitor/0"},
        {"head": None},
        {"frontier": ["00" * 32]},
        {"journal": 10**6},
        {"log": {"weight": 1}},
        {"tags": {}},
        {"tags": {"placed": 0, "hidden": 0, "users": [1], "waiting": {}}},
        {"domain": {"chain_id": 1}},
        {"head": {"size": 1}},
    ],
)
def test_what_no_monitor_wrote_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "state"
    kept(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(BadState, match="move it away to begin anew"):
        load(path)


@pytest.mark.parametrize("text", ["", "[]", "{}", "\udcff"])
def test_a_file_that_is_no_state_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "state"
    path.write_text(text, errors="surrogateescape")
    with pytest.raises(BadState):
        load(path)


def test_a_journal_with_other_lines_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state"
    kept(path)
    journal = tmp_path / "state.journal"
    journal.write_bytes(b'{"a":1}\n'.ljust(len(journal.read_bytes()), b"\n"))
    with pytest.raises(BadState):
        load(path)


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadState, match="cannot be written"):
        save(tmp_path / "nowhere" / "state", Memory())
