"""What a monitor keeps from one look to the next: a small state file, and a journal that only grows.

The state file is JSON, written whole or not at all: the newest head that was verified, the subtrees that its root follows from, the fold of
the log (`aos_protocol.log_state`), the tags of users, which jobs are still to be audited, and what was not told yet. The journal beside it (`.journal`) has a line for each log entry
about a job and for each statement of an operator, about 150 bytes each; the state says how much of it counts, so that a crash between
the two writes loses nothing.
"""

import json
import os
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

from aos_auditor.errors import BadState
from aos_auditor.frontier import Frontier
from aos_auditor.tags import Tags
from aos_protocol.errors import ProtocolError
from aos_protocol.evidence import Check
from aos_protocol.fields import parse_message
from aos_protocol.log import TreeHead
from aos_protocol.log_state import LogState
from aos_protocol.typed_data import Domain

VERSION = "aos-monitor/1"


@dataclass(frozen=True)
class Said:
    """What an operator said as one event: the digest of its content, and the job whose evidence has the frame."""

    content: str
    job_id: str


@dataclass
class Memory:
    """Everything that a monitor of one dispatcher knows; `waiting` are jobs whose evidence is still to be looked at.

    `untold` is what was found in a look that did not come to its end.
    """

    dispatcher: str | None = None
    domain: Domain | None = None
    head: TreeHead | None = None
    frontier: Frontier = field(default_factory=Frontier)
    log: LogState = field(default_factory=LogState)
    tags: Tags = field(default_factory=Tags)
    waiting: list[str] = field(default_factory=list)
    untold: list[Check] = field(default_factory=list)
    jobs: dict[str, list[int]] = field(default_factory=dict)
    said: dict[tuple[str, int], Said] = field(default_factory=dict)
    unwritten: list[list[Any]] = field(default_factory=list)
    written: int = 0

    def note_entry(self, index: int, job_id: str) -> None:
        """Remember that this entry of the log is about this job."""
        self.jobs.setdefault(job_id, []).append(index)
        self.unwritten.append([index, job_id])

    def note_said(self, operator: str, counter: int, said: Said) -> Said:
        """Remember what an operator said as this event, and return what it had said before, if anything, else the same."""
        before = self.said.setdefault((operator, counter), said)
        if before is said:
            self.unwritten.append([operator, counter, said.content, said.job_id])
        return before


def load(path: Path) -> Memory:
    """Read a monitor's state, a new one where there is no file. Raises `BadState`."""
    if not path.exists():
        return Memory()
    try:
        document = json.loads(path.read_text("utf-8"))
        memory = _read(document)
        _replay(memory, _journal(path), document["journal"])
    except (OSError, ValueError, KeyError, TypeError, ProtocolError) as error:
        raise BadState(
            f"the state in {path} cannot be used ({error}): move it away to begin anew; what was verified until now is verified again then"
        ) from error
    return memory


def save(path: Path, memory: Memory) -> None:
    """Write the journal's new lines, then the state, each durably. Raises `BadState`."""
    try:
        memory.written = _append(_journal(path), memory)
        memory.unwritten.clear()
        part = path.with_name(f"{path.name}.part{os.getpid()}")
        with part.open("w", encoding="utf-8") as file:
            json.dump(_document(memory), file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise BadState(f"the state cannot be written to {path}: {error.strerror}") from error


def _document(memory: Memory) -> dict[str, Any]:
    domain = memory.domain
    return {
        "version": VERSION,
        "dispatcher": memory.dispatcher,
        "domain": {"chain_id": domain.chain_id, "registry": domain.registry} if domain else None,
        "head": memory.head.to_json() if memory.head else None,
        "frontier": memory.frontier.to_json(),
        "log": memory.log.to_json(),
        "tags": memory.tags.to_json(),
        "waiting": memory.waiting,
        "untold": [astuple(check) for check in memory.untold],
        "journal": memory.written,
    }


def _read(document: dict[str, Any]) -> Memory:
    if document["version"] != VERSION:
        raise ValueError(f"it is of version {document['version']!r:.40}, not {VERSION}")
    head = parse_message(TreeHead, document["head"]) if document["head"] else None
    frontier = Frontier.from_json(head.size if head else 0, document["frontier"])
    if head is not None and frontier.root() != head.root:
        raise ValueError("its subtrees do not give its head's root")
    domain = document["domain"]
    return Memory(
        dispatcher=document["dispatcher"],
        domain=Domain(domain["chain_id"], domain["registry"]) if domain else None,
        head=head,
        frontier=frontier,
        log=LogState.from_json(document["log"]),
        tags=Tags.from_json(document["tags"]),
        waiting=list(document["waiting"]),
        untold=[Check(*check) for check in document["untold"]],
        written=document["journal"],
    )


def _journal(path: Path) -> Path:
    return path.with_name(f"{path.name}.journal")


def _append(journal: Path, memory: Memory) -> int:
    lines = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in memory.unwritten).encode()
    with journal.open("r+b" if journal.exists() else "x+b") as file:
        file.truncate(memory.written)
        file.seek(memory.written)
        file.write(lines)
        file.flush()
        os.fsync(file.fileno())
    return memory.written + len(lines)


def _replay(memory: Memory, journal: Path, length: int) -> None:
    data = journal.read_bytes()[:length] if length else b""
    if len(data) < length:
        raise ValueError(f"{journal} has {len(data)} bytes of {length}")
    for line in data.splitlines():
        match json.loads(line):
            case [int(index), str(job_id)]:
                memory.jobs.setdefault(job_id, []).append(index)
            case [str(operator), int(counter), str(content), str(job_id)]:
                memory.said[operator, counter] = Said(content, job_id)
            case _:
                raise ValueError(f"{journal} has a line that is none of a monitor's")
