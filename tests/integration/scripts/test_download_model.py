"""`scripts/download_model.sh` against a loopback server: what it keeps, refuses, resumes and never overwrites."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

SCRIPT = Path(__file__).parents[3] / "scripts" / "download_model.sh"
CONTENT = bytes(range(256)) * 400
DIGEST = hashlib.sha256(CONTENT).hexdigest()
HUB_PATH = "Org/Repo/resolve/main/model.gguf"

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@dataclass
class Hub:
    """A model hub on loopback: what it serves, where it breaks off, and the Range headers that it saw."""

    files: dict[str, bytes] = field(default_factory=dict)
    break_after: int | None = None
    ranges: list[str | None] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def hub() -> Iterator[Hub]:
    state = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            state.ranges.append(asked)
            content = state.files.get(self.path.lstrip("/"))
            if content is None:
                self.send_error(HTTPStatus.NOT_FOUND)
                return
            start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
            if start >= len(content):
                self.send_error(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
                return
            self.send_response(HTTPStatus.PARTIAL_CONTENT if asked else HTTPStatus.OK)
            if asked:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            self.wfile.write(content[start : state.break_after])

        def log_message(self, *_: object) -> None:
            """Keep the test output clean."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.url = f"http://127.0.0.1:{server.server_port}"
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield state
        server.shutdown()
        thread.join()


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
        "no_proxy": "127.0.0.1",
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
    hub.files[HUB_PATH] = CONTENT
    result = download(tmp_path, hub.url, "model.gguf")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "model.gguf").read_bytes() == CONTENT
    assert names(tmp_path) == ["model.gguf"]
    assert DIGEST in result.stdout
    assert "Apache-2.0" in result.stdout


def test_the_folder_is_made_when_it_is_missing(tmp_path: Path, hub: Hub) -> None:
    hub.files[HUB_PATH] = CONTENT
    assert download(tmp_path / "new", hub.url, "model.gguf").returncode == 0
    assert names(tmp_path / "new") == ["model.gguf"]


def test_a_wrong_digest_leaves_nothing(tmp_path: Path, hub: Hub) -> None:
    hub.files[HUB_PATH] = CONTENT[:-1] + b"?"
    result = download(tmp_path, hub.url, "model.gguf")
    assert result.returncode == 1
    assert f"not {DIGEST}" in result.stderr
    assert names(tmp_path) == []


def test_a_longer_file_than_published_leaves_nothing(tmp_path: Path, hub: Hub) -> None:
    hub.files[HUB_PATH] = CONTENT + b"more"
    assert download(tmp_path, hub.url, "model.gguf").returncode == 1
    assert names(tmp_path) == []


def test_a_broken_connection_keeps_the_part_and_the_next_run_goes_on(tmp_path: Path, hub: Hub) -> None:
    hub.files[HUB_PATH], hub.break_after = CONTENT, 70_000
    broken = download(tmp_path, hub.url, "model.gguf")
    assert broken.returncode == 1
    assert "goes on where it stopped" in broken.stderr
    assert names(tmp_path) == ["model.gguf.part"]
    part = (tmp_path / "model.gguf.part").stat().st_size
    assert 0 < part <= 70_000

    hub.break_after = None
    whole = download(tmp_path, hub.url, "model.gguf")
    assert whole.returncode == 0, whole.stderr
    assert hub.ranges[-1] == f"bytes={part}-"
    assert (tmp_path / "model.gguf").read_bytes() == CONTENT
    assert names(tmp_path) == ["model.gguf"]


def test_a_file_that_the_server_itself_truncated_is_refused_by_its_size(tmp_path: Path, hub: Hub) -> None:
    hub.files[HUB_PATH] = CONTENT[:50_000]
    result = download(tmp_path, hub.url, "model.gguf")
    assert result.returncode == 1
    assert f"got 50000 of {len(CONTENT)} bytes" in result.stderr
    assert "model.gguf" not in names(tmp_path)


def test_a_whole_part_is_admitted_without_a_server(tmp_path: Path) -> None:
    (tmp_path / "model.gguf.part").write_bytes(CONTENT)
    result = download(tmp_path, "http://127.0.0.1:1", "model.gguf")
    assert result.returncode == 0, result.stderr
    assert names(tmp_path) == ["model.gguf"]


def test_an_overlong_part_is_removed_instead_of_sticking_for_ever(tmp_path: Path, hub: Hub) -> None:
    hub.files[HUB_PATH] = CONTENT
    (tmp_path / "model.gguf.part").write_bytes(CONTENT + b"rubbish")
    assert download(tmp_path, hub.url, "model.gguf").returncode == 1
    assert names(tmp_path) == []
    assert download(tmp_path, hub.url, "model.gguf").returncode == 0


def test_without_a_published_size_the_digest_still_decides(tmp_path: Path, hub: Hub) -> None:
    hub.files[HUB_PATH] = CONTENT
    assert download(tmp_path, hub.url, "model.gguf", size="-3.8 GB").returncode == 0
    (tmp_path / "model.gguf").unlink()
    hub.files[HUB_PATH] = CONTENT[:-5]
    assert download(tmp_path, hub.url, "model.gguf", size="-3.8 GB").returncode == 1
    assert names(tmp_path) == []


def test_an_existing_good_file_is_not_downloaded_again(tmp_path: Path, hub: Hub) -> None:
    (tmp_path / "model.gguf").write_bytes(CONTENT)
    result = download(tmp_path, hub.url, "model.gguf")
    assert result.returncode == 0
    assert "nothing to do" in result.stdout
    assert hub.ranges == []


def test_an_existing_other_file_is_never_overwritten(tmp_path: Path, hub: Hub) -> None:
    hub.files[HUB_PATH] = CONTENT
    (tmp_path / "model.gguf").write_bytes(b"mine")
    result = download(tmp_path, hub.url, "model.gguf")
    assert result.returncode == 1
    assert "Move it away" in result.stderr
    assert (tmp_path / "model.gguf").read_bytes() == b"mine"
    assert hub.ranges == []


def test_any_other_file_of_the_hub_is_taken_on_trust_and_says_so(tmp_path: Path, hub: Hub) -> None:
    hub.files["Some/Where/resolve/main/other.gguf"] = CONTENT
    result = download(tmp_path, hub.url, "Some/Where/other.gguf")
    assert result.returncode == 0, result.stderr
    assert f"SHA-256 {DIGEST}. NOT checked" in result.stdout
    assert names(tmp_path) == ["other.gguf"]
    again = download(tmp_path, hub.url, "Some/Where/other.gguf")
    assert again.returncode == 0
    assert "not checked" in again.stdout
    assert len(hub.ranges) == 1


@pytest.mark.parametrize("name", ["unknown.gguf", "../../etc/passwd", "a/b/c/d.gguf", "Org/Repo/model.bin"])
def test_an_unknown_name_is_refused_before_any_request(name: str, tmp_path: Path, hub: Hub) -> None:
    result = download(tmp_path, hub.url, name)
    assert result.returncode == 1
    assert "no model is called" in result.stderr
    assert names(tmp_path) == []
    assert hub.ranges == []


def test_a_file_that_the_hub_does_not_have_is_explained(tmp_path: Path, hub: Hub) -> None:
    result = download(tmp_path, hub.url, "model.gguf")
    assert result.returncode == 1
    assert "the file is not there" in result.stderr
    assert names(tmp_path) == []


def test_no_internet_is_explained(tmp_path: Path) -> None:
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
