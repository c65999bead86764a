import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from aos_service.redaction import MASK, is_secret_name, redact, redact_text

SECRET = "5cff9c0e"


@pytest.mark.parametrize(
    "name",
    [
        "token", "api_token", "verify_token", "secret", "client_secret", "password", "db_password", "passphrase",
        "key", "signer_key", "vrf_key", "privateKey", "private-key", "API_KEY", "keys", "authorization", "mnemonic",
        "set-cookie",
    ],
)  # fmt: skip
def test_values_of_secret_names_are_masked(name: str) -> None:
    assert is_secret_name(name)
    assert redact(None, "info", {name: SECRET}) == {name: MASK}


@pytest.mark.parametrize(
    "name",
    [
        "key_id",
        "signer_key_id",
        "public_key",
        "publicKey",
        "pubkey",
        "vrf_verify_pubkey",
        "keystore",
        "job_id",
    ],
)
def test_values_of_public_names_stay(name: str) -> None:
    assert redact(None, "info", {name: SECRET}) == {name: SECRET}


def test_counts_of_tokens_stay_and_numeric_passwords_go() -> None:
    event = {
        "max_tokens": 1024,
        "prompt_tokens": [3, 4],
        "password": 123456,
        "token": None,
        "has_token": True,
    }
    assert redact(None, "info", event) == event | {"password": MASK}


def test_nested_values_are_masked() -> None:
    event = {
        "settings": {"node": [{"signer_key": SECRET, "node_id": "0x1"}]},
        "secrets": {"a": SECRET, "b": [SECRET, 7]},
    }
    assert redact(None, "info", event) == {
        "settings": {"node": [{"signer_key": MASK, "node_id": "0x1"}]},
        "secrets": {"a": MASK, "b": [MASK, MASK]},
    }


def test_objects_are_masked_by_what_they_print() -> None:
    class Connection:
        def __str__(self) -> str:
            return f"<connection to redis://:{SECRET}@host>"

    shown = str(redact(None, "info", {"connection": Connection(), "value": SecretStr(SECRET)}))
    assert SECRET not in shown
    assert "redis://:***@host" in shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgres://user:5cff9c0e@host:5432/db", "postgres://user:***@host:5432/db"),
        ("postgresql+asyncpg://u:5cff@9c0e/x@host/db", "postgresql+asyncpg://u:***@host/db"),
        ("redis://:5cff9c0e@host", "redis://:***@host"),
        ("Authorization: Bearer 5cff9c0e", "Authorization: Bearer ***"),
        ("connect(password='5cff9c0e', user='x')", "connect(password='***', user='x')"),
        ('{"api_token": "5cff9c0e", "user": "x"}', '{"api_token": "***", "user": "x"}'),
        ("GET /ws?token=5cff9c0e&a=b", "GET /ws?token=***&a=b"),
    ],
)
def test_secrets_in_texts_are_masked(text: str, shown: str) -> None:
    assert redact_text(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://user@/name?host=/tmp/run",
        "http://127.0.0.1:8000/api/job/submit",
        "token expected here: give one",
        "max_tokens: 3",
        "9935188af8051af60e323429a88f90417eaa08319c2abb360486662538b05532",
    ],
)
def test_texts_without_secrets_stay(text: str) -> None:
    assert redact_text(text) == text


@given(
    password=st.text(st.characters(exclude_categories=("Z", "C")), min_size=1).filter(
        lambda text: len(text) > 3
    )
)
def test_any_password_in_a_url_is_masked(password: str) -> None:
    shown = redact_text(f"could not connect to postgres://user:{password}@localhost/name today")
    assert shown == "could not connect to postgres://user:***@localhost/name today"


@pytest.mark.parametrize("text", ["a" * 300_000, "a://b:" * 2_000, "key" * 100_000, "bearer " * 40_000])
def test_long_texts_are_quick(text: str) -> None:
    started = time.thread_time()
    redact_text(text)
    assert time.thread_time() - started < 2
