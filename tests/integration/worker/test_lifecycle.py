"""Starting, failing to start, and going down."""

import json
import signal
import socket
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from tests.integration.worker.conftest import RunningWorker, StartWorker

from aos_inference import server
from aos_inference.errors import AddressInUse
from support.busy import at_work

SEED = "cd" * 32
ENDLESS = {"max_tokens": 2**20}
SLOW = "time.sleep(0.01); return super().decode(rows)"


def generate(client: httpx.Client, **params: float) -> httpx.Response:
    request = {"model": "demo", "prompt": "What is AI?", "seed": SEED, "prover": "me", "params": params}
    return client.post("/v1/generate", json=request)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_worker_goes_at_once(start_worker: StartWorker, number: int) -> None:
    worker = start_worker("--port", "0")
    assert worker.address
    worker.process.send_signal(number)
    assert worker.exit_code() == 0
    assert not any("Traceback" in line for line in worker.lines)


def test_a_running_job_may_finish(start_worker: StartWorker) -> None:
    worker = start_worker("--port", "0", "--name", "demo")
    with worker.client() as client, ThreadPoolExecutor(1) as pool:
        with worker.client() as other:
            post = at_work(lambda: pool.submit(generate, client, temperature=5.0, max_tokens=150), other)
        worker.process.terminate()
        assert post.result().status_code == 200
    assert worker.exit_code() == 0


def test_an_engine_that_dies_takes_the_process_with_it(start_stub: StartWorker) -> None:
    worker = start_stub("raise OSError('llama_decode returned -3')")
    with worker.client() as client:
        response = generate(client, max_tokens=9)
    assert response.status_code == 503
    assert worker.exit_code() != 0
    assert "llama_decode returned -3" in worker.events("the engine failed")[0]["exception"]


def test_a_long_stream_is_told_when_the_grace_is_over(start_stub: StartWorker) -> None:
    worker = start_stub(SLOW)
    request = {
        "model": "demo",
        "prompt": "x",
        "seed": SEED,
        "prover": "me",
        "params": ENDLESS,
        "stream": True,
    }
    with worker.client() as client, client.stream("POST", "/v1/generate", json=request) as response:
        lines = response.iter_lines()
        assert next(lines).startswith("data: ")
        worker.process.terminate()
        *_, name, data = (line for line in lines if line)
    assert name == "event: error"
    assert json.loads(data.removeprefix("data: "))["code"] == 503
    assert worker.exit_code() == 0


def test_a_long_job_is_told_as_well(start_stub: StartWorker) -> None:
    worker = start_stub(SLOW)
    with worker.client() as client, ThreadPoolExecutor(1) as pool:
        post = pool.submit(generate, client, **ENDLESS)
        with worker.client() as other:
            while other.get("/healthz").json()["active"] == 0:
                pass
        worker.process.terminate()
        assert post.result().status_code == 503
    assert worker.exit_code() == 0


def test_a_unix_socket(start_worker: StartWorker, tmp_path: Path) -> None:
    path = tmp_path / "worker.sock"
    worker = start_worker("--uds", str(path), "--name", "demo")
    with worker.client() as client:
        assert generate(client, max_tokens=3).status_code == 200
    assert stat.S_ISSOCK(path.stat().st_mode)
    second = start_worker("--uds", str(path))
    assert second.exit_code() == 1
    assert "Another process serves" in second.lines[-1]
    assert path.exists()
    worker.process.terminate()
    assert worker.exit_code() == 0
    assert not path.exists()


def test_a_socket_that_nobody_serves_is_replaced(start_worker: StartWorker, tmp_path: Path) -> None:
    path = tmp_path / "worker.sock"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    worker = start_worker("--uds", str(path))
    with worker.client() as client:
        assert client.get("/healthz").status_code == 200


def test_a_file_in_place_of_a_socket_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(AddressInUse, match="is a file, not a socket"):
        server.listen_unix(path)
    assert path.read_text() == "data"
    with pytest.raises(AddressInUse, match="No such file"):
        server.listen_unix(tmp_path / "absent" / "worker.sock")


def test_a_busy_port(start_worker: StartWorker, worker: RunningWorker) -> None:
    port = worker.address.rsplit(":", 1)[1]
    second = start_worker("--port", port)
    assert second.exit_code() == 1
    assert second.lines[-1].startswith(
        f"inference-worker: Cannot listen on 127.0.0.1:{port}: Address already in use"
    )


def test_addresses_that_do_not_exist() -> None:
    for host in ("203.0.113.7", "no such host"):
        with pytest.raises(AddressInUse, match=f"Cannot listen on {host}:0"):
            server.listen_tcp(host, 0)


def test_ipv6_is_described_with_brackets() -> None:
    with server.listen_tcp("::1", 0) as listener:
        assert server.describe(listener) == f"http://[::1]:{listener.getsockname()[1]}"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--context", "2000"), "--context 2,000 exceeds the 1,024 tokens that the model was trained for"),
        (("--slots", "999"), "48"),
    ],
)
def test_what_does_not_fit(start_worker: StartWorker, arguments: tuple[str, ...], said: str) -> None:
    worker = start_worker("--port", "0", *arguments)
    assert worker.exit_code() in {1, 2}
    assert said in "".join(worker.lines)


def test_a_truncated_model(start_worker: StartWorker, demo_model: Path, tmp_path: Path) -> None:
    half = tmp_path / "half.gguf"
    half.write_bytes(demo_model.read_bytes()[: demo_model.stat().st_size // 2])
    worker = start_worker("--port", "0", model=half)
    assert worker.exit_code() == 1
    assert "is truncated: its tensors need" in worker.lines[-1]


def test_llama_cpp_is_heard_at_debug_level_only(start_worker: StartWorker) -> None:
    quiet, loud = start_worker("--port", "0"), start_worker("--port", "0", "--log-level", "debug")
    assert quiet.address
    assert loud.address
    assert [json.loads(line)["event"] for line in quiet.lines] == ["loaded", "listening"]
    assert any("llama_model_loader" in line for line in loud.lines)
    assert all(line.startswith("{") for line in loud.lines)


def test_numpy_starts_no_threads(worker_environment: dict[str, str]) -> None:
    """They would compete with llama.cpp's."""
    probe = (
        "import os, aos_inference.main, numpy; print(numpy.eye(9).sum(), len(os.listdir('/proc/self/task')))"
    )
    told = subprocess.run(
        [sys.executable, "-c", probe], env=worker_environment, check=True, capture_output=True, text=True
    )
    assert told.stdout == "9.0 1\n"


def test_help_needs_no_llama_cpp(worker_environment: dict[str, str]) -> None:
    probe = "import sys, aos_inference.main; sys.exit('llama_cpp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", probe], env=worker_environment, check=False).returncode == 0
