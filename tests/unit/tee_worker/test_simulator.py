"""The simulator: documents that pass for Nitro's under its own root and no other, and a root that is made once."""

import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from aos_protocol.attestation import nitro
from aos_protocol.errors import InvalidAttestation
from aos_tee_worker import authority, simulator
from aos_tee_worker.errors import SimulatorUnusable
from aos_tee_worker.simulator import SimulatedDevice

KEYSET, NONCE, RESULT_KEY = b"\x01" * 32, b"\x02" * 32, b"\x03" * 33
NOW = 1_900_000_000
HOUR = 3600


class Clock:
    """Time that a test moves."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def attested(device: SimulatedDevice) -> bytes:
    return device.attest(keyset=KEYSET, nonce=NONCE, result_key=RESULT_KEY).document


def payload(document: bytes) -> dict[str, object]:
    return cbor2.loads(cbor2.loads(document)[2])


def certificates(document: bytes) -> list[x509.Certificate]:
    fields = payload(document)
    return [x509.load_der_x509_certificate(der) for der in (*fields["cabundle"], fields["certificate"])]


class TestDocument:
    def test_nitros_verifier_accepts_it_under_its_root(self, tmp_path: Path) -> None:
        device = SimulatedDevice(tmp_path, Clock(NOW + 0.75))
        signed = device.attest(keyset=KEYSET, nonce=NONCE, result_key=RESULT_KEY)
        said = nitro.verify(signed.document, roots=[simulator.ensure_root(tmp_path)], at=signed.issued_at)
        assert (said.user_data, said.nonce, said.public_key) == (KEYSET, NONCE, RESULT_KEY)
        assert signed.issued_at == NOW
        assert said.timestamp_ms == NOW * 1000 + 750
        assert signed.collateral is None

    def test_its_registers_are_the_measurements_and_never_those_of_debug_mode(self, tmp_path: Path) -> None:
        document = attested(SimulatedDevice(tmp_path, Clock()))
        said = nitro.verify(document, roots=[simulator.ensure_root(tmp_path)], at=NOW)
        measured = {f"pcr{index}": value.hex() for index, value in said.pcrs.items()}
        assert measured.items() >= simulator.measurements().items()
        assert not said.debug
        assert len(said.pcrs) == 16
        assert not any(any(said.pcrs[index]) for index in range(3, 16))

    def test_another_folders_root_does_not_vouch_for_it(self, tmp_path: Path) -> None:
        other = simulator.ensure_root(tmp_path / "other")
        document = attested(SimulatedDevice(tmp_path / "own", Clock()))
        with pytest.raises(InvalidAttestation):
            nitro.verify(document, roots=[other], at=NOW)

    def test_it_has_nitros_form(self, tmp_path: Path, vectors: Path) -> None:
        ours = cbor2.loads(attested(SimulatedDevice(tmp_path, Clock())))
        real = cbor2.loads((vectors / "nitro" / "dstack_prod_20251225.bin").read_bytes())
        assert ours[:2] == real[:2]
        assert len(ours[3]) == len(real[3]) == 96
        fields, theirs = cbor2.loads(ours[2]), cbor2.loads(real[2])
        assert fields.keys() == theirs.keys()
        assert fields["digest"] == theirs["digest"]
        assert {len(value) for value in fields["pcrs"].values()} == {len(theirs["pcrs"][0])}
        assert fields["pcrs"].keys() == theirs["pcrs"].keys()

    def test_its_certificates_constrain_what_nitros_do(self, tmp_path: Path, vectors: Path) -> None:
        def shape(certificate: x509.Certificate) -> tuple[object, ...]:
            constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
            usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
            key = certificate.public_key()
            assert isinstance(key, ec.EllipticCurvePublicKey)
            return (
                constraints.value,
                constraints.critical,
                usage.value.key_cert_sign,
                key.curve.name,
                certificate.signature_algorithm_oid,
            )

        ours = certificates(attested(SimulatedDevice(tmp_path, Clock())))
        real = certificates((vectors / "nitro" / "dstack_prod_20251225.bin").read_bytes())
        assert [shape(each) for each in ours] == [shape(each) for each in (real[0], real[-2], real[-1])]

    def test_every_name_in_it_says_simulated(self, tmp_path: Path) -> None:
        document = attested(SimulatedDevice(tmp_path, Clock()))
        names = [name for each in certificates(document) for name in (each.subject, each.issuer)]
        assert all("SIMULATED" in name.rfc4514_string() for name in names)
        assert str(payload(document)["module_id"]).startswith("simulated-")

    def test_it_is_deterministic_but_for_the_signature(self, tmp_path: Path) -> None:
        device = SimulatedDevice(tmp_path, Clock())
        first, second = cbor2.loads(attested(device)), cbor2.loads(attested(device))
        assert first[:3] == second[:3]

    def test_each_process_has_a_chain_of_its_own(self, tmp_path: Path) -> None:
        first, second = (certificates(attested(SimulatedDevice(tmp_path, Clock()))) for _ in range(2))
        assert first[0] == second[0]
        assert first[1].public_key() != second[1].public_key()
        assert first[2].public_key() != second[2].public_key()


class TestLeaf:
    def test_a_leaf_serves_for_half_of_its_life(self, tmp_path: Path) -> None:
        clock = Clock()
        device = SimulatedDevice(tmp_path, clock)
        first = certificates(attested(device))[2]
        clock.now += 1.5 * HOUR - 1
        assert certificates(attested(device))[2] == first
        clock.now += 1
        second = certificates(attested(device))[2]
        assert second != first
        assert second.not_valid_after_utc.timestamp() == clock.now + 3 * HOUR

    @pytest.mark.parametrize("step", [-1, -HOUR, 10 * HOUR, 40 * 86400])
    def test_documents_are_valid_at_their_own_time_wherever_the_clock_jumps(
        self, tmp_path: Path, step: int
    ) -> None:
        clock = Clock()
        device = SimulatedDevice(tmp_path, clock)
        attested(device)
        clock.now += step
        signed = device.attest(keyset=KEYSET, nonce=NONCE, result_key=RESULT_KEY)
        assert nitro.verify(signed.document, roots=[simulator.ensure_root(tmp_path)], at=int(clock.now))

    def test_an_old_document_is_for_its_time_only(self, tmp_path: Path) -> None:
        document = attested(SimulatedDevice(tmp_path, Clock()))
        root = simulator.ensure_root(tmp_path)
        assert nitro.verify(document, roots=[root], at=NOW + 3 * HOUR)
        with pytest.raises(InvalidAttestation):
            nitro.verify(document, roots=[root], at=NOW + 3 * HOUR + 1)

    def test_threads_share_one_leaf(self, tmp_path: Path) -> None:
        device = SimulatedDevice(tmp_path, Clock())
        with ThreadPoolExecutor(8) as pool:
            documents = list(pool.map(lambda _: attested(device), range(32)))
        assert len({payload(each)["certificate"] for each in documents}) == 1


class TestRoot:
    def test_it_is_made_once_and_named_by_its_fingerprint(self, tmp_path: Path) -> None:
        folder = tmp_path / "made" / "for it"
        fingerprint = simulator.ensure_root(folder)
        certificate = x509.load_pem_x509_certificate((folder / "root.pem").read_bytes())
        assert sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest() == fingerprint
        assert simulator.ensure_root(folder) == fingerprint
        assert certificate.subject == certificate.issuer

    def test_its_key_is_for_its_owner_alone(self, tmp_path: Path) -> None:
        simulator.ensure_root(tmp_path / "root")
        assert stat.S_IMODE((tmp_path / "root" / "root.key").stat().st_mode) == 0o600
        assert stat.S_IMODE((tmp_path / "root").stat().st_mode) == 0o700
        assert not list((tmp_path / "root").glob("*.partial"))

    def test_who_race_for_it_end_with_the_same(self, tmp_path: Path) -> None:
        together = threading.Barrier(8)

        def make(_: int) -> str:
            together.wait()
            return simulator.ensure_root(tmp_path / "root")

        with ThreadPoolExecutor(8) as pool:
            assert len(set(pool.map(make, range(8)))) == 1

    def test_a_key_that_was_left_without_certificate_is_made_again(self, tmp_path: Path) -> None:
        simulator.ensure_root(tmp_path)
        (tmp_path / "root.pem").unlink()
        (tmp_path / "root.key.partial").write_text("of a process that was killed")
        fingerprint = simulator.ensure_root(tmp_path)
        assert simulator.ensure_root(tmp_path) == fingerprint

    def test_a_root_that_is_there_is_used_where_nothing_can_be_written(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fingerprint = simulator.ensure_root(tmp_path)
        for lacking in ("_alone", "_write"):
            monkeypatch.delattr(authority, lacking)
        assert simulator.ensure_root(tmp_path) == fingerprint

    @pytest.mark.parametrize("name", ["root.key", "root.pem"])
    @pytest.mark.parametrize("content", [b"", b"-----BEGIN nothing", b"\xff\x00"])
    def test_a_broken_file_is_named_with_what_to_do(self, tmp_path: Path, name: str, content: bytes) -> None:
        simulator.ensure_root(tmp_path)
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SimulatorUnusable, match="remove both"):
            SimulatedDevice(tmp_path)

    def test_a_missing_key_is_named(self, tmp_path: Path) -> None:
        simulator.ensure_root(tmp_path)
        (tmp_path / "root.key").unlink()
        with pytest.raises(SimulatorUnusable, match="No such file"):
            simulator.ensure_root(tmp_path)

    def test_the_key_of_another_root_is_refused(self, tmp_path: Path) -> None:
        for name in ("one", "other"):
            simulator.ensure_root(tmp_path / name)
        (tmp_path / "one" / "root.key").write_bytes((tmp_path / "other" / "root.key").read_bytes())
        with pytest.raises(SimulatorUnusable, match="is not that of"):
            SimulatedDevice(tmp_path / "one")

    def test_a_folder_that_is_a_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(SimulatorUnusable, match="choose another folder"):
            simulator.ensure_root(tmp_path / "file")


class TestMeasurements:
    def test_they_are_what_a_policy_needs_and_never_zero(self) -> None:
        measured = simulator.measurements()
        assert measured.keys() == {"pcr0", "pcr1", "pcr2"}
        assert all(
            len(bytes.fromhex(value)) == 48 and any(bytes.fromhex(value)) for value in measured.values()
        )
        assert len(set(measured.values())) == 3
        assert simulator.measurements() == measured

    def test_a_change_of_code_is_seen(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        package = tmp_path / "changing"
        (package / "inner").mkdir(parents=True)
        (package / "__init__.py").write_text("")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(simulator, "_PACKAGES", ("changing",))

        def seen() -> str:
            return simulator.measurements()["pcr0"]

        steps = [seen()]
        (package / "inner" / "more.py").write_text("x = 1\n")
        steps.append(seen())
        (package / "inner" / "more.py").write_text("x = 2\n")
        steps.append(seen())
        (package / "inner" / "more.py").rename(package / "more.py")
        steps.append(seen())
        assert len(set(steps)) == 4
        (package / "notes.txt").write_text("not code")
        assert seen() == steps[-1]

    def test_what_runs_the_code_is_seen(self, monkeypatch: pytest.MonkeyPatch) -> None:
        before = simulator.measurements()
        monkeypatch.setattr(simulator.platform, "python_version", lambda: "3.99.0")
        after = simulator.measurements()
        assert after["pcr1"] != before["pcr1"]
        assert (after["pcr0"], after["pcr2"]) == (before["pcr0"], before["pcr2"])
