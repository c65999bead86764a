"""Making an account."""

import stat
from pathlib import Path

import pytest

from aos_operator.accounts import make_account
from aos_operator.errors import StartError
from aos_protocol.identity import Signer


def test_the_keystore_holds_the_key_of_the_address_that_is_told(tmp_path: Path) -> None:
    address, path = make_account("a password", tmp_path / "keystore.json")
    assert Signer.from_keystore(path.read_text(), "a password").address == address
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_without_a_path_the_file_is_named_after_the_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    address, path = make_account("a password", None)
    assert path == Path(f"keystore-{address}.json")
    assert path.exists()


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "keystore.json"
    file.write_text("precious")
    with pytest.raises(StartError, match="never overwritten"):
        make_account("a password", file)
    assert file.read_text() == "precious"


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="cannot be written: No such file"):
        make_account("a password", tmp_path / "nowhere" / "keystore.json")
