"""scripts/anvil.sh: what it prints, and what it says where npm is missing or has another package than the lock file."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from support.anvil import ROOT, anvil_program

_PLAIN_TOOLS = ("bash", "cat", "cp", "cut", "dirname", "grep", "mkdir", "mktemp", "mv", "rm", "sha256sum")


def _tools(folder: Path, *names: str) -> str:
    """A PATH with these programs only."""
    folder.mkdir()
    for name in names:
        found = shutil.which(name)
        if found is None:
            pytest.skip(f"{name} is not on this machine")
        (folder / name).symlink_to(found)
    return str(folder)


def _run(root: Path, path: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [root / "scripts" / "anvil.sh"],
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )


def _copy(root: Path) -> Path:
    """The script and the package, with nothing installed yet."""
    (root / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "anvil.sh", root / "scripts")
    shutil.copytree(ROOT / "chain" / "anvil", root / "chain" / "anvil")
    return root


def test_it_prints_a_program_that_runs() -> None:
    done = _run(ROOT, os.environ["PATH"])
    assert (done.returncode, done.stderr) == (0, ""), "it was installed before"
    program = done.stdout.strip()
    assert program == anvil_program()
    version = subprocess.run(
        [program, "--version"], capture_output=True, text=True, check=True, timeout=50
    ).stdout
    assert version.startswith("anvil Version: 1.7.1")


def test_without_npm_it_says_what_to_install(tmp_path: Path) -> None:
    done = _run(_copy(tmp_path / "root"), _tools(tmp_path / "bin", *_PLAIN_TOOLS))
    assert done.returncode == 1
    assert done.stdout == ""
    assert "anvil: npm is missing, which installs anvil. Install Node.js 20 or newer:" in done.stderr


def test_an_npm_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    root, path = _copy(tmp_path / "root"), _tools(tmp_path / "bin", *_PLAIN_TOOLS, "node")
    (tmp_path / "bin" / "npm").write_text("#!/usr/bin/env bash\necho no network >&2\nexit 7\n")
    (tmp_path / "bin" / "npm").chmod(0o755)
    done = _run(root, path)
    assert done.returncode == 1
    assert done.stderr == "no network\nanvil: npm could not install it; its message is above\n"
    assert list((root / ".aos").rglob("*")) == [root / ".aos" / "anvil"]


def test_a_package_without_the_locked_hash_is_refused(tmp_path: Path) -> None:
    """npm leaves it out, since it is optional, and says nothing."""
    root, path = _copy(tmp_path / "root"), _tools(tmp_path / "bin", *_PLAIN_TOOLS, "node")
    (tmp_path / "bin" / "npm").write_text("#!/usr/bin/env bash\nexit 0\n")
    (tmp_path / "bin" / "npm").chmod(0o755)
    lock = root / "chain" / "anvil" / "package-lock.json"
    asked = "process.platform + '-' + (process.arch === 'x64' ? 'amd64' : process.arch)"
    platform = subprocess.run(
        ["node", "-p", asked], capture_output=True, text=True, check=True
    ).stdout.strip()
    if f"node_modules/@foundry-rs/anvil-{platform}" not in lock.read_text("utf-8"):
        pytest.skip(f"the lock file knows no package for {platform}")
    done = _run(root, path)
    assert done.returncode == 1
    assert "has the hash in chain/anvil/package-lock.json" in done.stderr
