"""`scripts/download_model.sh` against a mirror on disk: what it keeps, refuses, resumes and never overwrites."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "download_model.sh"
CONTENT = bytes(range(256)) * 400
DIGEST = hashlib.sha256(CONTENT).hexdigest()
HUB_PATH = "Org/Repo/resolve/main/model.gguf"

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


class Hub:
    """A mirror of the hub as a folder, read by curl through file://: unit tests use no network."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = folder.as_uri()

    def publish(self, content: bytes, path: str = HUB_PATH) -> None:
        """Put `content` where a download of `path` finds it, in place of what was there."""
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


@pytest.fixture
def hub(tmp_path_factory: pytest.TempPathFactory) -> Hub:
    return Hub(tmp_path_factory.mktemp("hub"))


def download(
    folder: Path,
    hub_url: str,
    *arguments: str,
    size: str = str(len(CONTENT)),
    digest: str = DIGEST,
    path: str = "",
) -> subprocess.CompletedProcess[str]:
    """Run the script with a catalogue of one model, `model.gguf`."""
    environment = {
        "PATH": path or os.environ["PATH"],
        "AOS_MODELS_DIR": str(folder),
        "AOS_MODEL_BASE_URL": hub_url,
        "AOS_MODEL_CATALOGUE": f"model.gguf|{HUB_PATH}|{size}|{digest}|Apache-2.0",
    }
    bash = shutil.which("bash")
    assert bash is not None
    return subprocess.run(
        [bash, str(SCRIPT), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_a_good_file_is_kept_under_its_name(tmp_path: Path, hub: Hub) -> None:
    hub.publish(CONTENT)
    result = download(tmp_path, hub.url, "model.gguf")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "model.gguf").read_bytes() == CONTENT
    assert names(tmp_path) == ["model.gguf"]
    assert DIGEST in result.stdout
    assert "Apache-2.0" in result.stdout


def test_the_folder_is_made_when_it_is_missing(tmp_path: Path, hub: Hub) -> None:
    hub.publish(CONTENT)
    assert download(tmp_path / "new", hub.url, "model.gguf").returncode == 0
    assert names(tmp_path / "new") == ["model.gguf"]


def test_a_wrong_digest_leaves_nothing(tmp_path: Path, hub: Hub) -> None:
    hub.publish(CONTENT[:-1] + b"?")
    result = download(tmp_path, hub.url, "model.gguf")
    assert result.returncode == 1
    assert f"not {DIGEST}" in result.stderr
    assert names(tmp_path) == []


def test_a_longer_file_than_published_leaves_nothing(tmp_path: Path, hub: Hub) -> None:
    hub.publish(CONTENT + b"more")
    assert download(tmp_path, hub.url, "model.gguf").returncode == 1
    assert names(tmp_path) == []


def test_a_part_of_an_earlier_run_is_completed_from_where_it_stopped(tmp_path: Path, hub: Hub) -> None:
    # The mirror's first half differs: the result is right only when the script takes the second half alone.
    hub.publish(bytes(70_000) + CONTENT[70_000:])
    (tmp_path / "model.gguf.part").write_bytes(CONTENT[:70_000])
    result = download(tmp_path, hub.url, "model.gguf")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "model.gguf").read_bytes() == CONTENT
    assert names(tmp_path) == ["model.gguf"]


def test_a_truncated_file_is_refused_by_its_size_and_can_go_on(tmp_path: Path, hub: Hub) -> None:
    hub.publish(CONTENT[:50_000])
    result = download(tmp_path, hub.url, "model.gguf")
    assert result.returncode == 1
    assert f"got 50000 of {len(CONTENT)} bytes" in result.stderr
    assert names(tmp_path) == ["model.gguf.part"]
    hub.publish(CONTENT)
    assert download(tmp_path, hub.url, "model.gguf").returncode == 0
    assert names(tmp_path) == ["model.gguf"]


@pytest.mark.parametrize("size", [str(len(CONTENT)), "-3.8 GB"])
def test_a_whole_part_is_admitted_without_a_server(size: str, tmp_path: Path, hub: Hub) -> None:
    (tmp_path / "model.gguf.part").write_bytes(CONTENT)
    result = download(tmp_path, hub.url, "model.gguf", size=size)
    assert result.returncode == 0, result.stderr
    assert names(tmp_path) == ["model.gguf"]


def test_an_overlong_part_is_removed_instead_of_sticking_for_ever(tmp_path: Path, hub: Hub) -> None:
    hub.publish(CONTENT)
    (tmp_path / "model.gguf.part").write_bytes(CONTENT + b"rubbish")
    assert download(tmp_path, hub.url, "model.gguf").returncode == 1
    assert names(tmp_path) == []
    assert download(tmp_path, hub.url, "model.gguf").returncode == 0


def test_without_a_published_size_the_digest_still_decides(tmp_path: Path, hub: Hub) -> None:
    hub.publish(CONTENT)
    assert download(tmp_path, hub.url, "model.gguf", size="-3.8 GB").returncode == 0
    (tmp_path / "model.gguf").unlink()
    hub.publish(CONTENT[:-5])
    assert download(tmp_path, hub.url, "model.gguf", size="-3.8 GB").returncode == 1
    assert names(tmp_path) == []


def test_an_existing_good_file_is_not_downloaded_again(tmp_path: Path, hub: Hub) -> None:
    # The mirror is empty: a request would fail.
    (tmp_path / "model.gguf").write_bytes(CONTENT)
    result = download(tmp_path, hub.url, "model.gguf")
    assert result.returncode == 0
    assert "nothing to do" in result.stdout


def test_an_existing_other_file_is_never_overwritten(tmp_path: Path, hub: Hub) -> None:
    hub.publish(CONTENT)
    (tmp_path / "model.gguf").write_bytes(b"mine")
    result = download(tmp_path, hub.url, "model.gguf")
    assert result.returncode == 1
    assert "Move it away" in result.stderr
    assert (tmp_path / "model.gguf").read_bytes() == b"mine"


def test_any_other_file_of_the_hub_is_taken_on_trust_and_says_so(tmp_path: Path, hub: Hub) -> None:
    hub.publish(CONTENT, "Some/Where/resolve/main/other.gguf")
    result = download(tmp_path, hub.url, "Some/Where/other.gguf")
    assert result.returncode == 0, result.stderr
    assert f"SHA-256 {DIGEST}. NOT checked" in result.stdout
    assert names(tmp_path) == ["other.gguf"]
    again = download(tmp_path, hub.url, "Some/Where/other.gguf")
    assert again.returncode == 0
    assert "not checked" in again.stdout


@pytest.mark.parametrize("name", ["unknown.gguf", "../../etc/passwd", "a/b/c/d.gguf", "Org/Repo/model.bin"])
def test_an_unknown_name_is_refused_before_any_request(name: str, tmp_path: Path, hub: Hub) -> None:
    result = download(tmp_path, hub.url, name)
    assert result.returncode == 1
    assert "no model is called" in result.stderr
    assert names(tmp_path) == []


def test_a_file_that_the_hub_does_not_have_is_explained(tmp_path: Path, hub: Hub) -> None:
    result = download(tmp_path, hub.url, "model.gguf")
    assert result.returncode == 1
    assert "the file is not there" in result.stderr
    assert names(tmp_path) == []


def test_no_internet_is_explained(tmp_path: Path) -> None:
    # Nothing listens on port 1 of this machine.
    result = download(tmp_path, "http://127.0.0.1:1", "model.gguf")
    assert result.returncode == 1
    assert "Is this machine on the internet?" in result.stderr
    assert names(tmp_path) == []


def test_no_curl_is_explained(tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("dirname", "mkdir", "cut", "tr", "wc"):
        found = shutil.which(tool)
        assert found is not None
        (tools / tool).symlink_to(found)
    result = download(tmp_path / "models", "http://127.0.0.1:1", "model.gguf", path=str(tools))
    assert result.returncode == 1
    assert "curl is missing. Install it" in result.stderr


def test_the_list_names_size_licence_and_digest(tmp_path: Path) -> None:
    bash = shutil.which("bash")
    assert bash is not None
    listed = subprocess.run(
        [bash, str(SCRIPT)], capture_output=True, text=True, timeout=50, check=True
    ).stdout
    lines = [line.split() for line in listed.splitlines() if ".gguf" in line]
    assert len(lines) >= 4
    assert lines[0][0] == "llama-2-7b-chat.Q4_0.gguf"
    for line in lines:
        assert len(bytes.fromhex(line[-1])) == 32
        assert line[2] in ("MB", "GB")


def test_help_teaches_with_an_example(tmp_path: Path, hub: Hub) -> None:
    result = download(tmp_path, hub.url, "--help")
    assert result.returncode == 0
    assert "Example: scripts/download_model.sh" in result.stdout
    assert download(tmp_path, hub.url, "--nonsense").returncode == 2
