"""What a log says is so now: its entries folded, to be held against what its dispatcher shows of operators and models.

Whoever follows a log takes every entry into a `LogState`, in order. A row that was changed, added or deleted behind the
dispatcher's back then differs from the last entry about it. Of jobs, evidence tells more (`evidence_log`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Self

from aos_protocol.canonical import canonical, parse
from aos_protocol.errors import InvalidEvidence, ProtocolError
from aos_protocol.log_entries import (
    JsonObject,
    fraud_details,
    fraud_entry,
    model_entry,
    pool_entry,
    standing_entry,
)

_OF_JOBS: Final = {"round", "tickets", "result", "score", "verdict"}
_UNTOUCHED: Final = {"standing": "good", "suspended_at": None, "appeal": "none"}


@dataclass
class LogState:
    """A log up to `size` entries. The maps hold the last entry about each subject, as a text, by operator and then by what it is about."""

    size: int = 0
    sequence: int = 0
    operators: dict[str, int] = field(default_factory=dict)
    standings: dict[str, str] = field(default_factory=dict)
    frauds: dict[str, dict[str, str]] = field(default_factory=dict)
    pools: dict[str, dict[str, str]] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)

    def take(self, index: int, text: str) -> JsonObject:
        """Take in the next entry and return what it says.

        Raises `InvalidEvidence` when it is not the next, when jobs or numbers are not counted without a gap, or when it is about an
        operator that never got a number.
        """
        if index != self.size:
            raise InvalidEvidence(f"entry {index} of the log does not follow entry {self.size - 1}")
        said = _read(index, text)
        try:
            self._fold(said, text)
        except (KeyError, TypeError) as error:
            raise InvalidEvidence(f"entry {index} of the log lacks {error}") from None
        self.size += 1
        return said

    def differences_of_operators(self, listed: Iterable[Mapping[str, Any]]) -> list[str]:
        """Return how the list of operators differs from the log: `operator` and `number` of each, a sentence for each difference."""
        shown = [(str(row["operator"]), int(row["number"])) for row in listed]
        return _differences("operator", sorted(self.operators.items()), sorted(shown))

    def differences_of_models(self, listed: Iterable[Mapping[str, Any]]) -> list[str]:
        """Return how the list of models differs from the log: `name`, `job_type`, `sha256` and `calibration` of each."""
        shown = [
            model_entry(row["name"], row["job_type"], row["sha256"], row["calibration"]) for row in listed
        ]
        return _differences("model", sorted(self.models.values()), sorted(shown))

    def differences_of_standing(self, shown: Mapping[str, Any]) -> list[str]:
        """Return how an operator's standing, as the API shows it, differs from the log."""
        operator = str(shown["operator"])
        number = self.operators.get(operator)
        found = (
            []
            if number == shown["number"]
            else [f"{operator} has number {number} in the log, not {shown['number']}"]
        )
        logged = self.standings.get(operator, standing_entry(operator, _UNTOUCHED))
        found += _differences("standing", [logged], [standing_entry(operator, shown)])
        frauds = [fraud_entry(operator, fraud) for fraud in shown["frauds"]]
        found += _differences("finding", sorted(self.frauds.get(operator, {}).values()), sorted(frauds))
        pools = [pool_entry(operator, pool) for pool in shown["pools"]]
        found += _differences("pool", sorted(self.pools.get(operator, {}).values()), sorted(pools))
        return found + [line for fraud in shown["frauds"] for line in _misread(fraud)]

    def to_json(self) -> JsonObject:
        """Return all of it as JSON, to go on from later."""
        return asdict(self)

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote. Raises `InvalidEvidence` for anything else."""
        try:
            return cls(**kept)
        except TypeError as error:
            raise InvalidEvidence(f"this is no kept state of a log: {error}") from None

    def _fold(self, said: JsonObject, text: str) -> None:
        kind = said["kind"]
        if kind == "job":
            self._count(said["sequence"])
        elif kind == "operator":
            self._number(said["operator"], said["number"])
        elif kind == "model":
            self.models[f"{said['job_type']} {said['name']}"] = text
        elif kind == "standing":
            self.standings[self._known(said)] = text
        elif kind == "fraud":
            self.frauds.setdefault(self._known(said), {})[said["fraud"]] = text
        elif kind == "pool":
            self.pools.setdefault(self._known(said), {})[said["model"]] = text
        elif kind not in _OF_JOBS and kind != "rejection":
            raise InvalidEvidence(f"the log has an entry of a kind that there is not: {kind}")

    def _count(self, sequence: int) -> None:
        if sequence != self.sequence + 1:
            raise InvalidEvidence(f"job {sequence} of the log does not follow job {self.sequence}")
        self.sequence = sequence

    def _number(self, operator: str, number: int) -> None:
        if operator in self.operators or number in self.operators.values() or number < 2:
            raise InvalidEvidence(f"{operator} or its number {number} stands in the log twice, or is none")
        self.operators[operator] = number

    def _known(self, said: JsonObject) -> str:
        operator = str(said["operator"])
        if operator not in self.operators:
            raise InvalidEvidence(f"the log tells of operator {operator}, which never got a number")
        return operator


def _read(index: int, text: str) -> JsonObject:
    try:
        said = parse(text)
        if isinstance(said, dict) and canonical(said).decode() == text:
            return said
    except ProtocolError as error:
        raise InvalidEvidence(f"entry {index} of the log cannot be read: {error}") from None
    raise InvalidEvidence(f"entry {index} of the log is no object in canonical JSON")


def _differences(what: str, logged: list[Any], shown: list[Any]) -> list[str]:
    lost = [
        f"the log has this {what}, and the dispatcher does not show it: {one}"
        for one in logged
        if one not in shown
    ]
    made = [
        f"the dispatcher shows this {what}, and the log has not got it: {one}"
        for one in shown
        if one not in logged
    ]
    twice = [f"a {what} is shown more than once"] if len(set(shown)) != len(shown) else []
    return lost + made + twice


def _misread(fraud: Mapping[str, Any]) -> list[str]:
    """Hold a finding's proof and verifiers, where they are shown, against the digest that the log binds."""
    if fraud["proof"] is None and "verifiers" not in fraud["verdict"]:
        return []  # either there is nothing, or this project's token is needed to see it
    if fraud_details(fraud["proof"], fraud["verdict"]) == fraud["details"]:
        return []
    return [
        f"the proof of finding {fraud['id']}, or what its verifiers found, is not what its details are the digest of"
    ]
