"""Appraisal: one reason for each thing that is wrong, the first of them where several are, on documents of every kind."""

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from hypothesis import given
from hypothesis import strategies as st

from aos_protocol.attestation import appraisal, nitro, snp, tdx
from aos_protocol.attestation.appraisal import SKEW_S, Appraisal, Claims, appraise
from aos_protocol.attestation.policy import NITRO_ROOT_G1, AttestationPolicy
from aos_protocol.attestation.statement import Attestation, Kind
from aos_protocol.errors import InvalidAttestation
from aos_protocol.fields import parse_message
from aos_protocol.messages import ModelOffer
from support.enclaves import MODEL, NOW, Enclave, policy

NONCE, OTHER_NONCE = "5e" * 32, "5f" * 32
ENCLAVE, STRANGER = Enclave(1), Enclave(2)
PCRS = {"pcr0": "ab" * 48, "pcr1": "cd" * 48, "pcr2": "ef" * 48}
TD = {"mr_td": "ab" * 48, "rt_mr1": "cd" * 48, "rt_mr2": "ef" * 48}
MEASURED: dict[Kind, dict[str, str]] = {
    "nitro": PCRS, "simulated": PCRS, "tdx": TD, "sev-snp": {"measurement": "ab" * 48}
}  # fmt: skip
KINDS: list[Kind] = ["nitro", "simulated", "tdx", "sev-snp"]


# Real signatures, simulated hardware


def made(change: dict[str, Any] | None = None, enclave: Enclave = ENCLAVE, nonce: str = NONCE) -> Attestation:
    return parse_message(Attestation, enclave.attest(nonce) | (change or {}))


def appraised(attestation: Attestation, by: AttestationPolicy | None = None, **how: Any) -> Appraisal:
    return appraise(attestation, by or policy(), **{"model": MODEL.name, "nonce": NONCE, "now": NOW} | how)


def refused(attestation: Attestation, by: AttestationPolicy | None = None, **how: Any) -> str:
    with pytest.raises(InvalidAttestation) as caught:
        appraised(attestation, by, **how)
    return str(caught.value)


def test_a_good_enclave_s_appraisal_names_what_it_rests_on() -> None:
    found = appraised(made())
    assert found == Appraisal(
        kind="simulated",
        build="this checkout",
        debug=False,
        keyset=ENCLAVE.keyset.digest(),
        issued_at=NOW,
        verified_at=NOW,
        policy=policy().digest(),
    )
    assert appraised(made(), now=None).verified_at == NOW
    assert parse_message(Appraisal, found.to_json()) == found


def test_an_attestation_on_another_nonce_is_somebody_else_s() -> None:
    assert "made for somebody else's question" in refused(made(nonce=OTHER_NONCE))
    assert f"the nonce is {NONCE}, not {OTHER_NONCE}" in refused(made(), nonce=OTHER_NONCE)


@pytest.mark.parametrize(
    "nonce", ["", "5e", NONCE.upper(), NONCE + "00", " " + NONCE, "zz" * 32, NONCE + "\n"]
)
def test_a_nonce_is_32_bytes_or_nothing_is_proven(nonce: str) -> None:
    """Nitro documents may have a nonce of any length, so that an empty one would fit an enclave that was asked for none."""
    assert refused(made(), nonce=nonce).startswith("a nonce has 64 hex digits")


def test_a_document_does_not_vouch_for_another_keyset() -> None:
    assert "binds another keyset" in refused(made({"keyset": STRANGER.keyset.to_json()}))
    longer = ENCLAVE.keyset.to_json() | {"expires_at": NOW + 10**6}
    assert "binds another keyset" in refused(made({"keyset": longer}))


def test_a_document_says_when_it_was_made() -> None:
    assert f"was made at {NOW}, not at {NOW + 1}" in refused(made({"issued_at": NOW + 1}))


def test_a_changed_document_is_refused() -> None:
    document = bytearray(made().document_bytes())
    document[-1] ^= 1
    refused(made({"document": base64.b64encode(document).decode()}))


def test_another_root_is_not_trusted() -> None:
    simulated = policy().to_json()["models"][MODEL.name]["simulated"]
    refused(made(), policy(simulated=simulated | {"roots": ["1d" * 32]}))


def test_a_simulated_enclave_does_not_pass_for_a_real_one() -> None:
    """Its keyset is under the document's signature, kind and all; and its root is nobody's but a simulator's."""
    real = Enclave(1, kind="nitro")
    builds = policy().to_json()["models"][MODEL.name]["simulated"]["builds"]
    trusting = policy(nitro={"builds": builds})
    refused(parse_message(Attestation, real.attest(NONCE)), trusting)


def test_the_model_s_file_and_name_are_held_against_the_policy_s() -> None:
    assert "not " + "3e" * 32 in refused(made(), policy(sha256="3e" * 32))
    assert appraised(made(), policy(sha256=MODEL.sha256)).build == "this checkout"
    other = Enclave(1, ModelOffer(name="small.gguf", sha256=MODEL.sha256))
    assert "is for model small.gguf, not tiny.gguf" in refused(made(enclave=other))


def test_what_the_policy_does_not_name_is_not_trusted() -> None:
    assert "no entry for model big.gguf; there is: tiny.gguf" in refused(made(), model="big.gguf")


# Every step, with hardware that says what the test wants


@dataclass(frozen=True)
class Case:
    """One appraisal: what comes, what hardware has signed of it (`claims` are where it is not the truth), and the policy."""

    kind: Kind
    keyset: dict[str, Any]
    builds: list[dict[str, Any]]
    issued_at: int = NOW - 100
    claims: dict[str, Any] = field(default_factory=dict)
    signed: bool = True
    trusting: Kind | None = None
    allow_simulated: bool = True
    sha256: str | None = None
    model: str = MODEL.name
    now: int | None = NOW

    def run(self) -> Appraisal:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(nitro, "verify", self._nitro)
            patch.setattr(tdx, "verify", self._tdx)
            patch.setattr(snp, "verify", self._snp)
            return appraise(self._attestation(), self._policy(), model=self.model, nonce=NONCE, now=self.now)

    def _attestation(self) -> Attestation:
        said = {"kind": self.kind, "document": "AAAA", "keyset": self.keyset, "issued_at": self.issued_at}
        return parse_message(Attestation, said)

    def _policy(self) -> AttestationPolicy:
        trusting = self.trusting or self.kind
        builds = self.builds if trusting == self.kind else [build_of(trusting)]
        entry: dict[str, Any] = {trusting: {"builds": builds, "roots": ROOTS[trusting]}}
        document = {
            "version": "aos-attestation-policy/1",
            "allow_simulated": self.allow_simulated,
            "models": {MODEL.name: entry | {"sha256": self.sha256}},
        }
        return parse_message(AttestationPolicy, document)

    def _claims(self, at: int) -> Claims:
        assert at == self.issued_at
        if not self.signed:
            raise InvalidAttestation("the signature is not its certificate's")
        truth = Claims(
            measurements=MEASURED[self.kind],
            debug=False,
            keyset=bytes.fromhex(self._attestation().keyset.digest()),
            nonce=bytes.fromhex(NONCE),
            result_key=bytes.fromhex(self.keyset["result_key"]),
            issued_at=self.issued_at,
        )
        return replace(truth, **self.claims)

    def _nitro(self, document: bytes, *, roots: list[str], at: int) -> nitro.NitroDocument:
        said = self._claims(at)
        assert roots == (ROOTS[self.kind] or [NITRO_ROOT_G1])
        registers = {int(name[3:]): bytes.fromhex(value) for name, value in said.measurements.items()}
        milliseconds = 1000 * (said.issued_at or 0) + 999
        return nitro.NitroDocument("i-1", milliseconds, registers, said.keyset, said.nonce, said.result_key)

    def _tdx(self, document: bytes, collateral: object, *, at: int, tcb: list[str]) -> tdx.Quote:
        assert tcb == ["UpToDate"]
        return tdx.Quote(*self._report(at))

    def _snp(self, document: bytes, collateral: object, *, roots: list[str], at: int) -> snp.Report:
        assert roots == ROOTS["sev-snp"]
        return snp.Report(*self._report(at))

    def _report(self, at: int) -> tuple[Mapping[str, str], bool, bytes]:
        said = self._claims(at)
        return said.measurements, said.debug, (said.keyset or b"") + (said.nonce or b"")


ROOTS: dict[Kind, list[str]] = {"nitro": [], "simulated": ["1d" * 32], "tdx": [], "sev-snp": ["1d" * 32]}


def build_of(kind: Kind, name: str = "0.4.0", **changes: Any) -> dict[str, Any]:
    return {"name": name, "measurements": MEASURED[kind]} | changes


def good(kind: Kind, **changes: Any) -> Case:
    keyset = Enclave(1, kind=kind, created_at=NOW - 600, expires_at=NOW + 86_400).keyset.to_json()
    return replace(Case(kind, keyset, [build_of(kind)]), **changes)


Change = Callable[[Case], Case]


def but(**changes: Any) -> Change:
    return lambda case: replace(case, **changes)


def keyset(**changes: Any) -> Change:
    return lambda case: replace(case, keyset=case.keyset | changes)


def signs(**changes: Any) -> Change:
    return lambda case: replace(case, claims=case.claims | changes)


EVERY, NITRO, REPORTS = set(KINDS), {"nitro", "simulated"}, {"tdx", "sev-snp"}
# In the order in which they are looked at: which kinds it can befall, what goes wrong, and what is then said.
FAULTS: list[tuple[set[Kind], Change, str]] = [
    (EVERY, but(model="big.gguf"), "no entry for model big.gguf"),
    ({"simulated"}, but(trusting="tdx", allow_simulated=False), "is simulated, which proves nothing, and the policy"),
    ({"simulated", "sev-snp"}, but(trusting="nitro"), "the policy trusts no "),
    ({"nitro", "tdx"}, but(trusting="sev-snp"), "the policy trusts no "),
    (EVERY, but(signed=False), "the signature is not its certificate's"),
    (NITRO, signs(nonce=None), "the nonce is none"),
    (NITRO, signs(nonce=b""), "the nonce is , not"),
    (EVERY, signs(nonce=bytes.fromhex(OTHER_NONCE)), f"the nonce is {OTHER_NONCE}, not {NONCE}"),
    (NITRO, signs(keyset=None), "binds another keyset"),
    (EVERY, signs(keyset=bytes(32)), "binds another keyset"),
    (NITRO, signs(result_key=None), "is not the keyset's result key"),
    (NITRO, signs(result_key=b"\x02" + bytes(32)), "is not the keyset's result key"),
    (NITRO, signs(issued_at=NOW - 99), "as is said beside it"),
    (REPORTS, signs(debug=True), "in debug mode, so its host can read it"),
    (NITRO, signs(measurements=dict.fromkeys(PCRS, "00" * 48)), "in debug mode, so its host can read it"),
    (NITRO, signs(measurements=PCRS | {"pcr1": "00" * 48}), "runs no build that the policy trusts: pcr0 abab"),
    (REPORTS, signs(measurements={}), "runs no build that the policy trusts: m"),
    (EVERY, keyset(model={"name": "b", "sha256": MODEL.sha256}), "keyset is for model b, not tiny.gguf"),
    (EVERY, but(sha256="3e" * 32), "the enclave runs model 3d"),
    (EVERY, keyset(created_at=NOW - 39, expires_at=NOW + 600), "the keyset holds from"),
    (EVERY, keyset(created_at=NOW - 600, expires_at=NOW - 100), "the keyset holds from"),
    (EVERY, but(now=NOW - 161), "dated 61 s ahead"),
    (EVERY, but(now=NOW + 801), "is 901 s old, and the policy allows 900"),
    (EVERY, keyset(created_at=NOW - 600, expires_at=NOW - SKEW_S), f"keyset expired {SKEW_S} s ago"),
]  # fmt: skip


def befalling(kind: Kind) -> list[tuple[Change, str]]:
    return [(change, said) for kinds, change, said in FAULTS if kind in kinds]


@pytest.mark.parametrize("kind", KINDS)
def test_an_enclave_of_each_kind_is_believed(kind: Kind) -> None:
    found = good(kind).run()
    assert (found.kind, found.build, found.debug, found.issued_at) == (kind, "0.4.0", False, NOW - 100)
    pinned = good(kind, sha256=MODEL.sha256, now=None).run()
    assert (pinned.verified_at, pinned.policy != found.policy) == (NOW - 100, True)


@pytest.mark.parametrize(
    ("kind", "change", "said"), [(kind, *fault) for kind in KINDS for fault in befalling(kind)]
)
def test_each_thing_that_is_wrong_is_refused_and_named(kind: Kind, change: Change, said: str) -> None:
    with pytest.raises(InvalidAttestation) as caught:
        change(good(kind)).run()
    assert said in str(caught.value)


@given(st.sampled_from(KINDS), st.data())
def test_of_several_things_that_are_wrong_the_first_is_named(kind: Kind, data: st.DataObject) -> None:
    faults = befalling(kind)
    chosen = sorted(data.draw(st.sets(st.integers(0, len(faults) - 1), min_size=1, max_size=4)))
    case = good(kind)
    for number in reversed(chosen):
        case = faults[number][0](case)
    with pytest.raises(InvalidAttestation) as caught:
        case.run()
    assert faults[chosen[0]][1] in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_the_edges_of_time_are_where_they_are_said_to_be(kind: Kind) -> None:
    edges: list[Change] = [
        but(now=NOW - 100 - SKEW_S),
        but(now=NOW + 800),
        keyset(created_at=NOW - 100 + SKEW_S),
        keyset(expires_at=NOW - SKEW_S + 1),
    ]
    for change in edges:
        assert change(good(kind)).run().build == "0.4.0"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change", [but(now=NOW + 801), but(now=NOW - 161), keyset(expires_at=NOW - 99)])
def test_an_auditor_looks_at_the_time_of_the_attestation_alone(kind: Kind, change: Change) -> None:
    assert replace(change(good(kind)), now=None).run().build == "0.4.0"


@pytest.mark.parametrize("kind", ["tdx", "sev-snp"])
def test_the_time_of_a_report_is_its_sender_s_word_which_now_bounds(kind: Kind) -> None:
    """Nothing signs it: a host that dates back a report of an expired keyset is found by age, and an auditor is not told."""
    expired = replace(keyset(created_at=NOW - 5000, expires_at=NOW - 2000)(good(kind)), issued_at=NOW - 3000)
    with pytest.raises(InvalidAttestation, match="is 3000 s old"):
        expired.run()
    assert replace(expired, now=None).run().issued_at == NOW - 3000


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("first", [True, False])
def test_which_of_several_builds_runs_is_told(kind: Kind, first: bool) -> None:
    other = build_of(kind, "0.4.1", measurements=dict.fromkeys(MEASURED[kind], "77" * 48))
    builds = [build_of(kind), other] if first else [other, build_of(kind)]
    assert good(kind, builds=builds).run().build == "0.4.0"


@pytest.mark.parametrize("kind", ["tdx", "sev-snp"])
@pytest.mark.parametrize("first", [True, False])
def test_debug_is_allowed_by_the_build_that_says_so_wherever_it_stands(kind: Kind, first: bool) -> None:
    strict, open_ = build_of(kind), build_of(kind, "0.4.0 debug", allow_debug=True)
    case = good(kind, builds=[strict, open_] if first else [open_, strict], claims={"debug": True})
    found = case.run()
    assert (found.build, found.debug) == ("0.4.0 debug", True)
    with pytest.raises(InvalidAttestation, match=r"runs 0\.4\.0 in debug mode"):
        replace(case, builds=[strict]).run()


def test_a_nitro_enclave_in_debug_mode_is_any_image_and_says_so() -> None:
    zeros = dict.fromkeys(PCRS, "00" * 48)
    build = build_of("nitro", "any image", measurements=zeros, allow_debug=True)
    found = good("nitro", builds=[build], claims={"measurements": zeros}).run()
    assert (found.build, found.debug) == ("any image", True)


@given(st.sampled_from(KINDS), st.data())
def test_every_measurement_that_a_build_names_must_be_as_it_says(kind: Kind, data: st.DataObject) -> None:
    """More registers than a kind needs may be named; one that hardware does not give is as good as wrong."""
    names = sorted(MEASURED[kind])
    extra = "pcr8" if kind in NITRO else "rt_mr3"
    measured = MEASURED[kind] | {extra: "55" * 48}
    wrong = data.draw(st.sampled_from([*names, extra]))
    build = build_of(kind, measurements=measured)
    assert good(kind, builds=[build], claims={"measurements": measured}).run().build == "0.4.0"
    lacking = {name: value for name, value in measured.items() if name != wrong}
    for claims in (lacking, measured | {wrong: "56" * 48}):
        with pytest.raises(InvalidAttestation, match=rf"trusts: .*{wrong} (missing|5656)"):
            good(kind, builds=[build], claims={"measurements": claims}).run()


# Documents that real hardware has signed, which binds other things than our keysets


@dataclass(frozen=True)
class Real:
    """A published document: how it is dated, and what its manifest says that it measures."""

    kind: Kind
    document: bytes
    at: int
    measured: dict[str, str]
    collateral: dict[str, Any] | None = None
    roots: list[str] = field(default_factory=list)

    def appraise(self, builds: list[dict[str, Any]], at: int | None = None) -> Appraisal:
        issued_at = self.at if at is None else at
        enclave = Enclave(1, kind=self.kind, created_at=issued_at - 600, expires_at=issued_at + 600)
        said = {
            "kind": self.kind,
            "document": base64.b64encode(self.document).decode(),
            "keyset": enclave.keyset.to_json(),
            "issued_at": issued_at,
            "collateral": self.collateral,
        }
        entry = {"simulated": None, self.kind: {"builds": builds, "roots": self.roots}}
        return appraise(
            parse_message(Attestation, said), policy(**entry), model=MODEL.name, nonce=NONCE, now=issued_at
        )

    def build(self, **changes: Any) -> dict[str, Any]:
        return {"name": "published", "measurements": self.measured} | changes


def real_nitro(vectors: Path, name: str) -> Real:
    manifest = json.loads((vectors / "nitro" / "manifest.json").read_text())
    said = next(each for each in manifest["documents"] if each["file"] == name)
    registers = {f"pcr{index}": said["pcrs"][str(index)] for index in range(3)}
    return Real("nitro", (vectors / "nitro" / name).read_bytes(), said["timestamp_ms"] // 1000, registers)


def real_tdx(vectors: Path) -> Real:
    said = json.loads((vectors / "tdx" / "manifest.json").read_text())[0]
    collateral = json.loads((vectors / "tdx" / said["collateral"]).read_text())
    registers = {name: said["report"][name] for name in TD}
    return Real(
        "tdx", (vectors / "tdx" / said["quote"]).read_bytes(), said["verify_at_unix"], registers, collateral
    )


def real_snp(vectors: Path, number: int) -> Real:
    folder = vectors / "sev_snp"
    said = json.loads((folder / "manifest.json").read_text())["cases"][number]
    collateral = {name: (folder / said[name]).read_text() for name in ("vcek", "ask", "ark")}
    root = x509.load_pem_x509_certificate(collateral["ark"].encode()).fingerprint(hashes.SHA256()).hex()
    at = int(datetime.fromisoformat(said["vcek_window"][0]).timestamp()) + 86_400
    measured = {"measurement": said["fields"]["measurement"]}
    return Real("sev-snp", (folder / said["report"]).read_bytes(), at, measured, collateral, [root])


@pytest.fixture(params=["nitro", "tdx", "sev-snp"])
def real(request: pytest.FixtureRequest, vectors: Path) -> Real:
    match request.param:
        case "nitro":
            return real_nitro(vectors, "veracruz_prod_20221109_ud_nonce.bin")
        case "tdx":
            return real_tdx(vectors)
        case _:
            return real_snp(vectors, 0)


@pytest.fixture
def unbound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave aside what a document binds: nobody can make hardware sign these again for our keyset and nonce."""
    monkeypatch.setattr(appraisal, "_check_bindings", lambda *_: None)


def test_a_genuine_document_of_somebody_else_s_enclave_is_refused_for_its_nonce(real: Real) -> None:
    with pytest.raises(InvalidAttestation, match="made for somebody else's question"):
        real.appraise([real.build()])


@pytest.mark.usefixtures("unbound")
def test_a_genuine_document_gives_its_build(real: Real) -> None:
    found = real.appraise([real.build()])
    assert (found.kind, found.build, found.debug) == (real.kind, "published", False)


@pytest.mark.usefixtures("unbound")
def test_a_genuine_document_of_another_build_is_refused_with_what_it_measured(real: Real) -> None:
    for name, value in real.measured.items():
        other = real.measured | {name: "%096x" % (int(value, 16) ^ 1)}
        with pytest.raises(InvalidAttestation, match=f"trusts: .*{name} {value}"):
            real.appraise([real.build(measurements=other)])


@pytest.mark.usefixtures("unbound")
def test_a_genuine_document_is_refused_at_a_time_when_its_chain_does_not_hold(real: Real) -> None:
    with pytest.raises(InvalidAttestation):
        real.appraise([real.build()], at=real.at + 20 * 365 * 86_400)


@pytest.mark.usefixtures("unbound")
def test_genuine_documents_in_debug_mode_are_refused_unless_that_is_allowed(vectors: Path) -> None:
    for real in (real_nitro(vectors, "anjuna_debug_20240124_full.bin"), real_snp(vectors, 1)):
        strict = [real.build(measurements=dict.fromkeys(real.measured, "ab" * 48))]
        with pytest.raises(InvalidAttestation, match="an unknown build in debug mode"):
            real.appraise(strict)
        assert real.appraise([real.build(allow_debug=True)]).debug
