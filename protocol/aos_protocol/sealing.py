"""Prompts that only an attested enclave can read, and answers that only their project can: HPKE, RFC 9180, base mode.

The suite is DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and AES-256-GCM, from `cryptography`. What a message belongs to stands in HPKE's `info`,
so that a box opens nowhere else: a prompt's names the keyset, model, parameters and the key that the answer goes to, which nobody
on the way can exchange; an answer's names the job's seed, the operator, the enclave's keyset, and the sealed prompt that it answers: a host
could otherwise seal a prompt of its own to the same reply key, and pass on the answer to that. Lengths are not hidden.
"""

import base64
from collections.abc import Iterable
from typing import Any, Final, NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from aos_protocol.attestation.statement import Keyset
from aos_protocol.canonical import JsonValue, canonical, digest, parse
from aos_protocol.errors import NotCanonical, NotSealed
from aos_protocol.fields import parse_message
from aos_protocol.job import Params, Sealed

SUITE: Final = "0x0020-0x0001-0x0002"
_SUITE: Final = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


class SealingKey:
    """An X25519 key that opens what is sealed to it; neither its repr nor an exception shows the secret."""

    __slots__ = ("_key", "_public")

    def __init__(self, secret: bytes | None = None) -> None:
        """Make a key from 32 bytes, or without them a new one. Raises `NotSealed` for another length."""
        try:
            self._key = (
                X25519PrivateKey.generate() if secret is None else X25519PrivateKey.from_private_bytes(secret)
            )
        except ValueError as error:
            raise NotSealed("an X25519 key has 32 bytes; give the file that was made with the job") from error
        self._public = self._key.public_key().public_bytes_raw().hex()

    @property
    def public(self) -> str:
        """The public key, 64 hex digits."""
        return self._public

    @property
    def secret(self) -> bytes:
        """The 32-byte scalar, to be kept in a private file until the answer is there."""
        return self._key.private_bytes_raw()

    def open(self, box: str, info: bytes) -> bytes:
        """Return what a box in base64 holds. Raises `NotSealed` unless it was sealed to this key, with this `info`."""
        try:
            return _SUITE.decrypt(base64.b64decode(box, validate=True), self._key, info=info)
        except (InvalidTag, ValueError) as error:
            raise NotSealed(
                "the box does not open: it is not for this key, or belongs to another job"
            ) from error

    def __repr__(self) -> str:
        return f"SealingKey({self._public})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a SealingKey holds a private key and cannot be pickled or copied")


def seal_prompt(
    prompt: dict[str, Any], job: tuple[str, Params], reply_key: str, enclaves: Iterable[tuple[str, Keyset]]
) -> Sealed:
    """Seal `{"prompt": ...}` or `{"messages": [...]}` to enclaves, each with its operator's address; `job` is model and parameters.

    Raises `NotSealed` for another prompt and for a keyset whose key is unusable, `NotCanonical` for a prompt without an RFC 8785 form,
    and `InvalidMessage` for too many enclaves or none, too long a prompt, or a reply key or operator that is malformed.
    """
    model, params = job
    text = canonical(_checked_prompt(prompt))
    boxes = [
        {
            "operator": operator,
            "keyset": keyset.digest(),
            "box": seal(text, keyset.encryption_key, _prompt_info(keyset.digest(), model, params, reply_key)),
        }
        for operator, keyset in enclaves
    ]
    return parse_message(Sealed, {"suite": SUITE, "reply_key": reply_key, "boxes": boxes})


def open_prompt(
    key: SealingKey, keyset: str, sealed: Sealed, model: str, params: Params
) -> dict[str, JsonValue]:
    """Return the prompt that was sealed to the keyset with this digest: an object with `prompt` or `messages`, and nothing else.

    Raises `NotSealed`, also when no box is for it, or when no answer could be sealed to its reply key.
    """
    box = next((each for each in sealed.boxes if each.keyset == keyset), None)
    if box is None:
        raise NotSealed(
            "the prompt is not sealed to this enclave's present keyset: it may have been restarted since"
        )
    prompt = _json_object(key.open(box.box, _prompt_info(keyset, model, params, sealed.reply_key)))
    seal(b"", sealed.reply_key, b"")  # an unusable key is found before the model has run for it
    return _checked_prompt(prompt)


def seal_answer(answer: dict[str, Any], sealed: Sealed, *, seed: str, prover: str, keyset: str) -> str:
    """Seal an enclave's whole answer to the reply key of the sealed prompt that it opened; returns base64.

    Raises `NotSealed` for an unusable key, and `NotCanonical` for an answer without an RFC 8785 form.
    """
    return seal(canonical(answer), sealed.reply_key, _answer_info(sealed, seed, prover, keyset))


def open_answer(
    key: SealingKey, box: str, sealed: Sealed, *, seed: str, prover: str, keyset: str
) -> dict[str, JsonValue]:
    """Return what the enclave with this keyset answered to exactly this sealed prompt, for the job with this seed.

    Raises `NotSealed`.
    """
    return _json_object(key.open(box, _answer_info(sealed, seed, prover, keyset)))


def seal(text: bytes, public: str, info: bytes) -> str:
    """Seal bytes to an X25519 key of 64 hex digits, with this `info`; returns base64. Raises `NotSealed` for a key that is unusable."""
    try:
        key = X25519PublicKey.from_public_bytes(bytes.fromhex(public))
        return base64.b64encode(_SUITE.encrypt(text, key, info=info)).decode()
    except ValueError as error:
        raise NotSealed(f"nothing can be sealed to the key {public}: it is no good X25519 key") from error


def _prompt_info(keyset: str, model: str, params: Params, reply_key: str) -> bytes:
    return canonical(
        {
            "use": "aos-prompt/1",
            "keyset": keyset,
            "model": model,
            "params": params.digest(),
            "reply_key": reply_key,
        }
    )


def _answer_info(sealed: Sealed, seed: str, prover: str, keyset: str) -> bytes:
    return canonical(
        {
            "use": "aos-answer/1",
            "keyset": keyset,
            "prompt": digest(sealed.to_json()),
            "prover": prover,
            "seed": seed,
        }
    )


def _checked_prompt(prompt: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Return it, unless it holds more: whatever stood beside a prompt could pass for what the enclave was asked in the open."""
    if prompt.keys() not in ({"prompt"}, {"messages"}):
        raise NotSealed("a sealed prompt is an object with either prompt or messages, and nothing else")
    return prompt


def _json_object(text: bytes) -> dict[str, JsonValue]:
    try:
        value = parse(text)
    except NotCanonical as error:
        raise NotSealed(f"what the box holds cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise NotSealed("what the box holds is no JSON object")
    return value
