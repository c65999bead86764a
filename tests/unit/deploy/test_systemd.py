"""deploy/systemd: units that systemd understands, with little that their programs could do to the machine."""

import re
import shlex
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from support.deploy import DEPLOY, SETTINGS, parse_command, text

UNITS = sorted(file.name for file in (DEPLOY / "systemd").glob("*.service"))
INSTALLED = "/opt/aos/aos/.venv/bin"
EXPOSURE = 1.5
"""systemd's own measure, 0 to 10: below 2 is what it calls OK."""

HARDENED = {
    "NoNewPrivileges": "true",
    "CapabilityBoundingSet": "",
    "ProtectSystem": "strict",
    "ProtectHome": "true",
    "PrivateTmp": "true",
    "PrivateDevices": "true",
    "MemoryDenyWriteExecute": "true",
    "RestrictNamespaces": "true",
    "SystemCallArchitectures": "native",
    "LimitCORE": "0",
    "User": "aos",
    "Restart": "always",
    "StartLimitIntervalSec": "0",
}

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None,
    reason="systemd-analyze is not installed: apt-get install systemd",
)


def entries(unit: str) -> list[tuple[str, str]]:
    return re.findall(r"^(\w+)=(.*)$", text(f"systemd/{unit}"), re.MULTILINE)


@pytest.fixture
def unit_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The unit with its program where that is here: systemd looks whether it is there."""
    unit: str = request.param
    file = tmp_path / unit
    file.write_text(text(f"systemd/{unit}").replace(INSTALLED, sysconfig.get_path("scripts")))
    return file


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False)


@needs_systemd
@pytest.mark.parametrize("unit_file", UNITS, indirect=True)
def test_systemd_understands_every_line(unit_file: Path) -> None:
    found = analyze("verify", "--man=no", unit_file)
    assert [line for line in found.stderr.splitlines() if unit_file.name in line] == []


@needs_systemd
@pytest.mark.parametrize("unit_file", UNITS[:1], indirect=True)
def test_systemd_would_say_what_it_does_not_understand(unit_file: Path) -> None:
    unit_file.write_text(unit_file.read_text().replace("ProtectHome=", "ProtectHomes="))
    assert "ProtectHomes" in analyze("verify", "--man=no", unit_file).stderr


@needs_systemd
@pytest.mark.parametrize("unit_file", UNITS, indirect=True)
def test_little_is_exposed_by_systemd_s_measure(unit_file: Path) -> None:
    found = analyze("security", "--offline=true", f"--threshold={EXPOSURE * 10:.0f}", "--no-pager", unit_file)
    assert found.returncode == 0, found.stdout[-200:]


@pytest.mark.parametrize("unit", UNITS)
def test_the_hardening_that_matters_is_there(unit: str) -> None:
    assert HARDENED.items() <= dict(entries(unit)).items()
    assert ("SystemCallFilter", "@system-service") in entries(unit)


@pytest.mark.parametrize("unit", UNITS)
def test_its_command_is_understood_by_our_program(unit: str) -> None:
    program, *arguments = shlex.split(dict(entries(unit))["ExecStart"])
    assert Path(program).parent == Path(INSTALLED)
    parse_command([Path(program).name, *arguments])


@pytest.mark.parametrize("unit", sorted({"aos-dispatcher.service", "aos-operator.service"}))
def test_settings_and_keys_come_as_credentials_and_the_readme_says_where_they_are(unit: str) -> None:
    name = unit.removeprefix("aos-").removesuffix(".service")
    loaded = {value.partition(":")[0] for key, value in entries(unit) if key == "LoadCredential"}
    assert loaded == {f"{name}.yaml", f"{name}-keystore.json", f"{name}-keystore.password"}
    assert f"{name}.yaml" in SETTINGS
    assert dict(entries(unit))["ExecStart"].endswith(f"${{CREDENTIALS_DIRECTORY}}/{name}.yaml")
    for file in loaded - {f"{name}.yaml"}:
        assert f"/run/credentials/{unit}/{file}" in text("README.md")


def test_an_operator_that_is_set_up_wrongly_is_not_started_again_and_again() -> None:
    """Its own help says which exit statuses those are."""
    assert dict(entries("aos-operator.service"))["RestartPreventExitStatus"] == "2 5"
