"""Verifying snp evidence."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from aos_protocol.errors import InvalidAttestation


@dataclass(frozen=True)
class Report:
    """What a verified report says; measurements by name in hex, and the 64 bytes that it binds."""

    measurements: Mapping[str, str]
    debug: bool
    report_data: bytes


def verify(document: bytes, collateral: dict[str, Any] | None, *, roots: Collection[str], at: int) -> Report:
    """Verify a report with its certificates at `at` (Unix seconds). Raises `InvalidAttestation`."""
    raise InvalidAttestation("not verified yet")
