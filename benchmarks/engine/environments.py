"""Environments of the peers: each in a virtual environment of its own under the user's cache folder, with pinned packages.

`peers/NAME.txt` says what belongs to it, with hashes; pip takes it from PyPI. The first time takes a minute, and where pip has no
wheel of llama-cpp-python in its cache, the 2 to 10 minutes that llama.cpp takes to compile.
"""

import hashlib
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Final

import model

_PEERS: Final = Path(__file__).parent / "peers"


def interpreter(name: str) -> str:
    """The interpreter of a peer's environment, made at the first call and whenever what belongs to it has changed."""
    wanted = _PEERS / f"{name}.txt"
    digest = hashlib.sha256(wanted.read_bytes() + sys.version.encode()).hexdigest()
    folder = model.folder() / f"{name}-{digest[:12]}"
    python = folder / "bin" / "python"
    done = folder / "complete"
    if not done.exists():
        print(f"making an environment for {name}", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--quiet"]
        subprocess.run([*pip, "--require-hashes", "-r", str(wanted)], check=True)
        done.touch()
    return str(python)
