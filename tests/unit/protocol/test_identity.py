import copy
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from coincurve import PrivateKey
from eth_account import Account
from eth_account.messages import encode_defunct
from hypothesis import given
from hypothesis import strategies as st

from aos_protocol.errors import InvalidAddress, InvalidKey, InvalidSignature
from aos_protocol.identity import (
    Signer,
    address_of,
    checksum_address,
    parse_signature,
    recover_digest,
    recover_message,
)

VECTORS = Path(__file__).parents[4] / "shared" / "vectors" / "ethereum"
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
SECRET = "4af1bceebf7f3634ec3cff8a2c38e51178d5d4ce585c52d6043e5e2cc3418bb0"
SECRETS = st.integers(1, ORDER - 1).map(lambda number: number.to_bytes(32, "big"))


def vectors(name: str, key: str) -> list[Any]:
    path = VECTORS / name
    if not path.exists():
        return [pytest.param(None, marks=pytest.mark.skip(reason=f"no published vectors at {path}"))]
    return list(json.loads(path.read_text())[key])


def unhex(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))


@pytest.mark.parametrize("pair", vectors("keys_addresses.json", "key_pairs"))
def test_published_keys_give_their_addresses(pair: dict[str, str]) -> None:
    signer = Signer.from_hex(pair["private_key"])
    assert signer.address == pair["address"]
    assert signer.public_key == unhex(pair["public_key_compressed"])
    assert signer.secret == unhex(pair["private_key"])
    assert address_of(signer.public_key) == pair["address"]
    assert address_of(unhex(pair["public_key_uncompressed"])) == pair["address"]


@pytest.mark.parametrize("address", vectors("keys_addresses.json", "eip55_checksummed"))
def test_published_checksums(address: str) -> None:
    digits = address[2:]
    for form in (
        address,
        digits,
        digits.lower(),
        digits.upper(),
        f"0x{digits.lower()}",
        f"0x{digits.upper()}",
    ):
        assert checksum_address(form) == address


@pytest.mark.parametrize("vector", vectors("eip191_personal_sign.json", "vectors"))
def test_published_personal_signatures(vector: dict[str, str]) -> None:
    message, signature = unhex(vector["message_hex"]), unhex(vector["signature"])
    signer = Signer.from_hex(vector["private_key"])
    assert signer.sign_message(message) == signature
    assert recover_message(message, signature) == signer.address == vector["address_checksum"]
    with pytest.raises(InvalidSignature, match=r"v is [01]; it must be 27 or 28"):
        recover_message(message, unhex(vector["signature_v01"]))
    with pytest.raises(InvalidSignature, match="upper half"):
        recover_message(message, unhex(vector["high_s_twin_same_signer"]))


@given(SECRETS, st.binary(max_size=200))
def test_signatures_equal_those_of_eth_account(secret: bytes, message: bytes) -> None:
    signer, account = Signer(secret), Account.from_key(secret)
    signature = signer.sign_message(message)
    assert signer.address == account.address
    assert signature == bytes(account.sign_message(encode_defunct(message)).signature)
    assert recover_message(message, signature) == account.address


@given(SECRETS, st.binary(max_size=80), st.integers(0, 64), st.integers(1, 255))
def test_no_changed_signature_recovers_its_signer(secret: bytes, message: bytes, at: int, mask: int) -> None:
    signer = Signer(secret)
    changed = bytearray(signer.sign_message(message))
    changed[at] ^= mask
    try:
        assert recover_message(message, bytes(changed)) != signer.address
    except InvalidSignature as refusal:
        assert str(refusal)  # noqa: PT017


def signature(r: int, s: int, v: int = 27) -> bytes:
    return r.to_bytes(32, "big") + s.to_bytes(32, "big") + bytes((v,))


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"", "has 0"),
        (bytes(64), "has 64"),
        (bytes(66), "has 66"),
        (signature(1, 1, 0), "v is 0"),
        (signature(1, 1, 29), "v is 29"),
        (signature(0, 1), "group order"),
        (signature(1, 0), "group order"),
        (signature(ORDER, 1), "group order"),
        (signature(1, ORDER), "group order"),
        (signature(2**256 - 1, 2**256 - 1), "group order"),
        (signature(1, ORDER // 2 + 1), "upper half"),
        (signature(1, ORDER - 1, 28), "upper half"),
        # 5 is the x coordinate of no point on the curve.
        (signature(5, 1), "no public key"),
    ],
)
def test_ambiguous_and_impossible_signatures_are_refused(bad: bytes, reason: str) -> None:
    with pytest.raises(InvalidSignature, match=reason):
        recover_message(b"message", bad)


def test_the_greatest_low_s_is_accepted() -> None:
    assert recover_digest(b"\x07" * 32, signature(1, ORDER // 2)).startswith("0x")


def test_signature_text_is_130_lower_case_digits() -> None:
    text = Signer.from_hex(SECRET).sign_message(b"x").hex()
    assert parse_signature(text).hex() == text
    for bad in ("", "0x" + text, text.upper(), text[:-1], text + "0", text + "\n", "g" * 130, None, 7):
        with pytest.raises(InvalidSignature, match="130 lower-case hex digits"):
            parse_signature(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [0, ORDER, ORDER + 1, 2**256 - 1])
def test_secrets_out_of_range_are_refused(number: int) -> None:
    with pytest.raises(InvalidKey, match="group order"):
        Signer(number.to_bytes(32, "big"))


@pytest.mark.parametrize("secret", [b"", b"\x01", b"\x01" * 31, b"\x01" * 33])
def test_secrets_of_other_lengths_are_refused(secret: bytes) -> None:
    with pytest.raises(InvalidKey, match="32 bytes"):
        Signer(secret)


@pytest.mark.parametrize(
    "text", ["", "0x", SECRET[:-1], SECRET + "0", "0X" + SECRET, " " + SECRET, SECRET + "\n"]
)
def test_hex_secrets_are_read_strictly_and_never_repeated(text: str) -> None:
    with pytest.raises(InvalidKey, match="64 hex digits") as refusal:
        Signer.from_hex(text)
    assert SECRET[:-1] not in str(refusal.value)


def test_both_hex_spellings_give_one_key() -> None:
    assert Signer.from_hex(SECRET).address == Signer.from_hex("0x" + SECRET.upper()).address


def test_generated_keys_differ() -> None:
    assert Signer.generate().address != Signer.generate().address


def test_a_signer_shows_its_address_only() -> None:
    signer = Signer.from_hex(SECRET)
    assert repr(signer) == str(signer) == f"{signer}" == f"Signer({signer.address})"
    for leak in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="private key"):
            leak(signer)
    assert not hasattr(signer, "__dict__")


def keystore(**changes: object) -> str:
    document = Account.encrypt(bytes.fromhex(SECRET), "correct horse", kdf="pbkdf2", iterations=2)
    return json.dumps({**document, **changes})


def test_keystores_of_eth_account_open() -> None:
    assert Signer.from_keystore(keystore(), "correct horse").secret.hex() == SECRET


def test_own_keystore_is_encrypted_v3_and_opens_elsewhere() -> None:
    signer = Signer.from_hex(SECRET)
    document = signer.to_keystore("correct horse")
    assert SECRET not in document
    assert json.loads(document)["version"] == 3
    assert json.loads(document)["crypto"]["kdf"] == "scrypt"
    assert bytes(Account.decrypt(document, "correct horse")).hex() == SECRET


@pytest.mark.parametrize(
    ("document", "password"),
    [
        (keystore(), "wrong"),
        (keystore(version=1), "correct horse"),
        (keystore(crypto={}), "correct horse"),
        (keystore(crypto=None), "correct horse"),
        (keystore(address="not one"), "correct horse"),
        ("", ""),
        ("{", ""),
        ("{}", ""),
        ("[]", ""),
        ("null", ""),
        (json.dumps(keystore()), "correct horse"),
    ],
)
def test_bad_keystores_and_passwords_are_refused(document: str, password: str) -> None:
    with pytest.raises(InvalidKey, match="keystore cannot be opened") as refusal:
        Signer.from_keystore(document, password)
    assert SECRET not in str(refusal.value)


def test_a_keystore_of_another_address_is_refused() -> None:
    with pytest.raises(InvalidKey, match="not that of its key"):
        Signer.from_keystore(keystore(address="11" * 20), "correct horse")


def test_a_keystore_without_address_opens() -> None:
    document = json.loads(keystore())
    del document["address"]
    assert Signer.from_keystore(json.dumps(document), "correct horse").secret.hex() == SECRET


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0x",
        "0x" + "1" * 39,
        "0x" + "1" * 41,
        "0X" + "1" * 40,
        "0x" + "g" * 40,
        " 0x" + "1" * 40,
        "0x" + "1" * 40 + "\n",
        "vitalik.eth",
        "0x" + "\u0661" * 40,
        None,
        1,
        b"1" * 40,
    ],
)
def test_what_is_no_address_is_refused(text: object) -> None:
    with pytest.raises(InvalidAddress, match="is no address"):
        checksum_address(text)  # type: ignore[arg-type]


def test_a_wrong_checksum_is_refused_and_the_right_one_named() -> None:
    right = Signer.from_hex(SECRET).address
    with pytest.raises(InvalidAddress, match=right):
        checksum_address(right[:-1] + right[-1].swapcase())


@pytest.mark.parametrize(
    "key", [b"", b"\x02" + bytes(32), b"\x02" + b"\xff" * 32, b"\x05" * 33, b"\x04" * 65]
)
def test_what_is_no_public_key_is_refused(key: bytes) -> None:
    with pytest.raises(InvalidKey, match="point of secp256k1"):
        address_of(key)


def test_the_recursion_limit_stays_where_json_is_safe() -> None:
    code = (
        "import json, sys; import aos_protocol.typed_data\n"
        "from aos_protocol.identity import Signer\n"
        "Signer.generate().to_keystore('x')\n"
        "assert 'py_ecc' in sys.modules\n"
        "try: json.loads('[' * 10**6)\n"
        "except RecursionError: print('kept')\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False
    )
    assert (run.returncode, run.stdout) == (0, "kept\n")


@given(SECRETS)
def test_address_of_agrees_with_the_signer(secret: bytes) -> None:
    assert address_of(PrivateKey(secret).public_key.format(compressed=False)) == Signer(secret).address
