"""Plain technical prose from this machine: the docstrings of the Python standard library (PSF licence).

Read from the installed library, never stored in the repository. Files that carry a copyright notice of
their own are left out, so that only text under the PSF licence is used.
"""

import ast
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from demo_model.chat import SPECIAL_TOKENS
from demo_model.errors import CorpusError

_SKIPPED_FOLDERS = {"test", "tests", "site-packages", "dist-packages", "idlelib", "lib2to3", "ensurepip"}
_SHORTEST, _LONGEST = 80, 4_000  # characters; shorter ones say nothing, longer ones exceed the context
_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def library_docstrings(folder: Path | None = None) -> list[str]:
    """Docstrings of the library in `folder` (the running Python's), in file order, each at most 4,000 characters.

    Raises `CorpusError` when there is no source, as on a Python that ships compiled files only.
    """
    folder = folder or Path(sysconfig.get_paths()["stdlib"])
    found = [text for file in sorted(folder.rglob("*.py")) for text in _docstrings_of(file, folder)]
    if not found:
        raise CorpusError(
            f"no docstrings in {folder}: install Python with the source of its standard library"
        )
    return list(dict.fromkeys(found))


def _docstrings_of(file: Path, folder: Path) -> Iterator[str]:
    if _SKIPPED_FOLDERS.intersection(file.relative_to(folder).parts):
        return
    source = file.read_text("utf-8", errors="replace")
    if "copyright" in source.lower():
        return
    for node in ast.walk(ast.parse(source)):
        text = ast.get_docstring(node) if isinstance(node, _Documented) else None
        if text and len(text) >= _SHORTEST and not any(mark in text for mark in SPECIAL_TOKENS):
            yield text[:_LONGEST]
