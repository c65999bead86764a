"""The keyring: which keys are handed out and which still open, over a clock that the test moves; and what it has attested."""

import base64
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from aos_protocol.attestation import appraisal
from aos_protocol.attestation.policy import AttestationPolicy
from aos_protocol.job import Params
from aos_protocol.messages import ModelOffer
from aos_protocol.sealing import SealingKey, open_prompt, seal_prompt
from aos_protocol.typed_data import Domain, ExecutionClaim, recover_typed
from aos_tee_worker import simulator
from aos_tee_worker.errors import DeviceFailed, UnknownKeyset
from aos_tee_worker.keyring import Keyring, build_name
from aos_tee_worker.simulator import SimulatedDevice
from support.devices import COLLATERAL, MADE_AT, FakeDevice

NOW = 1_900_000_000
LIFETIME = 1000
NONCE = "5e" * 32
MODEL = ModelOffer(name="demo", sha256="ab" * 32)
DOMAIN = Domain(31337, "0x" + "11" * 20)
OPERATOR = "0x" + "22" * 20


class Ring:
    """A keyring, its device and its clock."""

    def __init__(self, lifetime: int = LIFETIME) -> None:
        self.device, self.now = FakeDevice(), float(NOW)
        self.keyring = Keyring(self.device, MODEL, "a build", lifetime, lambda: self.now)


@pytest.fixture
def ring() -> Ring:
    return Ring()


def claim(**changes: Any) -> ExecutionClaim:
    fields = dict.fromkeys(("job_id", "prompt", "answer", "transcript", "model", "params"), "00" * 32)
    return ExecutionClaim(**{"operator": OPERATOR, "seed": NONCE, **fields, **changes})


class TestLife:
    def test_the_keyset_says_what_it_is_and_how_long_it_holds(self, ring: Ring) -> None:
        keys = ring.keyring.current()
        assert keys.keyset.to_json() == {
            "version": "aos-keyset/1",
            "kind": "tdx",
            "result_key": keys.signer.public_key.hex(),
            "encryption_key": keys.sealing.public,
            "model": MODEL.to_json(),
            "build": "a build",
            "created_at": NOW,
            "expires_at": NOW + LIFETIME,
        }
        assert keys.digest == keys.keyset.digest()

    def test_it_is_replaced_when_half_of_its_life_has_passed(self, ring: Ring) -> None:
        first = ring.keyring.current()
        ring.now = NOW + LIFETIME / 2 - 0.5
        assert ring.keyring.current() is first
        ring.now = NOW + LIFETIME / 2
        second = ring.keyring.current()
        assert second.digest != first.digest
        assert second.signer.address != first.signer.address
        assert second.sealing.public != first.sealing.public

    def test_the_replaced_one_opens_until_it_expires(self, ring: Ring) -> None:
        first = ring.keyring.current()
        ring.now = NOW + LIFETIME / 2
        ring.keyring.current()
        ring.now = NOW + LIFETIME - 0.5
        assert ring.keyring.find(first.digest) is first
        ring.now = NOW + LIFETIME
        assert ring.keyring.find(first.digest) is None

    def test_nobody_finds_what_was_never_there(self, ring: Ring) -> None:
        assert ring.keyring.find("00" * 32) is None
        ring.keyring.current()
        assert ring.keyring.find("00" * 32) is None

    def test_a_prompt_sealed_before_the_change_opens_after_it(self, ring: Ring) -> None:
        first = ring.keyring.current()
        sealed = seal_prompt(
            {"prompt": "who?"}, ("demo", Params()), SealingKey().public, [(OPERATOR, first.keyset)]
        )
        ring.now = NOW + LIFETIME / 2 + 1
        ring.keyring.current()
        keys = ring.keyring.find(sealed.boxes[0].keyset)
        assert keys is not None
        assert open_prompt(keys.sealing, keys.digest, sealed, "demo", Params()) == {"prompt": "who?"}

    def test_a_clock_that_was_set_back_makes_new_keys(self, ring: Ring) -> None:
        """Nobody would take those from the future."""
        first = ring.keyring.current()
        ring.now = NOW - 60
        assert ring.keyring.current() is first
        ring.now = NOW - 61
        assert ring.keyring.current().keyset.created_at == NOW - 61

    @given(st.integers(1, 10**6), st.lists(st.floats(0, 3), min_size=1, max_size=40))
    def test_whoever_is_handed_keys_has_half_a_life_to_use_them(
        self, lifetime: int, waits: list[float]
    ) -> None:
        ring = Ring(lifetime)
        alive: list[tuple[str, int]] = []
        for wait in waits:
            ring.now += wait * lifetime
            keys = ring.keyring.current()
            assert keys.keyset.created_at <= ring.now
            assert keys.keyset.expires_at - int(ring.now) >= lifetime / 2 - 1
            alive.append((keys.digest, keys.keyset.expires_at))
            for digest, expires_at in alive:
                assert (ring.keyring.find(digest) is not None) == (int(ring.now) < expires_at)
            assert len(ring.keyring._rings) <= 3

    def test_threads_agree_on_the_current_keys(self, ring: Ring) -> None:
        with ThreadPoolExecutor(8) as pool:
            assert len({keys.digest for keys in pool.map(lambda _: ring.keyring.current(), range(64))}) == 1

    def test_no_secret_is_shown(self, ring: Ring) -> None:
        with capture_logs() as logs:
            keys = ring.keyring.current()
        shown = repr(keys) + str(keys) + repr(logs)
        assert keys.digest in repr(logs)
        for secret in (keys.signer.secret, keys.sealing.secret):
            assert secret.hex() not in shown.lower()
            assert repr(secret) not in shown


class TestAttestation:
    def test_the_device_signs_digest_nonce_and_result_key(self, ring: Ring) -> None:
        attestation = ring.keyring.attestation(NONCE)
        keys = ring.keyring.current()
        assert ring.device.asked == [
            {
                "keyset": bytes.fromhex(keys.digest),
                "nonce": bytes.fromhex(NONCE),
                "result_key": keys.signer.public_key,
            }
        ]
        assert attestation.to_json() == {
            "kind": "tdx",
            "document": base64.b64encode(b"quote").decode(),
            "keyset": keys.keyset.to_json(),
            "issued_at": MADE_AT,
            "collateral": COLLATERAL,
        }

    def test_each_is_made_afresh(self, ring: Ring) -> None:
        for nonce in (NONCE, NONCE, "00" * 32):
            ring.keyring.attestation(nonce)
        assert [asked["nonce"].hex() for asked in ring.device.asked] == [NONCE, NONCE, "00" * 32]

    def test_a_failure_of_the_device_is_passed_on(self, ring: Ring) -> None:
        ring.device.failure = DeviceFailed("it is out of order")
        with pytest.raises(DeviceFailed, match="out of order"):
            ring.keyring.attestation(NONCE)
        with pytest.raises(DeviceFailed, match="out of order"):
            ring.keyring.statement(claim(), DOMAIN)

    def test_a_simulated_one_is_appraised_by_a_policy(self, tmp_path: Any) -> None:
        keyring = Keyring(SimulatedDevice(tmp_path, lambda: NOW), MODEL, build_name(), clock=lambda: NOW)
        build = {"name": "demo build", "measurements": simulator.measurements()}
        policy = AttestationPolicy.model_validate(
            {
                "version": "aos-attestation-policy/1",
                "allow_simulated": True,
                "models": {
                    "demo": {
                        "sha256": MODEL.sha256,
                        "simulated": {"builds": [build], "roots": [simulator.ensure_root(tmp_path)]},
                    }
                },
            }
        )
        attestation = keyring.attestation(NONCE)
        found = appraisal.appraise(attestation, policy, model="demo", nonce=NONCE, now=NOW)
        assert (found.kind, found.build, found.debug) == ("simulated", "demo build", False)
        assert found.keyset == keyring.current().digest


class TestStatement:
    def test_the_current_keys_sign_and_are_attested_on_the_jobs_seed(self, ring: Ring) -> None:
        statement = ring.keyring.statement(claim(seed="77" * 32), DOMAIN)
        keys = ring.keyring.current()
        signer = recover_typed(DOMAIN, claim(seed="77" * 32), statement.signature)
        assert signer == keys.signer.address == statement.attestation.keyset.address
        assert ring.device.asked[0]["nonce"].hex() == "77" * 32
        assert statement.attestation.keyset == keys.keyset

    def test_a_sealed_prompts_keyset_signs_though_it_was_replaced(self, ring: Ring) -> None:
        first = ring.keyring.current()
        ring.now = NOW + LIFETIME / 2
        assert ring.keyring.current() is not first
        statement = ring.keyring.statement(claim(), DOMAIN, first.digest)
        assert statement.attestation.keyset == first.keyset
        assert recover_typed(DOMAIN, claim(), statement.signature) == first.signer.address
        assert ring.device.asked[0]["keyset"].hex() == first.digest
        assert ring.device.asked[0]["result_key"] == first.signer.public_key

    def test_an_expired_keyset_signs_nothing(self, ring: Ring) -> None:
        first = ring.keyring.current()
        ring.now = NOW + LIFETIME
        with pytest.raises(UnknownKeyset, match="Seal the prompt to its present one") as caught:
            ring.keyring.statement(claim(), DOMAIN, first.digest)
        assert caught.value.status == 422
        assert ring.device.asked == []


def test_the_build_has_a_name_and_a_version() -> None:
    assert build_name().startswith("aos-tee-worker 0.")
