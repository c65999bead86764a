"""SEV-SNP reports: what chips signed, and each way in which a report or its certificates can be wrong."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from aos_protocol.attestation import snp
from aos_protocol.attestation.certificates import from_pem, to_pem
from aos_protocol.errors import InvalidAttestation
from support.nitro_documents import NOW, builder

AT = 1_700_000_000
"""Within the windows of all published certificates."""

REASONS = {
    ("virtee_milan_tampered_measurement_report.bin", "virtee_milan_vcek.pem"): (
        "the report's signature is not by the chip's key"
    ),
    ("virtee_milan_report.bin", "google_milan_debug_vcek.pem"): "the VCEK is another chip's than the report",
}


@pytest.fixture(scope="module")
def folder(vectors: Path) -> Path:
    return vectors / "sev_snp"


@pytest.fixture(scope="module")
def roots(folder: Path) -> list[str]:
    return [hashlib.sha256(from_pem((folder / "milan_ark.pem").read_text())[0]).hexdigest()]


@pytest.fixture(scope="module")
def good(folder: Path) -> bytes:
    return (folder / "virtee_milan_report.bin").read_bytes()


@pytest.fixture(scope="module")
def certified(folder: Path) -> dict[str, str]:
    return certificates(folder, "virtee_milan_vcek.pem")


def certificates(folder: Path, vcek: str) -> dict[str, str]:
    names = {"vcek": vcek, "ask": "milan_ask.pem", "ark": "milan_ark.pem"}
    return {name: (folder / file).read_text() for name, file in names.items()}


def refused(report: bytes, collateral: dict[str, Any] | None, roots: list[str], at: int = AT) -> str:
    with pytest.raises(InvalidAttestation) as caught:
        snp.verify(report, collateral, roots=roots, at=at)
    return str(caught.value)


def test_every_published_report_gives_what_the_manifest_expects(folder: Path, roots: list[str]) -> None:
    cases = json.loads((folder / "manifest.json").read_text())["cases"]
    assert len(cases) == 2 + len(REASONS)
    for case in cases:
        report = (folder / case["report"]).read_bytes()
        reason = REASONS.get((case["report"], case["vcek"]))
        assert case["expected"].startswith("INVALID") == (reason is not None)
        collateral = certificates(folder, case["vcek"])
        if reason is not None:
            assert reason in refused(report, collateral, roots)
            continue
        said, fields = snp.verify(report, collateral, roots=roots, at=AT), case["fields"]
        assert said.debug == fields["debug_allowed"]
        assert said.report_data.hex() == fields["report_data"]
        assert int(said.measurements["policy"], 16) == int(fields["policy"], 16)
        for name in ("measurement", "host_data", "chip_id", "reported_tcb"):
            assert said.measurements[name] == fields[name]


def test_certificates_hold_within_their_windows(
    good: bytes, certified: dict[str, str], roots: list[str]
) -> None:
    assert "certificate 3 of 3 (SEV-VCEK) is not valid yet" in refused(good, certified, roots, 1_680_549_822)
    assert "certificate 3 of 3 (SEV-VCEK) has expired" in refused(good, certified, roots, 1_901_474_624)
    assert "certificate 1 of 3 (ARK-Milan) is not valid yet" in refused(good, certified, roots, 0)
    for at in (1_680_549_823, 1_901_474_623):
        assert snp.verify(good, certified, roots=roots, at=at)


def test_the_root_is_one_that_the_policy_names(good: bytes, certified: dict[str, str]) -> None:
    assert "no trusted root" in refused(good, certified, [])
    assert "no trusted root" in refused(good, certified, ["00" * 32])


def test_all_three_certificates_are_needed_each_in_its_place(
    good: bytes, certified: dict[str, str], roots: list[str]
) -> None:
    assert "lacks the certificate 'ark'" in refused(good, None, roots)
    for name, text in certified.items():
        missing = {key: value for key, value in certified.items() if key != name}
        for wrong in (missing, certified | {name: 7}, certified | {name: "x" * 9000}):
            assert f"lacks the certificate {name!r} in PEM" in refused(good, wrong, roots)
        assert f"2 certificates for {name!r}" in refused(good, certified | {name: text * 2}, roots)
        assert "must be" in refused(good, certified | {name: "hello"}, roots)
        damaged = certified | {name: to_pem(b"\x30\x00")}
        wanted = "no trusted root" if name == "ark" else "a certificate cannot be read"
        assert wanted in refused(good, damaged, roots)
    swapped = certified | {"ask": certified["vcek"], "vcek": certified["ask"]}
    assert "below ARK-Milan names another issuer" in refused(good, swapped, roots)
    twice = certified | {"vcek": certified["ask"]}
    assert "below SEV-Milan names another issuer" in refused(good, twice, roots)


def changed(report: bytes, place: int, value: int, size: int = 4) -> bytes:
    return report[:place] + value.to_bytes(size, "little") + report[place + size :]


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        (0x00, 1, "the report is of version 1"),
        (0x00, 6, "the report is of version 6"),
        (0x00, 3, "signature is not by the chip's key"),
        (0x08, 0x70000, "lets a migration agent take it"),
        (0x08, 0xB0000, "signature is not by the chip's key"),
        (0x30, 1, "made for VMPL 1"),
        (0x30, 2**32 - 1, "made for VMPL 4294967295"),
        (0x34, 2, "signature is of algorithm 2"),
        (0x48, 1 << 2, "a key of the cloud's (VLEK)"),
        (0x48, 7 << 2, "a key of the cloud's (VLEK)"),
        (0x180, 4, "another TCB than the report: byte 0 is 3, not 4"),
        (0x181, 1, "another TCB than the report: byte 1 is 0, not 1"),
        (0x186, 0x7309, "another TCB than the report: byte 6 is 8, not 9"),
        (0x187, 0x74, "another TCB than the report: byte 7 is 115, not 116"),
        (0x1A0, 0, "another chip's than the report"),
        (0x2A0, 0, "signature is not by the chip's key"),
        (0x330, 1, "bytes set after its signature"),
        (0x49C, 1 << 31, "bytes set after its signature"),
    ],
)
def test_a_report_that_says_otherwise_is_refused(
    place: int, value: int, reason: str, good: bytes, certified: dict[str, str], roots: list[str]
) -> None:
    assert reason in refused(changed(good, place, value), certified, roots)


def test_a_report_has_its_length(good: bytes, certified: dict[str, str], roots: list[str]) -> None:
    for report in (b"", good[:-1], good + b"\0"):
        assert f"the report has {len(report)} bytes, and must have 1184" in refused(report, certified, roots)


@given(data=st.data())
def test_no_bit_of_a_report_can_be_changed(
    data: st.DataObject, good: bytes, certified: dict[str, str], roots: list[str]
) -> None:
    report = bytearray(good)
    report[data.draw(st.integers(0, len(report) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    refused(bytes(report), certified, roots)


@given(st.binary(min_size=1184, max_size=1184))
def test_arbitrary_bytes_raise_nothing_else(data: bytes) -> None:
    refused(data, {}, [])
    refused(b"\x02\0\0\0" + data[4:], {"vcek": "x"}, [])


class Maker:
    """An AMD of our own; one key for ARK and ASK, since such keys take long to make."""

    def __init__(self) -> None:
        self.key = rsa.generate_private_key(65537, 4096)
        self.chip = ec.generate_private_key(ec.SECP384R1())
        self.ark, self.ask = self.authority("ARK", "ARK"), self.authority("ASK", "ARK")
        self.roots = [hashlib.sha256(from_pem(self.ark)[0]).hexdigest()]

    def signed(self, made: x509.CertificateBuilder) -> str:
        pss = padding.PSS(padding.MGF1(SHA384()), 48)
        return to_pem(made.sign(self.key, SHA384(), rsa_padding=pss).public_bytes(Encoding.DER))

    def authority(self, subject: str, issuer: str) -> str:
        made = builder(subject, issuer, self.key.public_key())
        return self.signed(made.add_extension(x509.BasicConstraints(True, None), critical=True))

    def collateral(
        self, extensions: dict[str, bytes], curve: ec.EllipticCurve | None = None
    ) -> dict[str, str]:
        key = ec.generate_private_key(curve) if curve else self.chip
        made = builder("VCEK", "ASK", key.public_key())
        for name, value in extensions.items():
            oid = x509.ObjectIdentifier(f"1.3.6.1.4.1.3704.1.{name}")
            made = made.add_extension(x509.UnrecognizedExtension(oid, value), critical=False)
        return {"vcek": self.signed(made), "ask": self.ask, "ark": self.ark}

    def report(self, policy: int = 0x30000) -> bytes:
        body = changed(changed(bytes(0x2A0), 0, 2), 0x34, 1)
        body = changed(changed(body, 0x08, policy, 8), 0x180, 0x0807_0000_0000_0201, 8)
        r, s = decode_dss_signature(self.chip.sign(body, ec.ECDSA(SHA384())))
        return body + r.to_bytes(72, "little") + s.to_bytes(72, "little") + bytes(1184 - 0x330)


def integer(value: int) -> bytes:
    return b"\x02\x01" + bytes([value])


EXTENSIONS = {
    "2": b"\x16\x05Milan",
    "3.1": integer(1),
    "3.2": integer(2),
    "3.3": integer(7),
    "3.8": integer(8),
    "4": bytes(64),
}


@pytest.fixture(scope="module")
def maker() -> Maker:
    return Maker()


def test_reports_of_a_chip_of_our_own_verify(maker: Maker) -> None:
    for product in (b"\x16\x05Milan", b"\x16\x08Genoa-B1"):
        collateral = maker.collateral(EXTENSIONS | {"2": product})
        assert not snp.verify(maker.report(), collateral, roots=maker.roots, at=NOW).debug
    assert snp.verify(maker.report(0xB0000), collateral, roots=maker.roots, at=NOW).debug


@pytest.mark.parametrize("name", EXTENSIONS)
def test_a_vcek_needs_each_of_amds_extensions(name: str, maker: Maker) -> None:
    fewer = {key: value for key, value in EXTENSIONS.items() if key != name}
    said = refused(maker.report(), maker.collateral(fewer), maker.roots, NOW)
    assert f"the VCEK lacks AMD's extension 1.3.6.1.4.1.3704.1.{name}" in said


@pytest.mark.parametrize(
    ("extensions", "reason"),
    [
        ({"2": b"\x16\x05Turin"}, "the chip is of product Turin: Milan and Genoa are known here"),
        ({"2": b"\x0c\x05Milan"}, "is not the value that it must be"),
        ({"3.8": b"\x02\x02\x01\x08"}, "byte 7 is 264, not 8"),
        ({"3.8": b"\x04\x01\x08"}, "is not the value that it must be"),
        ({"4": bytes(63)}, "another chip's than the report"),
    ],
)
def test_a_vcek_with_other_extensions_is_refused(
    extensions: dict[str, bytes], reason: str, maker: Maker
) -> None:
    assert reason in refused(maker.report(), maker.collateral(EXTENSIONS | extensions), maker.roots, NOW)


def test_a_vcek_of_another_curve_or_key_is_refused(maker: Maker) -> None:
    other = maker.collateral(EXTENSIONS, ec.SECP256R1())
    assert "not on the curve P-384" in refused(maker.report(), other, maker.roots, NOW)
    other = maker.collateral(EXTENSIONS, ec.SECP384R1())
    assert "not by the chip's key" in refused(maker.report(), other, maker.roots, NOW)
