"""A dispatcher's log as a monitor follows it: on to each new head, and never to one that does not fit the last."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from aos_auditor.dispatcher import ENTRIES_AT_ONCE, DispatcherApi
from aos_auditor.documents import Contracts, Known
from aos_auditor.errors import BadAnswer, NotAuditable, Refused
from aos_auditor.http import JsonObject
from aos_auditor.memory import Memory
from aos_auditor.online import check_continues
from aos_protocol.canonical import parse
from aos_protocol.errors import InvalidAddress, InvalidEvidence, NotCanonical, ProtocolError
from aos_protocol.evidence import Check
from aos_protocol.identity import checksum_address
from aos_protocol.log import TreeHead, check_head
from aos_protocol.log_state import LogState
from aos_protocol.typed_data import Domain

_JOB = re.compile(r'"job_id":"([0-9a-f]{64})","kind":"job"')
_NO_REGISTRY = "0x" + "0" * 40


@dataclass
class Follower:
    """Follows one dispatcher's log; `known` is what was known beforehand, `proofs` the folder where forks are written down.

    `memory` goes on only from what was verified.
    """

    api: DispatcherApi
    memory: Memory
    known: Known
    proofs: Path

    async def advance(self) -> list[Check]:
        """Go on to the newest head, and return the checks of it.

        1. The head is signed by the dispatcher that was seen first.  2. It is no smaller than the one before it, and if it is as
        large, it has the same root.  3. The new entries give its root.  4. They say what a log can say. Raises `Unreachable`, `Refused`
        and `BadAnswer` when the dispatcher cannot be asked, `NotAuditable` when it is not the one that was known.
        """
        shown = await self.api.head()
        if shown is None:
            return [Check("AOS-HEAD-1", "SKIP", f"{self.api.url} has no log yet")]
        head, said = shown
        await self._recognise(said)
        dispatcher, domain = self.identity()
        try:
            check_head(dispatcher, domain, head)
        except ProtocolError as error:
            return [Check("AOS-HEAD-1", "FAIL", f"the head of {head.size} entries: {error}")]
        signed = Check("AOS-HEAD-1", "PASS", f"the head of {head.size} entries is signed by {dispatcher}")
        return [signed, *await self._grow(head)]

    async def continues(self, size: int, root: str) -> None:
        """Raise `InvalidEvidence` unless a state that came from elsewhere is one of the log that is followed. Raises as `check_continues`."""
        kept = self.memory.head
        if kept is not None:
            await check_continues(self.api, (size, root), (kept.size, kept.root))

    def fork(self, first: TreeHead, second: TreeHead, why: str, check: str = "AOS-FORK-1") -> Check:
        """Write two signed heads that do not fit to a file, once, and return the failed check that shows them."""
        dispatcher, domain = self.identity()
        document = {
            "dispatcher": dispatcher,
            "domain": {"chain_id": domain.chain_id, "registry": domain.registry},
            "heads": [first.to_json(), second.to_json()],
        }
        file = self.proofs / f"fork-{second.size}-{second.root[:16]}.json"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
        heads = " and ".join(json.dumps(head.to_json()) for head in (first, second))
        return Check(check, "FAIL", f"{why}; both are signed by {dispatcher}: {heads}; written to {file}")

    async def _recognise(self, said: JsonObject) -> None:
        """Take dispatcher and domain from what was known, else from the first head. Raises `NotAuditable` for another one."""
        memory, contracts = self.memory, self.known.contracts
        named = _address(said.get("dispatcher"))
        pinned = self.known.dispatcher or memory.dispatcher
        if pinned is None and named is None:
            raise NotAuditable(f"{self.api.url} does not say who signs its log: give --dispatcher-address")
        if pinned is not None and named not in {None, pinned}:
            raise NotAuditable(
                f"{self.api.url} is the dispatcher {named}, not {pinned}: give another --state, or another URL"
            )
        memory.dispatcher = pinned or named
        if contracts is not None and contracts.chain_id is not None:
            memory.domain = Domain(contracts.chain_id, contracts.registry)
        elif memory.domain is None:
            memory.domain = _domain(said.get("domain") or await self._named_domain(), contracts)

    async def _named_domain(self) -> object:
        """The domain that the evidence of some job names, None where there is no job whose evidence is shown."""
        for text in await self.api.entries(0, ENTRIES_AT_ONCE):
            found = _JOB.search(text)
            if found is None:
                continue
            try:
                return (await self.api.evidence(found[1])).get("domain")
            except Refused:  # a private project's, for example
                continue
        return None

    def identity(self) -> tuple[str, Domain]:
        """The dispatcher that signs this log, and the EIP-712 domain that it signs in."""
        return self.memory.dispatcher or "", self.memory.domain or Domain(0, _NO_REGISTRY)

    async def _grow(self, head: TreeHead) -> list[Check]:
        kept = self.memory.head
        size = kept.size if kept else 0
        if kept is not None and head.size < size:
            why = f"the log had {size} entries, and is shown with {head.size} now"
            return [self.fork(kept, head, why, "AOS-ROLLBACK-1")]
        texts = await self._read(size, head.size)
        frontier = self.memory.frontier.copy()
        for text in texts:
            frontier.append(text)
        if frontier.root() != head.root:
            return [await self._why_not(kept, head)]
        checks = [
            Check("AOS-FORK-1", "PASS", f"{head.size} entries go on from the {size} seen before"),
            Check("AOS-LOG-2", "PASS", f"new entries that give the head's root: {len(texts)}"),
        ]
        self.memory.frontier, self.memory.head = frontier, head
        return [*checks, *self._take(size, texts)]

    async def _read(self, start: int, end: int) -> list[str]:
        texts: list[str] = []
        while start + len(texts) < end:
            wanted = min(ENTRIES_AT_ONCE, end - start - len(texts))
            more = await self.api.entries(start + len(texts), wanted)
            if not more:
                raise BadAnswer(
                    f"{self.api.url} has signed {end} entries, and serves none from {start + len(texts)} on"
                )
            texts += more
        return texts

    async def _why_not(self, kept: TreeHead | None, head: TreeHead) -> Check:
        """Tell a fork from entries that are not those that were signed."""
        if kept is not None:
            try:
                await self.continues(head.size, head.root)
            except (ProtocolError, BadAnswer) as error:
                return self.fork(kept, head, f"the new head does not continue the one seen before: {error}")
        return Check(
            "AOS-LOG-2",
            "FAIL",
            f"the entries that are served do not give the root of the head of {head.size}",
        )

    def _take(self, start: int, texts: Iterable[str]) -> list[Check]:
        """Fold entries into what the log says, and note which jobs they are about."""
        memory, problems, count = self.memory, [], 0
        for index, text in enumerate(texts, start):
            count += 1
            try:
                said = memory.log.take(index, text)
            except InvalidEvidence as error:
                problems.append(Check("AOS-LOG-3", "FAIL", f"entry {index}: {error}"))
                said = _pass_over(memory.log, index, text)
            job_id = said.get("job_id")
            if isinstance(job_id, str):
                if said.get("kind") == "job" and job_id not in memory.jobs:
                    memory.tags.opened(job_id)
                memory.note_entry(index, job_id)
                if said.get("kind") in {"verdict", "rejection"} and job_id not in memory.waiting:
                    memory.waiting.append(job_id)
        good = [Check("AOS-LOG-3", "PASS", f"entries that say what a log can say: {count}")] if count else []
        return problems or good


def _pass_over(log: LogState, index: int, text: str) -> JsonObject:
    """Go on after an entry that does not fit, so that what is wrong with it is told once, and return what it says."""
    log.size = index + 1
    try:
        said = parse(text)
    except NotCanonical:
        return {}
    if not isinstance(said, dict):
        return {}
    if said.get("kind") == "job" and isinstance(said.get("sequence"), int):
        log.sequence = int(str(said["sequence"]))
    return said


def _address(value: object) -> str | None:
    if value is None:
        return None
    try:
        return checksum_address(value)  # type: ignore[arg-type]
    except InvalidAddress as error:
        raise BadAnswer(f"the head's dispatcher is no address: {error}") from error


def _domain(said: object, contracts: Contracts | None) -> Domain:
    """The EIP-712 domain that the dispatcher names; one without a chain names none."""
    if not isinstance(said, dict):
        return Domain(0, contracts.registry if contracts else _NO_REGISTRY)
    try:
        domain = Domain(said["chain_id"], said["registry"])
    except (KeyError, TypeError, ProtocolError) as error:
        raise BadAnswer(f"the head's domain cannot be read: {error}") from error
    if contracts is not None and domain.registry != contracts.registry:
        raise NotAuditable(
            f"the dispatcher signs for registry {domain.registry}, not for {contracts.registry}"
        )
    return domain
