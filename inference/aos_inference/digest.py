"""The SHA-256 of a model file, remembered as long as the file stays the same."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from aos_inference.errors import ModelUnreadable

_BLOCK: Final = 8 * 1024 * 1024


def cache_folder() -> Path:
    """Where digests are kept: `aos/digests` under the XDG cache folder of the user."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The specification has relative values ignored.
    root = Path(base) if base.startswith("/") else Path.home() / ".cache"
    return root / "aos" / "digests"


def of_file(path: Path, folder: Path | None, progress: Callable[[float], None] = lambda _: None) -> str:
    """The file's SHA-256 in hex, from `folder` if path, size, mtime and inode are those of the last time; without one, always measured.

    `progress` is told the fraction that has been read. Raises ModelUnreadable when the file cannot be read or
    changes meanwhile. A cache that cannot be written costs time at the next start and nothing else.
    """
    try:
        identity = _identity(path)
        entry = folder and folder / f"{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()}.json"
        known = entry and _recall(entry, identity)
        if known:
            return known
        digest = _hash(path, progress)
        if _identity(path) != identity:
            raise ModelUnreadable(f"{path} changed while it was read. Start again when it is complete.")
    except OSError as error:
        raise ModelUnreadable(f"Cannot read {path}: {error.strerror}. Check its permissions.") from error
    if entry:
        _remember(entry, identity, digest)
    return digest


def _identity(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def _hash(path: Path, progress: Callable[[float], None]) -> str:
    digest, size, read = hashlib.sha256(), path.stat().st_size, 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            read += len(block)
            progress(read / max(size, read))
    return digest.hexdigest()


def _recall(entry: Path, identity: list[int]) -> str | None:
    try:
        stored = json.loads(entry.read_text())
    except (OSError, ValueError):  # not there yet, or damaged: hash again
        return None
    matches = isinstance(stored, dict) and stored.get("identity") == identity
    return str(stored["sha256"]) if matches and "sha256" in stored else None


def _remember(entry: Path, identity: list[int], digest: str) -> None:
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        # In a folder of its own, which goes whatever happens: a full disk must not fill up with attempts.
        with tempfile.TemporaryDirectory(dir=entry.parent) as folder:
            made = Path(folder) / entry.name
            made.write_text(json.dumps({"identity": identity, "sha256": digest}))
            made.replace(entry)
    except OSError:  # a read-only or full cache; the caller has its digest
        return
