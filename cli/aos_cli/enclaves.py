"""Enclaves that were asked for an attestation, and what a policy says of each: nobody's word is taken for it."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from aos_cli.client import JsonObject
from aos_cli.show import kind_text, printable
from aos_protocol.attestation.appraisal import Appraisal, appraise
from aos_protocol.attestation.policy import AttestationPolicy
from aos_protocol.attestation.statement import Attestation, Kind
from aos_protocol.errors import ProtocolError
from aos_protocol.fields import parse_message

_MEASURED: dict[Kind, str] = {
    "nitro": "pcr0",
    "simulated": "pcr0",
    "tdx": "mr_td",
    "sev-snp": "measurement",
}
"""The measurement by which a build is known at a glance."""

_SHORT = 16


@dataclass(frozen=True)
class Enclave:
    """One enclave that was asked: `appraisal` is there when it is good, else `reason` says why it is not.

    `operator` is the address of the operator that it is behind, or the URL at which it was asked itself.
    """

    operator: str
    attestation: Attestation | None
    appraisal: Appraisal | None
    measured: str
    reason: str

    def to_json(self) -> JsonObject:
        """Return the row as `aos attest --json` prints it; what is not good is said to be of no kind and build."""
        good = self.appraisal
        return {
            "operator": self.operator,
            "passed": good is not None,
            "kind": good.kind if good else None,
            "build": good.build if good else None,
            "debug": good.debug if good else None,
            "measured": self.measured if good else None,
            "keyset": good.keyset if good else None,
            "age": good.verified_at - good.issued_at if good else None,
            "reason": self.reason,
        }


def judge(
    answers: Iterable[JsonObject], policy: AttestationPolicy, *, model: str, nonce: str
) -> list[Enclave]:
    """Appraise the answers `{"operator", "attestation" | "reason"}` to a call for attestations on `nonce`, now."""
    now = int(time.time())
    return [_judge(answer, policy, model, nonce, now) for answer in answers]


def good_ones(enclaves: Sequence[Enclave]) -> list[tuple[str, Attestation]]:
    """Return operator and attestation of those that passed."""
    return [(each.operator, each.attestation) for each in enclaves if each.appraisal and each.attestation]


def table_of(enclaves: Sequence[Enclave]) -> Table:
    """Return the enclaves as a table for a terminal. Of one that failed, only the reason is known."""
    table = Table(box=None, show_header=True, header_style="dim", padding=(0, 2, 0, 0))
    for column in ("", "operator", "kind", "build", "measured", "keyset", "age", "reason"):
        table.add_column(column, overflow="fold", no_wrap=column != "reason")
    for each in enclaves:
        good = each.appraisal
        if good is None:
            said = Text(printable(each.reason))
            table.add_row(Text("FAIL", "bold red"), Text(each.operator), "-", "-", "-", "-", "-", said)
            continue
        table.add_row(
            Text("PASS", "green"),
            Text(each.operator),
            kind_text(good.kind),
            Text(f"{good.build} (DEBUG)" if good.debug else good.build),
            Text(f"{_MEASURED[good.kind]} {each.measured[:_SHORT]}…"),
            Text(f"{good.keyset[:_SHORT]}…"),
            f"{good.verified_at - good.issued_at} s",
            "",
        )
    return table


def _judge(answer: JsonObject, policy: AttestationPolicy, model: str, nonce: str, now: int) -> Enclave:
    operator = str(answer["operator"])
    if "attestation" not in answer:
        return Enclave(operator, None, None, "", str(answer.get("reason") or "it sent no attestation"))
    try:
        attestation = parse_message(Attestation, answer["attestation"])
        appraisal = appraise(attestation, policy, model=model, nonce=nonce, now=now)
    except ProtocolError as error:
        return Enclave(operator, None, None, "", str(error))
    return Enclave(operator, attestation, appraisal, _measured(appraisal, policy, model), "")


def _measured(appraisal: Appraisal, policy: AttestationPolicy, model: str) -> str:
    """The measurement that the enclave was found to have: that of its build in the policy, where names are unique."""
    trusted = policy.models[model].trusted(appraisal.kind)
    builds = {build.name: build for build in trusted.builds} if trusted else {}
    return builds[appraisal.build].measurements[_MEASURED[appraisal.kind]]
