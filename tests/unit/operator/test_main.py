"""The command line's own decisions; what needs servers is in the integration tests."""

import stat
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from aos_operator import main
from aos_protocol.identity import Signer


@pytest.fixture(autouse=True)
def _logs_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "configure_logs", lambda *_, **__: None)


def run(*arguments: str, stdin: str = "") -> Result:
    return CliRunner().invoke(main.app, list(arguments), input=stdin)


def test_the_help_teaches_with_examples() -> None:
    shown = run("--help").output
    for example in ("operator-runner -k", "operator-runner -i postgres://", "operator-runner -c config.yaml"):
        assert example in shown


def test_both_spellings_start_the_same_program() -> None:
    scripts = {entry.name: entry.value for entry in entry_points(group="console_scripts")}
    assert scripts["operator-runner"] == scripts["operator-runer"] == "aos_operator.main:app"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-k", "-i", "postgres://h/x"], "exactly one of -c FILE, -i URL and -k"),
        (["--reset"], "exactly one of"),
        (["-k", "--reset"], "--reset belongs to -i"),
        (["-c", "x.yaml", "--keystore", "y"], "belong to -k"),
        (["-i", "postgres://h/x", "--password-file", "y"], "belong to -k"),
    ],
)
def test_arguments_that_do_not_go_together_are_explained(arguments: list[str], said: str) -> None:
    ended = run(*arguments)
    assert ended.exit_code == 2
    assert said in ended.output


def test_an_unknown_log_level_lists_the_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ValueError("log level 'loud' is unknown: choose one of debug, info")

    monkeypatch.setattr(main, "configure_logs", refuse)
    ended = run("-c", "x.yaml", "--log-level", "loud")
    assert (ended.exit_code, "choose one of debug, info" in ended.output) == (2, True)


def test_a_file_that_is_not_there_is_named() -> None:
    ended = run("-c", "nowhere.yaml")
    assert ended.exit_code == 2
    assert "operator-runner: nowhere.yaml: there is no such file" in ended.output


def test_every_mistake_in_the_file_is_shown_at_its_line(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(
        "db:\n  pg_db_url: postgres://h/x\nqueue:\n  queue_url: redis://h\nnet:\n  dispatcher_uri: ws://h/ws\n"
        "node:\n  node_type: gpu\n  dispatcher_address: '0x1563915e194D8CfBA1943570603F7606A3115508'\n"
    )
    ended = run("-c", str(file))
    assert ended.exit_code == 2
    lines = ended.output.splitlines()
    assert any(
        f"{file}:6: net.dispatcher_uri: unknown key, did you mean dispatcher_url?" in line for line in lines
    )
    assert any(f"{file}:8: node.node_type: " in line and "'opml' or 'tee'" in line for line in lines)


def test_an_address_that_is_no_postgres_is_refused() -> None:
    ended = run("-i", "mysql://u:secretpw@h/x")
    assert ended.exit_code == 1
    assert "is no PostgreSQL address" in ended.output
    assert "secretpw" not in ended.output


def test_an_account_is_an_encrypted_keystore_and_its_address(tmp_path: Path) -> None:
    password, keystore = tmp_path / "password", tmp_path / "keystore.json"
    password.write_text("correct horse\nsecond line\n")
    password.chmod(0o600)
    arguments = ["-k", "--keystore", str(keystore), "--password-file", str(password)]
    ended = run(*arguments)
    assert ended.exit_code == 0, ended.output
    signer = Signer.from_keystore(keystore.read_text(), "correct horse")
    assert ended.output == f"address  {signer.address}\nkeystore {keystore}\n"
    assert stat.S_IMODE(keystore.stat().st_mode) == 0o600
    again = run(*arguments)
    assert (again.exit_code, "never overwritten" in again.output) == (2, True)


def test_the_password_is_asked_for_twice(tmp_path: Path) -> None:
    keystore = tmp_path / "keystore.json"
    ended = run("-k", "--keystore", str(keystore), stdin="pw\nother\npw\npw\n")
    assert ended.exit_code == 0, ended.output
    assert "pw" not in ended.output.replace(str(keystore), "")
    assert Signer.from_keystore(keystore.read_text(), "pw").address in ended.output


def test_an_empty_password_is_none(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("\n")
    ended = run("-k", "--password-file", str(tmp_path / "password"))
    assert (ended.exit_code, "is empty: its first line must be" in ended.output) == (2, True)


def test_a_password_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    ended = run("-k", "--password-file", str(tmp_path / "nowhere"))
    assert (ended.exit_code, "nowhere cannot be read" in ended.output) == (2, True)
