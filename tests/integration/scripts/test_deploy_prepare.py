"""deploy/prepare.sh makes what the containers read: for one user alone, once, and accepted by the programs."""

import os
import subprocess
import sysconfig
from pathlib import Path

import pytest

from aos_service.keys import open_keystore, read_password_file
from aos_service.settings import load_settings
from support.deploy import DEPLOY, FILLED_IN, SETTINGS, made_by_prepare


def prepare(folder: Path, path: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [DEPLOY / "prepare.sh", folder],
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


pytestmark = pytest.mark.timeout(180)  # each key is derived as slowly as it should be


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder, and what the script said."""
    folder = tmp_path_factory.mktemp("deploy") / "secrets"
    done = prepare(folder, f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}")
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_it_makes_the_files_that_compose_and_manifests_name_and_others_read_none(
    made: tuple[Path, str],
) -> None:
    folder, _ = made
    assert {file.name for file in folder.iterdir()} == made_by_prepare()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o600}


def test_nothing_is_left_to_fill_in_and_no_two_passwords_are_the_same(made: tuple[Path, str]) -> None:
    folder, _ = made
    for file in folder.iterdir():
        if file.suffix not in {".yaml", ".conf"}:
            assert not any(f"${{{name}}}" in file.read_text() for name in FILLED_IN)
    passwords = [file.read_text().strip() for file in folder.glob("*.password")]
    assert len(set(passwords)) == len(passwords) == 6
    assert all(len(password) == 32 for password in passwords)


@pytest.mark.parametrize("file", SETTINGS)
def test_the_programs_take_the_settings(made: tuple[Path, str], file: str) -> None:
    load_settings(made[0] / file, SETTINGS[file])  # which names no environment variable any more


def test_the_key_opens_and_the_operator_is_told_the_dispatcher_s_address(made: tuple[Path, str]) -> None:
    folder, said = made
    password = read_password_file(folder / "dispatcher-keystore.password")
    address = open_keystore(folder / "dispatcher-keystore.json", password).address
    assert f"dispatcher {address}\n" in said
    assert f'dispatcher_address: "{address}"' in (folder / "operator.yaml").read_text()


def test_a_second_run_changes_nothing(made: tuple[Path, str]) -> None:
    folder, said = made
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    again = prepare(folder, f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}")
    assert (again.returncode, again.stdout) == (0, said)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
