import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aos_cli.errors import CliError, KeyFileExistsError, PasswordError
from aos_cli.keys import app, new_keystore
from aos_protocol.identity import Signer

runner = CliRunner()


@pytest.fixture(autouse=True)
def _quick_keystores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keystores with a light key derivation: the protocol's own tests cover the real one, which takes a second."""
    from eth_keyfile import create_keyfile_json

    def light(signer: Signer, password: str) -> str:
        return json.dumps(create_keyfile_json(signer.secret, password.encode(), kdf="pbkdf2", iterations=1))

    monkeypatch.setattr(Signer, "to_keystore", light)


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    path = tmp_path / "password.txt"
    path.write_text("a password\n")
    path.chmod(0o600)
    return path


def test_a_new_keystore_opens_with_its_password_and_is_its_owner_s_alone(tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    previous = os.umask(0)
    try:
        address = new_keystore(path, "a password")
    finally:
        os.umask(previous)
    assert Signer.from_keystore(path.read_text(), "a password").address == address
    assert path.stat().st_mode & 0o777 == 0o600


def test_two_keys_differ(tmp_path: Path) -> None:
    assert new_keystore(tmp_path / "1.json", "x") != new_keystore(tmp_path / "2.json", "x")


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    path.write_text("precious")
    with pytest.raises(KeyFileExistsError, match="exists and is not overwritten"):
        new_keystore(path, "a password")
    assert path.read_text() == "precious"


def test_a_dangling_link_is_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(KeyFileExistsError):
        new_keystore(path, "a password")
    assert not (tmp_path / "elsewhere").exists()


def test_an_empty_password_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PasswordError, match="the password is empty"):
        new_keystore(tmp_path / "key.json", "")
    assert not (tmp_path / "key.json").exists()


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CliError, match="cannot be written: No such file or directory"):
        new_keystore(tmp_path / "missing" / "key.json", "a password")


def test_a_failed_write_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        new_keystore(tmp_path / "key.json", "a password")
    assert list(tmp_path.iterdir()) == []


def test_new_and_show_on_the_command_line(tmp_path: Path, password_file: Path) -> None:
    path = tmp_path / "key.json"
    made = runner.invoke(app, ["new", str(path), "--password-file", str(password_file)])
    assert (made.exit_code, made.stderr) == (0, "")
    signer = Signer.from_keystore(path.read_text(), "a password")
    assert made.stdout == f"{signer.address}\n"

    shown = runner.invoke(app, ["show", str(path), "--password-file", str(password_file)])
    assert shown.exit_code == 0
    assert shown.stdout == f"address     {signer.address}\npublic key  {signer.public_key.hex()}\n"


@pytest.mark.parametrize("command", ["new", "show"])
def test_errors_are_messages(tmp_path: Path, command: str) -> None:
    result = runner.invoke(
        app, [command, str(tmp_path / "key.json"), "--password-file", str(tmp_path / "missing")]
    )
    assert result.exit_code == 1
    assert result.stdout == ""
    assert (
        result.stderr
        == f"error: password file {tmp_path / 'missing'} cannot be read: No such file or directory\n"
    )


def test_new_says_that_the_file_exists_before_it_asks_for_a_password(tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    path.write_text("precious")
    result = runner.invoke(app, ["new", str(path)])
    assert result.exit_code == 1
    assert "exists and is not overwritten" in result.stderr


def test_no_terminal_and_no_password_file(tmp_path: Path) -> None:
    result = runner.invoke(app, ["new", str(tmp_path / "key.json")], input="a password\na password\n")
    assert result.exit_code == 1
    assert "there is no terminal to ask for the password: give --password-file FILE" in result.stderr


@pytest.mark.parametrize("command", ["new", "show"])
def test_help_teaches_with_an_example(command: str) -> None:
    result = runner.invoke(app, [command, "--help"], terminal_width=120)
    assert result.exit_code == 0
    assert f"Example: aos keys {command} operator-key.json --password-file" in result.stdout
