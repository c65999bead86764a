"""What scripts/audit.sh runs: pip-audit over every pinned package, and what follows from what it says.

A first, single question tells whether the database of vulnerabilities can be reached from here; without it, nothing more is asked.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FILES = ("dev", "bench", "train", "build", "vyper", "audit")
"""Of requirements/; dev has all that runs."""

ACCEPTED: Mapping[str, str] = {}
"""Findings that were read and do not concern us, by id, each with the reason."""

Report = Mapping[str, Any]


def pins(text: str) -> list[str]:
    """Return `name==version` of every package that a requirements file pins, each once."""
    return sorted(set(re.findall(r"^[A-Za-z0-9][\w.-]*==[^\s;\\]+", text, re.MULTILINE)))


def unreachable(report: Report) -> bool:
    """Tell whether nothing could be looked up: each package was skipped."""
    return all("skip_reason" in each for each in report["dependencies"])


def findings(report: Report) -> list[str]:
    """Return a line for every vulnerability that is not accepted, and for every package that was not looked up."""
    lines = []
    for each in report["dependencies"]:
        if "skip_reason" in each:
            lines.append(f"{each['name']}: not looked up: {each['skip_reason']}")
        for found in each.get("vulns", ()):
            if not {found["id"], *found.get("aliases", ())} & ACCEPTED.keys():
                fixed = ", ".join(found["fix_versions"]) or "no version"
                lines.append(f"{each['name']} {each['version']}: {found['id']}, fixed in {fixed}")
    return lines


def audit(requirements: list[str]) -> Report | None:
    """Ask pip-audit about these packages; None when the database cannot be reached."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(requirements))
        file.flush()
        options = (
            "--no-deps",
            "--disable-pip",
            "--vulnerability-service",
            "pypi",
            "--progress-spinner",
            "off",
        )
        command = [sys.executable, "-m", "pip_audit", "-r", file.name, *options, "--format", "json"]
        ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if not ended.stdout.startswith("{"):
        print(ended.stderr[-1000:], file=sys.stderr)
        return None
    report: Report = json.loads(ended.stdout)
    return None if unreachable(report) else report


def main() -> int:
    """Audit; the exit status is 1 when something was found, or the database went away meanwhile."""
    asked = [pins((ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")) for name in FILES]
    if audit(asked[0][:1]) is None:
        print("audit: SKIPPED: PyPI's database of vulnerabilities cannot be reached from here")
        return 0
    reports = [audit(each) for each in asked]
    if None in reports:
        print(
            "audit: the database of vulnerabilities went away, or pip-audit failed; see above",
            file=sys.stderr,
        )
        return 1
    found = sorted({line for report in reports if report is not None for line in findings(report)})
    for line in found:
        print(f"audit: {line}", file=sys.stderr)
    many = len({pin for each in asked for pin in each})
    print(f"audit: {many} packages, {len(found)} findings, {len(ACCEPTED)} accepted")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
