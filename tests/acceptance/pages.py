"""Pages that are executed: their commands, what they say, and the answers that the page shows."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

from acceptance.processes import COMMAND_S, SCRIPTS, Network

DOCS = Path(__file__).parents[2] / "docs"
_END = "\x1e"


def examples(page: Path) -> list[tuple[str, Any]]:
    """The page's commands in order, each with the answer that it shows, or None."""
    blocks = re.findall(r"^```(sh|json)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    found: list[tuple[str, Any]] = []
    for language, text in blocks:
        if language == "sh":
            found.append((text, None))
        else:
            assert found[-1][1] is None, text
            found[-1] = found[-1][0], json.loads(text)
    return found


def form(value: Any) -> Any:
    """What a value looks like: keys and types. A vector clock's participants differ from run to run."""
    if isinstance(value, dict):
        return (
            "clock"
            if value and all(key.isdigit() for key in value)
            else {k: form(v) for k, v in value.items()}
        )
    if isinstance(value, list):
        return [form(value[0])] if value else []
    return type(value)


def run_page(page: Path, network: Network, folder: Path) -> list[str]:
    """What each block of commands printed, all of them run in one shell. The first block says where the network is."""
    blocks = [command for command, _ in examples(page)]
    here = {"URL=": f"URL={network.url}", "TOKEN=": f"TOKEN={network.token}"}
    blocks[0] = "\n".join(here[line.partition("=")[0] + "="] for line in blocks[0].splitlines())
    ran = subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", f"\nprintf '{_END}'\n".join(blocks)],
        cwd=folder,
        env=os.environ | {"AOS_DATA": str(network.data), "PATH": f"{SCRIPTS}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=COMMAND_S,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout.split(_END)
