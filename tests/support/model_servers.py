"""Real model servers as child processes, on the demo model: llama.cpp's own, that of llama-cpp-python, and LiteLLM's proxy before one."""

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import STDOUT, Popen

import httpx
import pytest
import yaml

from aos_cli import ports

ROOT = Path(__file__).parents[2]
LITELLM = ROOT / ".aos" / "peers" / "bin" / "litellm"
PROXY_KEY = "sk-of-the-proxy"
_START_S = 150.0

_LLAMA_SERVER = """
import sys, threading, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.port = sys.argv[1], int(sys.argv[2])
params.hostnames = ["127.0.0.1"]
params.n_ctx, params.n_parallel, params.n_threads_http = 1024, 2, 4
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
params.endpoint_props, params.warmup = True, False
server = xllamacpp.Server(params)
threading.Event().wait()
"""


@contextmanager
def llama_server(model: Path, folder: Path) -> Iterator[str]:
    """llama.cpp's own HTTP server, as xllamacpp builds it in: its URL."""
    with _running([sys.executable, "-c", _LLAMA_SERVER, str(model)], folder, "/health") as url:
        yield url


@contextmanager
def python_server(model: Path, folder: Path) -> Iterator[str]:
    """`llama_cpp.server`, which serves the model as `demo`: its URL. An answer is not broken off when something else is asked."""
    command = [sys.executable, "-m", "llama_cpp.server", "--model", str(model), "--host", "127.0.0.1"]
    command += ["--model_alias", "demo", "--n_ctx", "512", "--n_threads", "1"]
    command += ["--interrupt_requests", "False", "--port"]
    with _running(command, folder, "/v1/models") as url:
        yield url


@contextmanager
def litellm_proxy(behind: str, folder: Path) -> Iterator[str]:
    """LiteLLM's proxy before a server with OpenAI's API, whose model it calls `demo`: its URL. Skips where it is not installed, but in CI."""
    if not LITELLM.is_file():
        if os.environ.get("CI"):
            pytest.fail("LiteLLM's proxy is not installed: run scripts/peers.sh")
        pytest.skip("LiteLLM's proxy is not installed: scripts/peers.sh does it")
    config = folder / "litellm.yaml"
    model = {"model": "openai/demo", "api_base": f"{behind}/v1", "api_key": "none"}
    config.write_text(
        yaml.safe_dump(
            {
                "model_list": [{"model_name": "demo", "litellm_params": model}],
                "general_settings": {"master_key": PROXY_KEY},
            }
        )
    )
    command = [str(LITELLM), "--config", str(config), "--host", "127.0.0.1", "--telemetry", "False", "--port"]
    local = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "HOME": str(folder)}
    with _running(command, folder, "/health/liveliness", local) as url:
        yield url


@contextmanager
def _running(
    command: Sequence[str],
    folder: Path,
    path: str,
    environment: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """A process that is told its port last, from when it answers `path` on."""
    holder = ports.reserve(0)
    port = ports.number(holder)
    log = folder / f"{port}.log"
    with log.open("wb") as file:
        process = Popen(
            [*command, str(port)],
            stdout=file,
            stderr=STDOUT,
            env={"PATH": os.environ["PATH"], "HOME": str(folder), **(environment or {})},
        )
    url = f"http://127.0.0.1:{port}"
    try:
        holder.close()
        _wait_for(process, url + path, log)
        yield url
    finally:
        process.kill()
        process.wait()


def _wait_for(process: "Popen[bytes]", url: str, log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with suppress(httpx.TransportError):
            if httpx.get(url, timeout=1, trust_env=False).is_success:
                return
        time.sleep(0.05)  # another process: there is no event to wait for
    raise AssertionError(f"{url} does not answer:\n{log.read_text(errors='replace')[-2000:]}")
