"""TDX quotes: what hardware made, with the collateral of their day; and what of them nobody signed."""

import hashlib
import json
import struct
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aos_protocol.attestation import tdx, tdx_envelope
from aos_protocol.attestation.certificates import from_pem
from aos_protocol.errors import InvalidAttestation

REASONS = {
    "sgx_quote.bin": "it is an SGX quote",
    "tdx_quote_outdated.bin": "No matching TCB level found",
    "tdx_quote_tampered_report_data.bin": "ISV enclave report signature is invalid",
}
SIGNATURE_DATA = 632
"""Where the length of the signature data stands in the good quote, of version 4."""

PADDING_FROM = 4936
CHAIN_FROM = 1258
Entry = dict[str, Any]


@pytest.fixture(scope="module")
def entries(vectors: Path) -> dict[str, Entry]:
    return {entry["quote"]: entry for entry in json.loads((vectors / "tdx" / "manifest.json").read_text())}


@pytest.fixture(scope="module")
def good(vectors: Path) -> bytes:
    return (vectors / "tdx" / "tdx_quote.bin").read_bytes()


@pytest.fixture(scope="module")
def collateral(vectors: Path) -> dict[str, Any]:
    said: dict[str, Any] = json.loads((vectors / "tdx" / "tdx_quote_collateral.json").read_text())
    return said


@pytest.fixture(scope="module")
def at(entries: dict[str, Entry]) -> int:
    moment: int = entries["tdx_quote.bin"]["verify_at_unix"]
    return moment


def refused(
    quote: bytes, collateral: dict[str, Any] | None, at: int, tcb: tuple[str, ...] = ("UpToDate",)
) -> str:
    with pytest.raises(InvalidAttestation) as caught:
        tdx.verify(quote, collateral, at=at, tcb=tcb)
    return str(caught.value)


def test_every_published_quote_gives_what_the_manifest_expects(
    entries: dict[str, Entry], vectors: Path
) -> None:
    assert entries.keys() == {"tdx_quote.bin", *REASONS}
    for name, entry in entries.items():
        quote = (vectors / "tdx" / name).read_bytes()
        collateral = json.loads((vectors / "tdx" / entry["collateral"]).read_text())
        if name in REASONS:
            # The SGX quote is genuine; it is not what is asked for.
            assert (entry["expected"] == "valid") == (name == "sgx_quote.bin")
            assert REASONS[name] in refused(quote, collateral, entry["verify_at_unix"])
            continue
        said = tdx.verify(quote, collateral, at=entry["verify_at_unix"], tcb=["UpToDate"])
        report = dict(entry["report"])
        assert said.report_data.hex() == report.pop("report_data")
        assert said.measurements == report
        assert not said.debug


def test_the_policy_says_which_states_are_good_enough(
    good: bytes, collateral: dict[str, Any], at: int
) -> None:
    assert tdx.verify(good, collateral, at=at, tcb=["OutOfDate", "UpToDate"]).report_data
    said = refused(good, collateral, at, ("SWHardeningNeeded", "OutOfDate"))
    assert said == (
        "the platform's state is UpToDate (no advisories), and the policy allows SWHardeningNeeded, OutOfDate"
    )
    refused(good, collateral, at, ())


def test_collateral_holds_for_its_time_only(good: bytes, collateral: dict[str, Any], at: int) -> None:
    assert "issue date is in the future" in refused(good, collateral, at - 90 * 86_400)
    assert "expired" in refused(good, collateral, at + 90 * 86_400)
    for moment in (-1, 2**53, 2**64):
        assert f"{moment} is no time in Unix seconds" in refused(good, collateral, moment)


def test_collateral_is_needed_whole(good: bytes, collateral: dict[str, Any], at: int) -> None:
    assert "a TDX quote needs collateral" in refused(good, None, at)
    for name, value in collateral.items():
        missing = {key: kept for key, kept in collateral.items() if key != name}
        for wrong in (missing, collateral | {name: None}, collateral | {name: [value]}):
            assert refused(good, wrong, at).endswith(f"look at {name}")
    assert "look at extra" in refused(good, collateral | {"extra": ""}, at)
    assert "and 262144 are allowed" in refused(good, collateral | {"tcb_info": "x" * 300_000}, at)


def test_each_part_of_the_collateral_is_verified(good: bytes, collateral: dict[str, Any], at: int) -> None:
    for name, value in collateral.items():
        # The library takes the issuer of the platforms' revocation list from the quote, and never reads this one.
        damaged = [] if name == "pck_crl_issuer_chain" else ["", "00", "hello", "\ud800\0"]
        if not name.endswith("chain"):
            damaged += [value[:-2], value + "00", value.replace("1", "2")]
        for wrong in damaged:
            assert "does not verify" in refused(good, collateral | {name: wrong}, at)


def test_collateral_of_another_platform_is_refused(good: bytes, at: int, vectors: Path) -> None:
    for name in ("sgx_quote_collateral.json", "tdx_quote_outdated_collateral.json"):
        other = json.loads((vectors / "tdx" / name).read_text())
        assert "does not verify" in refused(good, other, at)


def test_a_quote_may_be_padded_with_zeros_and_nothing_else(
    good: bytes, collateral: dict[str, Any], at: int
) -> None:
    assert not any(good[PADDING_FROM:])
    for quote in (good[:PADDING_FROM], good, good + bytes(500)):
        assert tdx.verify(quote, collateral, at=at, tcb=["UpToDate"]).report_data
    for quote in (good[:-1] + b"\x01", good + b"\x01", good[: PADDING_FROM - 1]):
        assert "does not end where its signature data do" in refused(quote, collateral, at)
    assert "and 16384 are allowed" in refused(good + bytes(16_384), collateral, at)


@pytest.mark.parametrize(
    ("place", "form", "value", "reason"),
    [
        (0, "<H", 3, "a quote of version 3"),
        (0, "<H", 6, "a quote of version 6"),
        (2, "<H", 3, "does not verify"),
        (4, "<I", 0, "it is an SGX quote"),
        (4, "<I", 0x82, "its TEE type is 0x82"),
        (SIGNATURE_DATA, "<I", 4301, "are not one report of the quoting enclave"),
        (SIGNATURE_DATA, "<I", 4299, "are not one report of the quoting enclave"),
        (SIGNATURE_DATA, "<I", 0, "does not end where its signature data do"),
        (SIGNATURE_DATA, "<I", 2**32 - 1, "does not end where its signature data do"),
        (764, "<H", 5, "are not one report of the quoting enclave"),
        (766, "<I", 4165, "are not one report of the quoting enclave"),
        (1218, "<H", 31, "do not end with the platform's certificate chain"),
        (1218, "<H", 2**16 - 1, "the quote breaks off"),
        (1252, "<H", 4, "do not end with the platform's certificate chain"),
        (1254, "<I", 3677, "do not end with the platform's certificate chain"),
    ],
)
def test_lengths_and_types_have_one_form(
    place: int, form: str, value: int, reason: str, good: bytes, collateral: dict[str, Any], at: int
) -> None:
    quote = bytearray(good)
    struct.pack_into(form, quote, place, value)
    assert reason in refused(bytes(quote), collateral, at)


def with_chain(quote: bytes, chain: bytes) -> bytes:
    """The quote with another text where its certificates are, and all lengths right."""
    changed = bytearray(quote[:CHAIN_FROM] + chain)
    grown = len(chain) - (PADDING_FROM - CHAIN_FROM)
    for place, size in ((SIGNATURE_DATA, 4300), (766, 4166), (1254, 3678)):
        struct.pack_into("<I", changed, place, size + grown)
    return bytes(changed)


def test_certificates_are_wrapped_in_one_way(good: bytes, collateral: dict[str, Any], at: int) -> None:
    text = good[CHAIN_FROM : PADDING_FROM - 1]
    for ending in (b"", b"\0"):
        assert tdx.verify(with_chain(good, text + ending), collateral, at=at, tcb=["UpToDate"]).report_data
    one_form = "not in the one form of PEM"
    for chain, reason in (
        (text + b"\0\0", "PEM must be"),
        (text + b"\n", one_form),
        (text.replace(b"\n", b"\r\n"), one_form),
        (text.replace(b"=\n", b"=\n\n"), one_form),
        (text[:-1], one_form),
        (text + text, "are not three that end with Intel's root"),
        (text[: text.index(b"-----END")], "PEM must be"),
        (b"", "are not three that end with Intel's root"),
        (b"\xff" + text, "PEM must be"),
    ):
        assert reason in refused(with_chain(good, chain), collateral, at)


def test_the_last_certificate_is_intels_root(good: bytes, collateral: dict[str, Any], at: int) -> None:
    text = good[CHAIN_FROM : PADDING_FROM - 1].decode()
    chain = from_pem(text)
    assert hashlib.sha256(chain[2]).hexdigest() == tdx_envelope.INTEL_ROOT
    blocks = [
        block + "-----END CERTIFICATE-----\n" for block in text.split("-----END CERTIFICATE-----\n")[:3]
    ]
    for order in ((0, 1), (0, 1, 1), (2, 1, 0)):
        changed = with_chain(good, "".join(blocks[place] for place in order).encode())
        assert "are not three that end with Intel's root" in refused(changed, collateral, at)
    swapped = with_chain(good, "".join(blocks[place] for place in (1, 0, 2)).encode())
    assert "does not verify" in refused(swapped, collateral, at)


@given(data=st.data())
def test_no_bit_of_a_quote_can_be_changed(
    data: st.DataObject, good: bytes, collateral: dict[str, Any], at: int
) -> None:
    quote = bytearray(good)
    quote[data.draw(st.integers(0, len(quote) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    refused(bytes(quote), collateral, at)


@given(st.binary(max_size=1300))
def test_arbitrary_bytes_raise_nothing_else(data: bytes) -> None:
    refused(data, {}, 0)
    for version in (4, 5):
        with pytest.raises(InvalidAttestation):
            tdx_envelope.check_envelope(struct.pack("<HHI", version, 2, 0x81) + data)


def test_without_the_library_the_error_says_what_to_install(
    good: bytes, collateral: dict[str, Any], at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "dcap_qvl", None)
    assert "install aos[dispatcher]" in refused(good, collateral, at)


@pytest.mark.parametrize(("attributes", "debug"), [("01", True), ("00", False), ("10", False), ("ff", True)])
def test_debug_is_the_lowest_attribute_whatever_the_library_lets_pass(
    attributes: str,
    debug: bool,
    good: bytes,
    collateral: dict[str, Any],
    at: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    report = {"td_attributes": attributes + "00" * 7, "report_data": "5a" * 64, "mr_td": "aa" * 48, "vmid": 3}
    verified = SimpleNamespace(
        status="UpToDate", advisory_ids=[], to_json=lambda: json.dumps({"report": {"TD15Ex": report}})
    )
    library = SimpleNamespace(
        verify=lambda *_: verified, QuoteCollateralV3=SimpleNamespace(from_json=lambda text: text)
    )
    monkeypatch.setitem(sys.modules, "dcap_qvl", library)
    said = tdx.verify(good, collateral, at=at, tcb=["UpToDate"])
    assert said.debug is debug
    assert said.report_data == b"\x5a" * 64
    assert said.measurements == {"td_attributes": report["td_attributes"], "mr_td": "aa" * 48}
