"""The worker's option for traces: what cannot be used keeps it from starting, with a word that says why."""

import subprocess
import sysconfig
from pathlib import Path


def test_an_endpoint_that_is_no_url_is_refused_before_the_model_is_loaded(demo_model: Path) -> None:
    program = Path(sysconfig.get_path("scripts")) / "inference-worker"
    options = ["--model", demo_model, "--port", "0", "--otlp-endpoint", "127.0.0.1:4318"]
    ended = subprocess.run([program, *options], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "inference-worker: the endpoint of an OTLP receiver must be http://host:port" in ended.stderr
    assert "loaded" not in ended.stderr
