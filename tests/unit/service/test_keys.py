import os
import stat
from contextlib import nullcontext
from pathlib import Path

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from aos_protocol.identity import Signer
from aos_service.errors import KeyFileError
from aos_service.keys import load_signer, open_keystore, read_password_file
from aos_service.private_files import check_private

KEY = "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318"
ADDRESS = "0x2c7536E3605D9C16a7a3D7b1898e529396a65c23"


@pytest.fixture(scope="module")
def keystore(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "key.json"
    path.write_text(Signer.from_hex(KEY).to_keystore("a password"))
    path.chmod(0o600)
    return path


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    path = tmp_path / "password.txt"
    path.write_text("a password\nanother line\n")
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("text", [KEY, f"0x{KEY}", KEY.upper()])
def test_a_raw_key(text: str) -> None:
    assert load_signer(SecretStr(text)).address == ADDRESS


@pytest.mark.parametrize("text", ["", "0x", KEY[:-1], KEY + "0", "0" * 64, "f" * 64, "zz" * 32])
def test_what_is_no_key_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(KeyFileError) as caught:
        load_signer(SecretStr(text), key_name="vrf_key")
    assert str(caught.value) == "vrf_key is no private key: it must be 64 hex digits, with or without 0x"
    assert caught.value.__cause__ is None


def test_no_key_at_all() -> None:
    with pytest.raises(
        KeyFileError, match=r"no key: give signer_key .*, or a keystore made by `aos keys new`"
    ):
        load_signer(None)


def test_two_keys(keystore: Path) -> None:
    with pytest.raises(KeyFileError, match="are both given: keep one") as caught:
        load_signer(SecretStr(KEY), keystore=keystore)
    assert KEY not in str(caught.value)


def test_a_keystore_with_its_password_in_the_environment(
    keystore: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_PASSWORD", "a password")
    assert load_signer(None, keystore=keystore, password_env="MY_PASSWORD").address == ADDRESS


def test_a_keystore_with_a_password_file(
    keystore: Path, password_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AOS_KEYSTORE_PASSWORD", "the file is preferred")
    assert load_signer(None, keystore=keystore, password_file=password_file).address == ADDRESS


def test_a_keystore_without_a_password(keystore: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AOS_KEYSTORE_PASSWORD", raising=False)
    with pytest.raises(
        KeyFileError, match="needs its password: set AOS_KEYSTORE_PASSWORD, or give a password file"
    ):
        load_signer(None, keystore=keystore)


def test_a_wrong_password(keystore: Path) -> None:
    with pytest.raises(KeyFileError, match="check the password") as caught:
        open_keystore(keystore, "guess me not")
    assert "guess me not" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "{}", "not json", "[1]", '{"version": 1}', KEY])
def test_what_is_no_keystore(tmp_path: Path, content: str) -> None:
    path = tmp_path / "key.json"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(KeyFileError) as caught:
        open_keystore(path, "a password")
    assert str(path) in str(caught.value)
    assert KEY not in str(caught.value)


def test_a_keystore_that_is_binary_or_missing(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(KeyFileError, match="is not JSON: give a file made by `aos keys new`"):
        open_keystore(tmp_path / "binary", "x")
    with pytest.raises(
        KeyFileError, match="cannot be read: No such file or directory; make one by `aos keys new`"
    ):
        open_keystore(tmp_path / "missing", "x")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\nsecond line", "is empty"),
        (b"\xff", "is not UTF-8"),
        (None, "cannot be read: No such file"),
    ],
)
def test_password_files_that_hold_no_password(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "password.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(KeyFileError, match=message):
        read_password_file(path)


@pytest.mark.parametrize(("mode", "warnings"), [(0o600, 0), (0o640, 1), (0o604, 1), (0o400, 0)])
def test_a_file_with_the_key_that_others_may_read_is_warned_about(
    tmp_path: Path, mode: int, warnings: int
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(f"node:\n  signer_key: 0x{KEY.upper()}\n")
    file.chmod(mode)
    with capture_logs() as logs:
        load_signer(SecretStr(KEY), file=file)
    assert len(logs) == warnings
    assert all(
        log["log_level"] == "warning" and "chmod 600" in log["event"] and log["file"] == str(file)
        for log in logs
    )
    assert KEY not in str(logs).lower()


def test_a_file_without_the_key_is_not_warned_about(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("node:\n  signer_key: ${AOS_SIGNER_KEY}\n")
    file.chmod(0o644)
    with capture_logs() as logs:
        load_signer(SecretStr(KEY), file=file)
    assert logs == []


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o602, 0o601])
def test_a_password_file_that_others_have_access_to_is_refused(password_file: Path, mode: int) -> None:
    password_file.chmod(mode)
    with pytest.raises(KeyFileError) as caught:
        read_password_file(password_file)
    said = str(caught.value)
    assert said.startswith(f"password file {password_file} is open to other users (mode {mode:04o}): ")
    assert f"run chmod 600 {password_file}" in said
    assert "a password" not in said


def test_a_keystore_that_others_may_read_is_refused(keystore: Path) -> None:
    keystore.chmod(0o644)
    with pytest.raises(KeyFileError, match="is open to other users"):
        open_keystore(keystore, "a password")
    keystore.chmod(0o400)
    assert open_keystore(keystore, "a password").address == ADDRESS


@pytest.mark.parametrize(
    ("owner", "reader", "mode", "refused"),
    [
        (0, 1000, 0o640, False),  # an administrator gives a service's group its key
        (0, 1000, 0o440, False),
        (0, 1000, 0o660, True),
        (0, 1000, 0o644, True),
        (0, 0, 0o640, True),
        (1000, 1000, 0o640, True),
    ],
)
def test_only_a_file_of_root_s_may_be_readable_by_its_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: int, reader: int, mode: int, refused: bool
) -> None:
    path = tmp_path / "secret"
    path.touch()
    made = list(path.stat())
    made[0], made[4] = stat.S_IFREG | mode, owner
    status = os.stat_result(made)
    monkeypatch.setattr(Path, "stat", lambda _self: status)
    monkeypatch.setattr(os, "geteuid", lambda: reader)
    with pytest.raises(KeyFileError) if refused else nullcontext():
        check_private(path, "the TLS key")


def test_a_pipe_is_nobody_else_s(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path, 0o644)
    check_private(path, "password file")
