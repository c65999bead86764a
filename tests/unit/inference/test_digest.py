import hashlib
import os
from pathlib import Path

import pytest

from aos_inference import digest
from aos_inference.errors import ModelUnreadable


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"weights" * 1000)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_digest_is_computed_with_progress_then_remembered(model: Path, folder: Path) -> None:
    told: list[float] = []
    assert digest.of_file(model, folder, told.append) == sha256(model)
    assert told[-1] == 1.0
    told.clear()
    assert digest.of_file(model, folder, told.append) == sha256(model)
    assert told == []


def test_a_link_shares_the_digest_of_its_target(model: Path, folder: Path, tmp_path: Path) -> None:
    digest.of_file(model, folder)
    link = tmp_path / "link.gguf"
    link.symlink_to(model)
    told: list[float] = []
    assert digest.of_file(link, folder, told.append) == sha256(model)
    assert told == []


def test_a_changed_file_is_read_again(model: Path, folder: Path) -> None:
    digest.of_file(model, folder)
    before = model.stat()
    model.write_bytes(b"WEIGHTS" * 1000)
    os.utime(model, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert digest.of_file(model, folder) == sha256(model)


def test_a_replaced_file_is_read_again_though_size_and_time_agree(model: Path, folder: Path) -> None:
    digest.of_file(model, folder)
    before = model.stat()
    other = model.with_suffix(".new")
    other.write_bytes(b"WEIGHTS" * 1000)
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(model)
    assert digest.of_file(model, folder) == sha256(model)


@pytest.mark.parametrize("damage", ["", "{", "[]", "null", '{"identity": 1}', "\udcff"])
def test_a_damaged_entry_is_replaced(model: Path, folder: Path, damage: str) -> None:
    digest.of_file(model, folder)
    (entry,) = folder.iterdir()
    entry.write_bytes(damage.encode(errors="surrogateescape"))
    assert digest.of_file(model, folder) == sha256(model)
    told: list[float] = []
    digest.of_file(model, folder, told.append)
    assert told == []


def test_a_cache_that_cannot_be_written_does_not_matter(model: Path, folder: Path) -> None:
    folder.write_text("in the way")
    assert digest.of_file(model, folder) == sha256(model)


def test_a_file_that_grows_meanwhile_is_refused(model: Path, folder: Path) -> None:
    def grow(_: float) -> None:
        with model.open("ab") as file:
            file.write(b"more")
        if model.stat().st_size > 10_000:
            raise InterruptedError  # the test's own bound

    with pytest.raises(ModelUnreadable, match=r"changed while it was read|Cannot read"):
        digest.of_file(model, folder, grow)
    assert not folder.exists()


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ModelUnreadable, match=r"Cannot read .*No such file"):
        digest.of_file(tmp_path / "absent", folder)


@pytest.mark.parametrize(
    ("value", "expected"),
    [("/var/x", Path("/var/x/aos/digests")), ("", None), ("relative", None)],
)
def test_the_cache_follows_xdg(monkeypatch: pytest.MonkeyPatch, value: str, expected: Path | None) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert digest.cache_folder() == expected or Path("/home/somebody/.cache/aos/digests")


def test_without_a_folder_nothing_is_remembered(model: Path) -> None:
    told: list[float] = []
    for _ in range(2):
        assert digest.of_file(model, None, told.append) == sha256(model)
    assert told == [1.0, 1.0]
