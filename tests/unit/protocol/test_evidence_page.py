"""docs/evidence.md and docs/evidence.schema.json tell what the code does."""

import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from aos_dispatcher.standing import pool_document
from aos_protocol import log_entries, typed_data
from aos_protocol.canonical import digest
from aos_protocol.evidence_document import Evidence, RoundDocument
from aos_protocol.fields import parse_message
from support.evidence_mutations import NAMES, document

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "evidence.md").read_text("utf-8")
SCHEMA = ROOT / "docs" / "evidence.schema.json"


def test_the_schema_is_that_of_the_models() -> None:
    made = runpy.run_path(str(ROOT / "scripts" / "evidence_schema.py"))["schema_text"]()
    assert SCHEMA.read_text("utf-8") == made, "python scripts/evidence_schema.py writes it anew"


@pytest.mark.parametrize("name", NAMES)
def test_real_documents_are_of_the_models(name: str) -> None:
    assert parse_message(Evidence, document(name)).to_json()["version"] == "aos-evidence/1"


@pytest.mark.parametrize("name", NAMES)
def test_real_documents_are_valid_by_the_schema(name: str) -> None:
    validator = _validator()
    validator.validate(document(name))
    for member in document(name):
        without = {key: value for key, value in document(name).items() if key != member}
        assert not validator.is_valid(without)
    assert not validator.is_valid(document(name) | {"more": 1})


def test_every_member_is_on_the_page() -> None:
    named = set(re.findall(r"`([a-z_0-9]+)`", PAGE))
    assert Evidence.model_fields.keys() <= named
    assert RoundDocument.model_fields.keys() <= named


def test_every_type_string_is_on_the_page() -> None:
    kinds: list[Any] = [
        typed_data.ReceiptClaim, typed_data.ResultClaim, typed_data.ScoreClaim, typed_data.ChallengeClaim,
        typed_data.ExecutionClaim, typed_data.TreeHeadClaim, typed_data.SeatClaim,
    ]  # fmt: skip
    for kind in kinds:
        members = ",".join(f"{solidity} {name}" for name, solidity, _ in kind.fields)
        assert f"\n{kind.primary_type}({members})\n" in PAGE


def test_every_check_is_on_the_page() -> None:
    sources = [*(ROOT / "protocol").rglob("evidence*.py"), *(ROOT / "auditor").rglob("*.py")]
    ids = {
        found for source in sources for found in re.findall(r"AOS-[A-Z]+-[0-9]", source.read_text("utf-8"))
    }
    listed = set(re.findall(r"AOS-[A-Z]+-[0-9]", PAGE.partition("## Checks")[2].partition("## Unauth")[0]))
    assert ids == listed


def test_the_members_of_entries_about_operators_and_models_are_on_the_page() -> None:
    fraud = dict.fromkeys(log_entries._FRAUD) | {"verdict": {"outcome": "mismatch", "verifiers": []}}
    entries = [
        log_entries.operator_entry("0x", 2),
        log_entries.model_entry("tiny.gguf", "opml", "00", None),
        log_entries.standing_entry("0x", {"standing": "good", "suspended_at": None, "appeal": "none"}),
        log_entries.fraud_entry("0x", fraud),
        log_entries.pool_entry(
            "0x", pool_document({"model_sha256": "00", "tokens": 1, "llr": 0.5, "decision": ""})
        ),
    ]
    for entry in map(json.loads, entries):
        kind = entry.pop("kind")
        assert entry.keys() <= set(re.findall(r"`([a-z_0-9]+)`", _row(kind)))


def test_the_digests_of_entries_about_operators_are_those_of_the_page() -> None:
    """An auditor that follows the page comes to the dispatcher's digests."""
    shown = {name: name for name in _named("fraud")} | {"verdict": {"outcome": "mismatch", "verifiers": [1]}}
    bound = shown | {"verdict": {"outcome": "mismatch"}}
    assert json.loads(log_entries.fraud_entry("0x", shown | {"proof": {}}))["digest"] == digest(bound)
    pool = pool_document({"model_sha256": "00", "tokens": 1, "llr": 0.5, "decision": "open"})
    assert pool.keys() == set(_named("pool"))
    assert json.loads(log_entries.pool_entry("0x", pool))["digest"] == digest(pool)
    assert log_entries.fraud_details(None, {}) == digest({"proof": None, "verifiers": None})


def _named(entry: str) -> list[str]:
    """The members that the digest of an entry is of, by the page."""
    [members] = re.findall(r"`digest` of `\{(.*?)\}`", _row(entry))
    return members.split(", ")


def _row(entry: str) -> str:
    """The line about an entry that is of no job."""
    section = PAGE.partition("The log has other entries")[2].partition("## Checks")[0]
    [row] = re.findall(rf"^\| `{entry}` \|.*$", section, re.MULTILINE)
    return str(row)


def _validator() -> Any:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    return jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text("utf-8")))
