"""How a whole enclave starts, is started again, and ends."""

import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from tests.integration.tee_worker.conftest import StartEnclave
from tests.integration.tee_worker.test_enclave import body, sealed_prompt

from aos_protocol.sealing import SealingKey
from support.busy import at_work

LONG = {"temperature": 5.0, "top_p": 1.0, "max_tokens": 900}


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_killed_enclave_is_started_again_with_fresh_keys(
    start_enclave: StartEnclave, tmp_path: Path
) -> None:
    enclave = start_enclave("--uds", str(tmp_path / "e.sock"))
    first = enclave.pid()
    with enclave.client() as client, ThreadPoolExecutor(1) as pool:
        sealed, old = sealed_prompt(enclave, client, SealingKey())
        with enclave.client() as other:
            running = at_work(lambda: pool.submit(client.post, "/v1/generate", json=body(params=LONG)), other)
        os.kill(first, signal.SIGKILL)
        with pytest.raises(httpx.TransportError):
            running.result()
    with enclave.client() as client:  # at once: it waits until the enclave is back
        assert client.get("/healthz").status_code == 200
        assert enclave.samples(client)['aos_enclave_restarts_total{reason="crashed"}'] == 1
        refused = client.post("/v1/generate", json=body(prompt=None, sealed=sealed.to_json()))
        present = enclave.events("enclave")[-1]["keyset"]
    assert enclave.pid(2) != first
    assert present != old
    assert (refused.status_code, present in refused.json()["message"]) == (422, True)
    (said,) = enclave.events("the enclave crashed")
    assert (said["status"], said["restarts"]) == ("killed by SIGKILL", {"crashed": 1, "hung": 0})
    assert "sealed again" in said["advice"]


def test_an_enclave_that_hangs_is_killed_and_started_again(
    start_enclave: StartEnclave, tmp_path: Path
) -> None:
    enclave = start_enclave("--uds", str(tmp_path / "e.sock"), impatient=True)
    first = enclave.pid()
    keyset = enclave.events("enclave")[0]["keyset"]
    with enclave.client() as client:
        assert client.get("/healthz").status_code == 200
        os.kill(first, signal.SIGSTOP)
        second = enclave.pid(2)
    assert gone(first)
    with enclave.client() as client:
        samples = enclave.samples(client)
    assert samples['aos_enclave_restarts_total{reason="hung"}'] == 1
    assert samples['aos_enclave_restarts_total{reason="crashed"}'] == 0
    assert samples["aos_enclave_attestations_total"] == 0
    assert enclave.events("enclave")[1]["keyset"] != keyset
    assert enclave.events("the enclave hung and was killed")
    enclave.process.terminate()
    assert enclave.exit_code() == 0
    assert gone(second)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_it_lets_a_job_finish(start_enclave: StartEnclave, tmp_path: Path, number: int) -> None:
    path = tmp_path / "e.sock"
    enclave = start_enclave("--uds", str(path))
    pid = enclave.pid()
    with enclave.client() as client, ThreadPoolExecutor(1) as pool:
        job = body(
            params={**LONG, "max_tokens": 150}
        )  # on a busy machine, too, within the grace of 3 seconds
        with enclave.client() as other:
            running = at_work(lambda: pool.submit(client.post, "/v1/generate", json=job), other)
        enclave.process.send_signal(number)
        assert running.result().status_code == 200
    assert enclave.exit_code() == 0
    assert gone(pid)
    assert not path.exists()
    assert not any("Traceback" in line for line in enclave.lines)


def test_told_to_stop_while_it_starts(start_enclave: StartEnclave, tmp_path: Path) -> None:
    enclave = start_enclave("--uds", str(tmp_path / "e.sock"))
    enclave.wait_for("isolated")
    enclave.process.terminate()
    assert enclave.exit_code() == 0


def test_with_its_supervisor_it_ends(start_enclave: StartEnclave, tmp_path: Path) -> None:
    """Also one that hangs: nothing of it may stay, with a model's memory and a socket that nobody serves."""
    enclave = start_enclave("--uds", str(tmp_path / "e.sock"))
    pid = enclave.pid()
    os.kill(pid, signal.SIGSTOP)
    enclave.process.kill()
    enclave.process.wait()
    enclave._reader.join(20)  # its standard error ends with the last process that has it
    assert not enclave._reader.is_alive()


def test_a_bad_model_ends_it_with_the_reason(
    start_enclave: StartEnclave, demo_model: Path, tmp_path: Path
) -> None:
    half = tmp_path / "half.gguf"
    half.write_bytes(demo_model.read_bytes()[: demo_model.stat().st_size // 2])
    path = tmp_path / "e.sock"
    enclave = start_enclave("--uds", str(path), model=half)
    assert enclave.exit_code() == 1
    assert "is truncated: its tensors need" in enclave.lines[-1]
    assert enclave.lines[-1].startswith("tee-worker: ")
    assert not path.exists()


def test_a_model_that_goes_bad_ends_it_when_it_is_started_again(
    start_enclave: StartEnclave, demo_model: Path, tmp_path: Path
) -> None:
    model = tmp_path / "m.gguf"
    model.write_bytes(demo_model.read_bytes())
    enclave = start_enclave("--uds", str(tmp_path / "e.sock"), model=model, impatient=True)
    pid = enclave.pid()
    model.rename(tmp_path / "elsewhere")
    os.kill(pid, signal.SIGKILL)
    assert enclave.exit_code() == 1
    assert "Cannot open" in enclave.lines[-1]


def test_a_second_one_on_the_same_socket(start_enclave: StartEnclave, tmp_path: Path) -> None:
    path = tmp_path / "e.sock"
    first = start_enclave("--uds", str(path))
    first.pid()
    second = start_enclave("--uds", str(path))
    assert second.exit_code() == 1
    assert "Another process serves" in second.lines[-1]
    with first.client() as client:
        assert client.get("/healthz").status_code == 200


def test_clients_that_come_before_the_model_wait(start_enclave: StartEnclave, tmp_path: Path) -> None:
    path = tmp_path / "e.sock"
    enclave = start_enclave("--uds", str(path))
    isolated = enclave.wait_for("isolated")  # the model is not loaded yet
    assert any("MiB of memory beside the model's file" in each for each in isolated["in_force"])
    transport = httpx.HTTPTransport(uds=str(path))
    with httpx.Client(transport=transport, base_url="http://enclave", timeout=30) as client:
        assert client.get("/healthz").json()["status"] == "ok"


def test_tcp(start_enclave: StartEnclave) -> None:
    enclave = start_enclave("--port", "0", "--memory-limit", "1024")
    with enclave.client() as client:
        assert client.post("/v1/generate", json=body()).status_code == 200
    assert any("1024 MiB" in each for each in enclave.events("isolated")[0]["in_force"])


def test_vsock_as_far_as_this_kernel_goes(start_enclave: StartEnclave) -> None:
    """It has no way to connect to itself, so this is as far as listening."""
    try:
        with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as free:
            free.bind((socket.VMADDR_CID_ANY, socket.VMADDR_PORT_ANY))
            port = free.getsockname()[1]
    except OSError as error:
        pytest.skip(f"this kernel has no vsock: {error}")
    enclave = start_enclave("--vsock", str(port))
    assert enclave.wait_for("listening")["address"] == f"vsock port {port}"
    second = start_enclave("--vsock", str(port))
    assert second.exit_code() == 1
    assert f"Cannot listen on vsock port {port}: Address already in use" in second.lines[-1]
    enclave.process.terminate()
    assert enclave.exit_code() == 0
