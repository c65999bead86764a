"""Sealing: the suite is RFC 9180's, boxes open in their one place only, and bad keys and boxes are refused by name."""

import base64
import copy
import hashlib
import hmac
import pickle
from dataclasses import dataclass
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from aos_protocol.attestation.statement import Keyset
from aos_protocol.canonical import canonical
from aos_protocol.errors import InvalidMessage, NotCanonical, NotSealed
from aos_protocol.identity import Signer
from aos_protocol.job import MAX_BOX_CHARACTERS, MAX_BOXES, Params, Sealed
from aos_protocol.messages import ModelOffer
from aos_protocol.sealing import SUITE, SealingKey, open_answer, open_prompt, seal_answer, seal_prompt

# Published sender's secrets (skEm), receivers' keys (pkRm) and first ciphertexts (aad "Count-0") for the RFC's plaintext and info.
INFO = b"Ode on a Grecian Urn"
PLAINTEXT = b"Beauty is truth, truth beauty"
RFC_A_1_1 = (  # RFC 9180, appendix A.1.1: X25519, HKDF-SHA256, AES-128-GCM
    "52c4a758a802cd8b936eceea314432798d5baf2d7e9235dc084ab1b9cfa2f736",
    "3948cfe0ad1ddb695d780e59077195da6c56506b027329794ab02bca80815c4d",
    "f938558b5d72f1a23810b4be2ab4f84331acc02fc97babc53a52ae8218a355a96d8770ac83d07bea87e13c512a",
)
AES_256 = (  # our suite is not in the appendix; this is BoringSSL's and Tink's vector for it
    "28e212563a8b6f068af7ff17400ff1baf23612b7a738bbaf5dfb321b2b5b431a",
    "ac66bae9ffa270cf4a89ed9f274e30c0456babae2572aaaf002ff0d8884ab018",
    "23ded2d5d90ea89d975dac4792b297240f194952d7421aacbff0474100052b6bb8aa58d18ef6c42b6960e2e28f",
)

PROVER, OTHER = (Signer(bytes([number]) * 32).address for number in (2, 3))
ENCLAVE, PROJECT, STRANGER = (SealingKey(bytes([number]) * 32) for number in (4, 5, 6))
PARAMS = Params(max_tokens=8, top_p=0.5)
PROMPT: dict[str, Any] = {"prompt": "What is AI?"}
ANSWER: dict[str, Any] = {"text": "So it is.", "usage": {"prompt_tokens": 3}}
SEED = "5e" * 32
# Every encoding of a point of small order below 2^255 (RFC 7748, section 6.1, and section 7 on why they matter).
LOW_ORDER = [
    "00" * 32,
    "01" + "00" * 31,
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ec" + "ff" * 30 + "7f",
    "ed" + "ff" * 30 + "7f",
    "ee" + "ff" * 30 + "7f",
]


def keyset_of(encryption_key: str, **changes: Any) -> Keyset:
    values: dict[str, Any] = {
        "version": "aos-keyset/1",
        "kind": "simulated",
        "result_key": Signer(b"\x08" * 32).public_key.hex(),
        "encryption_key": encryption_key,
        "model": ModelOffer(name="tiny.gguf", sha256="3d" * 32),
        "build": "0.4.0",
        "created_at": 1_000,
        "expires_at": 2_000,
    }
    return Keyset(**values | changes)


KEYSET = keyset_of(ENCLAVE.public)
SECOND = keyset_of(STRANGER.public)


def sealed_to(*enclaves: tuple[str, Keyset], prompt: dict[str, Any] = PROMPT) -> Sealed:
    return seal_prompt(
        prompt, ("tiny.gguf", PARAMS), PROJECT.public, enclaves or [(PROVER, KEYSET), (OTHER, SECOND)]
    )


# The standard, written out again


@dataclass(frozen=True)
class Written:
    """HPKE in base mode as RFC 9180 says it (sections 4.1, 5.1): DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and AES-GCM."""

    aead_id: int
    key_bytes: int

    def context(
        self, secret: X25519PrivateKey, other: str, enc: bytes, public: bytes
    ) -> tuple[AESGCM, bytes]:
        """The cipher and first nonce of sender or receiver; `enc` is the sender's key, `public` the receiver's."""
        kem, hpke = b"KEM\x00\x20", b"HPKE\x00\x20\x00\x01" + self.aead_id.to_bytes(2, "big")
        shared = secret.exchange(X25519PublicKey.from_public_bytes(bytes.fromhex(other)))
        shared = expand(kem, extract(kem, b"", b"eae_prk", shared), b"shared_secret", enc + public, 32)
        context = b"\x00" + extract(hpke, b"", b"psk_id_hash", b"") + extract(hpke, b"", b"info_hash", INFO)
        schedule = extract(hpke, shared, b"secret", b"")
        key = expand(hpke, schedule, b"key", context, self.key_bytes)
        return AESGCM(key), expand(hpke, schedule, b"base_nonce", context, 12)

    def seal(self, secret: str, public: str, text: bytes, aad: bytes) -> tuple[bytes, bytes]:
        own = X25519PrivateKey.from_private_bytes(bytes.fromhex(secret))
        enc = own.public_key().public_bytes_raw()
        cipher, nonce = self.context(own, public, enc, bytes.fromhex(public))
        return enc, cipher.encrypt(nonce, text, aad)


def extract(suite: bytes, salt: bytes, label: bytes, key: bytes) -> bytes:
    return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + key, "sha256")


def expand(suite: bytes, key: bytes, label: bytes, info: bytes, length: int) -> bytes:
    assert length <= hashlib.sha256().digest_size
    labelled = length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
    return hmac.digest(key, labelled + b"\x01", "sha256")[:length]


@pytest.mark.parametrize(("written", "vector"), [(Written(1, 16), RFC_A_1_1), (Written(2, 32), AES_256)])
def test_what_is_written_here_is_the_standard(written: Written, vector: tuple[str, str, str]) -> None:
    secret, public, ciphertext = vector
    assert written.seal(secret, public, PLAINTEXT, b"Count-0")[1].hex() == ciphertext


def test_a_box_of_the_standard_s_is_opened() -> None:
    enc, ciphertext = Written(2, 32).seal("28" * 32, ENCLAVE.public, PLAINTEXT, b"")
    assert ENCLAVE.open(base64.b64encode(enc + ciphertext).decode(), INFO) == PLAINTEXT


def test_another_implementation_opens_our_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    sealed = sealed_to((PROVER, KEYSET))
    info = {
        "use": "aos-prompt/1",
        "keyset": KEYSET.digest(),
        "model": "tiny.gguf",
        "params": PARAMS.digest(),
        "reply_key": PROJECT.public,
    }
    monkeypatch.setitem(globals(), "INFO", canonical(info))
    box = base64.b64decode(sealed.boxes[0].box)
    own = X25519PrivateKey.from_private_bytes(ENCLAVE.secret)
    cipher, nonce = Written(2, 32).context(own, box[:32].hex(), box[:32], bytes.fromhex(ENCLAVE.public))
    assert cipher.decrypt(nonce, box[32:], b"") == canonical(PROMPT)
    assert sealed.suite == SUITE == "0x0020-0x0001-0x0002"


# Prompts


@pytest.mark.parametrize(
    "prompt", [PROMPT, {"messages": [{"role": "user", "content": "é\n\U0001f600"}]}, {"prompt": ""}]
)
def test_an_enclave_opens_what_was_sealed_to_its_keyset(prompt: dict[str, Any]) -> None:
    sealed = sealed_to((PROVER, KEYSET), (OTHER, SECOND), prompt=prompt)
    assert open_prompt(ENCLAVE, KEYSET.digest(), sealed, "tiny.gguf", PARAMS) == prompt
    assert open_prompt(STRANGER, SECOND.digest(), sealed, "tiny.gguf", PARAMS) == prompt
    assert sealed.operators == {PROVER, OTHER}
    assert Sealed.model_validate(sealed.to_json()) == sealed


def test_two_boxes_of_one_prompt_have_nothing_in_common() -> None:
    one, other = (base64.b64decode(sealed_to((PROVER, KEYSET)).boxes[0].box) for _ in range(2))
    assert one[:32] != other[:32]
    assert one[32:] != other[32:]
    assert len(one) == 32 + len(canonical(PROMPT)) + 16


@pytest.mark.parametrize(
    ("model", "params", "change"),
    [
        ("other.gguf", PARAMS, {}),
        ("tiny.gguf", Params(max_tokens=9, top_p=0.5), {}),
        ("tiny.gguf", Params(max_tokens=8, top_p=0.5, stop=["\n"]), {}),
        ("tiny.gguf", PARAMS, {"reply_key": STRANGER.public}),
    ],
)
def test_a_prompt_opens_for_nothing_but_what_it_was_sealed_for(
    model: str, params: Params, change: dict[str, Any]
) -> None:
    """Above all not for another reply key, by which a host would read the answer."""
    moved = Sealed.model_validate(sealed_to().to_json() | change)
    with pytest.raises(NotSealed, match="belongs to another job"):
        open_prompt(ENCLAVE, KEYSET.digest(), moved, model, params)


def test_a_prompt_opens_for_no_other_key_and_under_no_other_keyset() -> None:
    sealed = sealed_to((PROVER, KEYSET))
    with pytest.raises(NotSealed, match="not for this key"):
        open_prompt(STRANGER, KEYSET.digest(), sealed, "tiny.gguf", PARAMS)
    with pytest.raises(NotSealed, match="present keyset"):
        open_prompt(ENCLAVE, SECOND.digest(), sealed, "tiny.gguf", PARAMS)
    renamed = sealed.to_json()
    renamed["boxes"][0]["keyset"] = SECOND.digest()
    with pytest.raises(NotSealed, match="not for this key"):
        open_prompt(ENCLAVE, SECOND.digest(), Sealed.model_validate(renamed), "tiny.gguf", PARAMS)


@pytest.mark.parametrize(
    "prompt", [{}, {"text": "x"}, PROMPT | {"messages": []}, PROMPT | {"seed": "0" * 64}, {"params": {}}]
)
def test_only_a_prompt_or_messages_can_be_sealed_or_opened(prompt: dict[str, Any]) -> None:
    with pytest.raises(NotSealed, match="either prompt or messages"):
        sealed_to(prompt=prompt)
    forged = forged_prompt(canonical(prompt))
    with pytest.raises(NotSealed, match="either prompt or messages"):
        open_prompt(ENCLAVE, KEYSET.digest(), forged, "tiny.gguf", PARAMS)


@pytest.mark.parametrize(
    ("text", "said"),
    [(b"[]", "no JSON object"), (b"{", "cannot be read"), (b'{"prompt":"a","prompt":"b"}', "duplicate")],
)
def test_a_box_that_holds_no_object_is_refused(text: bytes, said: str) -> None:
    with pytest.raises(NotSealed, match=said):
        open_prompt(ENCLAVE, KEYSET.digest(), forged_prompt(text), "tiny.gguf", PARAMS)


def forged_prompt(text: bytes) -> Sealed:
    """Anybody can seal anything: a box for the enclave with this text."""
    good = sealed_to((PROVER, KEYSET))
    info = canonical(
        {
            "use": "aos-prompt/1",
            "keyset": KEYSET.digest(),
            "model": "tiny.gguf",
            "params": PARAMS.digest(),
            "reply_key": PROJECT.public,
        }
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "INFO", info)
        enc, ciphertext = Written(2, 32).seal("29" * 32, ENCLAVE.public, text, b"")
    box = good.boxes[0].model_copy(update={"box": base64.b64encode(enc + ciphertext).decode()})
    return good.model_copy(update={"boxes": [box]})


# Answers


def sealed_answer(sealed: Sealed, **place: str) -> str:
    return seal_answer(ANSWER, sealed, **{"seed": SEED, "prover": PROVER, "keyset": KEYSET.digest()} | place)


def test_the_project_opens_the_answer_and_nobody_else_does() -> None:
    sealed = sealed_to()
    box = sealed_answer(sealed)
    place = {"seed": SEED, "prover": PROVER, "keyset": KEYSET.digest()}
    assert open_answer(PROJECT, box, sealed, **place) == ANSWER
    for key in (ENCLAVE, STRANGER):
        with pytest.raises(NotSealed):
            open_answer(key, box, sealed, **place)


@pytest.mark.parametrize(
    "change", [{"seed": "5f" * 32}, {"prover": OTHER}, {"keyset": SECOND.digest()}], ids=str
)
def test_an_answer_opens_as_that_of_its_job_operator_and_keyset_only(change: dict[str, str]) -> None:
    sealed = sealed_to()
    place = {"seed": SEED, "prover": PROVER, "keyset": KEYSET.digest()}
    with pytest.raises(NotSealed):
        open_answer(PROJECT, sealed_answer(sealed), sealed, **place | change)


def test_an_answer_to_a_host_s_own_prompt_does_not_open_as_the_answer_to_the_project_s() -> None:
    """The reply key stands in the open: a host can seal a prompt of its own with it, and pass on the answer to that."""
    sealed, hosts = sealed_to(), sealed_to(prompt={"prompt": "Say yes."})
    assert hosts.reply_key == sealed.reply_key
    place = {"seed": SEED, "prover": PROVER, "keyset": KEYSET.digest()}
    with pytest.raises(NotSealed):
        open_answer(PROJECT, sealed_answer(hosts), sealed, **place)


# Keys and boxes that are none


@pytest.mark.parametrize("point", LOW_ORDER)
def test_points_of_small_order_are_no_keys(point: str) -> None:
    """With such a key the shared secret is known to everybody; the library finds it, and nothing is sealed."""
    with pytest.raises(NotSealed, match=f"nothing can be sealed to the key {point}"):
        sealed_to((PROVER, keyset_of(point)))
    bad = seal_prompt(PROMPT, ("tiny.gguf", PARAMS), point, [(PROVER, KEYSET)])
    with pytest.raises(NotSealed, match=point):
        open_prompt(ENCLAVE, KEYSET.digest(), bad, "tiny.gguf", PARAMS)
    with pytest.raises(NotSealed, match=point):
        sealed_answer(bad)
    box = base64.b64encode(bytes.fromhex(point) + bytes(40)).decode()
    with pytest.raises(NotSealed):
        ENCLAVE.open(box, b"")


@given(st.binary(max_size=80))
def test_no_bytes_open_by_chance(box: bytes) -> None:
    with pytest.raises(NotSealed, match="does not open"):
        ENCLAVE.open(base64.b64encode(box).decode(), INFO)


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_every_changed_byte_of_a_box_is_found(place: int, mask: int) -> None:
    box = bytearray(base64.b64decode(_BOX))
    box[place % len(box)] ^= mask
    # The highest bit of an X25519 key is ignored in the exchange (RFC 7748, section 5), but HPKE binds the key's bytes.
    with pytest.raises(NotSealed):
        ENCLAVE.open(base64.b64encode(box).decode(), INFO)


_BOX = base64.b64encode(b"".join(Written(2, 32).seal("27" * 32, ENCLAVE.public, PLAINTEXT, b""))).decode()


@pytest.mark.parametrize("box", ["", "AAAA", "é", "not base64", _BOX[:-4], _BOX + "AAAA", _BOX + "\n"])
def test_what_is_no_box_is_refused(box: str) -> None:
    assert ENCLAVE.open(_BOX, INFO) == PLAINTEXT
    with pytest.raises(NotSealed):
        ENCLAVE.open(box, INFO)


@pytest.mark.parametrize("secret", [b"", bytes(31), bytes(33)])
def test_a_key_has_32_bytes(secret: bytes) -> None:
    with pytest.raises(NotSealed, match="32 bytes"):
        SealingKey(secret)


def test_a_key_is_kept_and_never_shown() -> None:
    key = SealingKey()
    assert SealingKey(key.secret).public == key.public != SealingKey().public
    assert key.secret.hex() not in repr(key)
    assert str(key.secret) not in repr(key)
    for copied in (lambda: pickle.dumps(key), lambda: copy.copy(key), lambda: copy.deepcopy(key)):
        with pytest.raises(TypeError, match="private key"):
            copied()
    with pytest.raises(NotSealed) as caught:
        key.open(_BOX, INFO)
    assert key.secret.hex() not in str(caught.value)


# Limits


def test_enclaves_are_at_least_one_and_at_most_sixteen_and_distinct() -> None:
    many = [(PROVER, keyset_of(ENCLAVE.public, build=str(number))) for number in range(17)]
    assert len(sealed_to(*many[:16]).boxes) == 16
    with pytest.raises(InvalidMessage, match="boxes"):
        sealed_to(*many)
    with pytest.raises(InvalidMessage, match="two boxes are for the same keyset"):
        sealed_to((PROVER, KEYSET), (OTHER, KEYSET))
    with pytest.raises(InvalidMessage, match="boxes"):
        seal_prompt(PROMPT, ("tiny.gguf", PARAMS), PROJECT.public, [])
    with pytest.raises(InvalidMessage, match="operator"):
        sealed_to((PROVER.lower(), KEYSET))


def test_all_boxes_fit_a_body_of_one_mebibyte() -> None:
    many = [(PROVER, keyset_of(ENCLAVE.public, build=str(number))) for number in range(16)]
    each = MAX_BOX_CHARACTERS // MAX_BOXES * 3 // 4 - 32 - 16 - len(canonical({"prompt": ""}))
    most = sealed_to(*many, prompt={"prompt": "x" * each})
    assert (
        sum(len(box.box) for box in most.boxes)
        <= MAX_BOX_CHARACTERS
        < len(canonical(most.to_json()))
        < 1 << 20
    )
    with pytest.raises(InvalidMessage, match="shorter prompt, or to fewer enclaves"):
        sealed_to(*many, prompt={"prompt": "x" * (each + 3)})


def test_what_has_no_canonical_form_cannot_be_sealed() -> None:
    with pytest.raises(NotCanonical):
        sealed_to(prompt={"prompt": "\ud800"})
