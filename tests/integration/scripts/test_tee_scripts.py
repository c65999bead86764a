"""Building, running and restarting enclaves, with FAKES of nitro-cli, docker and the rest (`support.nitro_host`)."""

import hashlib
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
import yaml

from aos_protocol.attestation.policy import AttestationPolicy
from aos_service.settings import load_settings
from support.nitro_host import DIGEST, IMAGES, PCRS, ROOT, Host

pytestmark = pytest.mark.skipif(shutil.which("flock") is None, reason="flock is not installed")

# run_tee.sh


def test_it_builds_then_runs_then_asks(host: Host) -> None:
    done = host.build_and_run("--cpus", "4", "--memory", "6000")

    assert done.returncode == 0, done.stderr
    build, measure, run, *asked = host.calls()
    assert build.startswith("docker build --file ")
    assert measure.startswith("nitro-cli build-enclave --docker-uri aos-tee-worker:build --output-file ")
    assert run == (
        f"nitro-cli run-enclave --enclave-name aos-tee-15 --eif-path {host.state}/15/enclave.eif "
        "--cpu-count 4 --memory 6000 --enclave-cid 15"
    )
    assert asked == [f"aos attest vsock://15:5005 --model tiny.gguf --policy {host.state}/15/policy.yaml"]
    assert "the enclave is at work" in done.stderr
    assert "DEBUG" not in done.stderr


def test_the_image_is_built_from_digests_with_flags_that_do_not_depend_on_this_machine(host: Host) -> None:
    host.build_and_run("--build-only")

    (build,) = host.calls("docker")
    assert f"BASE=python:3.11-slim{DIGEST}" in build
    assert f"BUILDER=python:3.11{DIGEST}" in build
    assert "-DGGML_NATIVE=OFF" in build
    assert "-DGGML_AVX2=ON" in build
    assert "SOURCE_DATE_EPOCH=315532800" in build


def test_on_arm_it_compiles_for_arm(host: Host) -> None:
    host.install("uname", "echo aarch64")
    host.build_and_run("--build-only")

    (build,) = host.calls("docker")
    assert "GGML_CPU_ARM_ARCH=armv8.2-a" in build
    assert "AVX" not in build


def test_the_image_gets_four_packages_the_model_and_nothing_else(host: Host) -> None:
    host.build_and_run("--build-only")

    files = [line.split() for line in (host.fake / "context").read_text().splitlines()]
    tops = {Path(name).parts[0] for name, _, _ in files}
    assert tops == {
        "protocol",
        "service",
        "inference",
        "tee_worker",
        "requirements",
        "pyproject.toml",
        "LICENSE",
        "README.md",
        "model.gguf",
        "tee-worker.args",
    }
    assert "./tee_worker/aos_tee_worker/main.py" in {name for name, _, _ in files}
    assert not [name for name, _, _ in files if name.endswith(".pyc")]
    assert {mode for _, mode, _ in files} == {"644"}
    assert {float(time) for _, _, time in files} == {315532800.0}
    assert not (host.state / "build/context").exists()


def test_what_the_worker_is_told_is_a_part_of_the_image(host: Host) -> None:
    host.build_and_run("--build-only", "--port", "6000", "--slots", "2", "--name", "other.gguf")

    told = (host.fake / "arguments").read_text().splitlines()
    assert told[0] == "/opt/aos/bin/tee-worker"
    assert told[1:] == (
        [
            "--enclave",
            "nitro",
            "--vsock",
            "6000",
            "--model",
            "/model.gguf",
            "--name",
            "other.gguf",
            "--slots",
            "2",
        ]
    )


def test_it_prints_the_registers_and_a_policy_that_loads(host: Host) -> None:
    done = host.build_and_run("--build-only")

    for index, value in PCRS.items():
        assert f"PCR{index} {value}" in done.stdout
    assert "with the weights of tiny.gguf" in done.stdout
    policy = load_settings(host.state / "build/policy.yaml", AttestationPolicy)
    (build,) = policy.models["tiny.gguf"].nitro.builds  # type: ignore[union-attr]
    assert build.measurements == {f"pcr{index}": value for index, value in PCRS.items()}
    assert not build.allow_debug
    assert yaml.safe_load(done.stdout[done.stdout.index("version:") :])["models"]["tiny.gguf"]["sha256"]


def test_it_writes_down_what_another_needs_to_build_the_same(host: Host) -> None:
    host.build_and_run("--build-only", "--slots", "2")

    recipe = dict(line.split(maxsplit=1) for line in (host.state / "build/recipe").read_text().splitlines())
    assert recipe["base"] == f"python:3.11-slim{DIGEST}"
    assert recipe["builder"] == f"python:3.11{DIGEST}"
    assert recipe["nitro-cli"] == "Nitro CLI 1.4.2"
    assert recipe["model"] == hashlib.sha256(host.model.read_bytes()).hexdigest()
    assert recipe["arguments"].strip().endswith("--name tiny.gguf --slots 2")
    assert recipe["commit"]


def test_building_only_needs_no_nitro_host(host: Host) -> None:
    (host.root / "dev/nitro_enclaves").unlink()

    done = host.build_and_run("--build-only")

    assert done.returncode == 0, done.stderr
    assert [line.split()[1] for line in host.calls("nitro-cli")] == ["build-enclave"]
    refused = host.build_and_run()
    assert refused.returncode == 1
    assert "scripts/init_env.sh --check" in refused.stderr
    assert host.calls() == []


def test_debug_mode_is_warned_of_and_its_policy_is_of_zeros(host: Host) -> None:
    done = host.build_and_run("--debug")

    assert done.returncode == 0, done.stderr
    assert "DEBUG MODE" in done.stderr
    assert "proves nothing" in done.stderr
    (run,) = [line for line in host.calls("nitro-cli") if "run-enclave" in line]
    assert run.endswith("--debug-mode")
    policy = load_settings(host.state / "15/policy.yaml", AttestationPolicy)
    (build,) = policy.models["tiny.gguf"].nitro.builds  # type: ignore[union-attr]
    assert build.allow_debug
    assert set(build.measurements.values()) == {"0" * 96}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "which model?"),
        (("{model}",), "--base needs an image by digest"),
        (("{model}", "--base", "python:3.11-slim"), "and not 'python:3.11-slim'"),
        (("{model}", "--base", f"python{DIGEST}0"), "--base needs an image by digest"),
        (("{model}", "--base", f"python{DIGEST}"), "--builder needs an image by digest"),
        (("{model}", *IMAGES, "--cid", "3"), "--cid is a whole number from 4"),
        (("{model}", *IMAGES, "--cpus", "two"), "--cpus is a whole number"),
        (("{model}", *IMAGES, "--cpus", "08"), "--cpus is a whole number"),
        (("{model}", *IMAGES, "--cpus"), "--cpus needs a value"),
        (("{model}", *IMAGES, "--name", "two words"), "--name takes letters"),
        (("{model}", *IMAGES, "--fast"), "unknown option --fast"),
        (("{model}", "{model}", *IMAGES), "one model at a time"),
    ],
)
def test_wrong_arguments_are_told_before_anything_is_done(
    host: Host, arguments: tuple[str, ...], says: str
) -> None:
    done = host.run("run_tee.sh", *(each.format(model=host.model) for each in arguments))

    assert done.returncode == 2
    assert says in done.stderr
    assert host.calls() == []


def test_a_file_that_is_no_model_is_refused(host: Host) -> None:
    host.model.write_bytes(b"PK\x03\x04")
    done = host.build_and_run()

    assert done.returncode == 1
    assert "is no GGUF file" in done.stderr


def test_a_second_enclave_at_the_same_address_is_refused_before_hours_of_building(host: Host) -> None:
    host.set("enclaves", '[{"EnclaveID": "i-1-enc9", "EnclaveCID": 15, "State": "RUNNING"}]')
    done = host.build_and_run()

    assert done.returncode == 1
    assert "an enclave with CID 15 runs already" in done.stderr
    assert host.calls() == []


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("docker-fails", "docker could not build the image"),
        ("build-fails", "nitro-cli could not build the enclave image"),
        ("run-fails", "nitro-cli could not start the enclave"),
        ("dies", "the enclave has ended by itself"),
    ],
)
def test_each_step_that_fails_says_what_to_do(host: Host, flag: str, says: str) -> None:
    host.set(flag)
    host.set("attest-fails", "9")
    done = host.build_and_run()

    assert done.returncode == 1
    assert says in done.stderr
    assert (host.state / "15/options").exists() == (flag == "dies")


def test_measurements_in_another_form_are_not_printed_as_if_they_were_good(host: Host) -> None:
    host.set("measured", '{"Measurements": {"PCR0": "abc", "PCR1": "abc", "PCR2": "abc"}}')
    done = host.build_and_run("--build-only")

    assert done.returncode == 1
    assert "PCR0 that is no SHA-384" in done.stderr
    assert not (host.state / "build/policy.yaml").exists()


def test_memory_is_four_times_the_image_or_more(host: Host) -> None:
    done = host.build_and_run(EIF_SIZE=str(3 << 30))
    assert done.returncode == 0, done.stderr
    (run,) = [line for line in host.calls("nitro-cli") if "run-enclave" in line]
    memory = int(run.split("--memory ")[1].split()[0])
    assert 4 * 3072 <= memory <= 4 * 3072 + 64

    host.set("enclaves", "[]")
    refused = host.build_and_run("--memory", "8000", EIF_SIZE=str(3 << 30))
    assert refused.returncode == 1
    assert "--memory 8000 is too little" in refused.stderr
    assert not [line for line in host.calls("nitro-cli") if "run-enclave" in line]


def test_it_waits_for_a_good_attestation_and_gives_up_with_the_reason(host: Host) -> None:
    host.set("attest-fails", "2")
    assert host.build_and_run().returncode == 0
    assert len(host.calls("aos")) == 3

    host.set("enclaves", "[]")
    host.set("attest-fails", "1000000")
    done = host.build_and_run("--wait", "1")
    assert done.returncode == 1
    assert "no good attestation after 1 s" in done.stderr
    assert "aos: no answer from vsock://15:5005" in done.stderr
    assert "--debug" in done.stderr


def test_without_aos_it_says_how_to_ask(host: Host) -> None:
    host.remove("aos")
    done = host.build_and_run()

    assert done.returncode == 0, done.stderr
    assert "aos attest vsock://15:5005 --model tiny.gguf" in done.stderr


@pytest.mark.parametrize("said", ["exit 1", "echo nothing"])
def test_not_knowing_what_runs_is_not_taken_for_nothing_runs(host: Host, said: str) -> None:
    host.install("nitro-cli", f"case $1 in describe-enclaves) {said} ;; esac")
    done = host.build_and_run()

    assert done.returncode == 1
    assert "nitro-cli describe-enclaves" in done.stderr
    assert host.calls() == []


# restart_tee.sh


@pytest.fixture
def running(host: Host) -> Host:
    """The host, after `run_tee.sh --cpus 4`."""
    done = host.build_and_run("--cpus", "4")
    assert done.returncode == 0, done.stderr
    host.calls()
    return host


def age(host: Host) -> None:
    """Make the enclave look as if it had been started long ago."""
    options = host.state / "15/options"
    lines = [line for line in options.read_text().splitlines() if not line.startswith("started=")]
    options.write_text("\n".join([*lines, "started=1"]) + "\n")


def test_a_restart_ends_the_enclave_and_starts_it_with_the_same_options(running: Host) -> None:
    done = running.run("restart_tee.sh")

    assert done.returncode == 0, done.stderr
    ended, started, asked = running.calls()
    assert ended == "nitro-cli terminate-enclave --enclave-id i-1-enc2"
    assert "--cpu-count 4 --memory 2048 --enclave-cid 15" in started
    assert asked.startswith("aos attest vsock://15:5005")
    assert "fresh keys" in done.stderr


def test_a_crashed_enclave_is_started_again(running: Host) -> None:
    running.set("enclaves", "[]")
    done = running.run("restart_tee.sh", "--if-unhealthy")

    assert done.returncode == 0, done.stderr
    assert [line.split()[1] for line in running.calls()] == ["run-enclave", "attest"]
    assert "it crashed, or was ended" in done.stderr


def test_a_healthy_enclave_is_left_alone(running: Host) -> None:
    age(running)
    done = running.run("restart_tee.sh", "--if-unhealthy")

    assert done.returncode == 0, done.stderr
    assert [line.split()[1] for line in running.calls()] == ["attest"]


def test_one_slow_answer_is_no_reason(running: Host) -> None:
    age(running)
    running.set("attest-fails", "2")
    done = running.run("restart_tee.sh", "--if-unhealthy")

    assert done.returncode == 0, done.stderr
    assert [line.split()[1] for line in running.calls()] == ["attest"] * 3


def test_building_another_image_leaves_a_running_enclave_alone(running: Host) -> None:
    age(running)
    before = {path: path.read_bytes() for path in (running.state / "15").iterdir()}
    running.model.write_bytes(b"GGUF" + b"x" * 1000)
    assert running.build_and_run("--build-only").returncode == 0
    assert {path: path.read_bytes() for path in (running.state / "15").iterdir()} == before

    running.calls()
    assert running.run("restart_tee.sh", "--if-unhealthy").returncode == 0
    assert [line.split()[1] for line in running.calls()] == ["attest"]


def test_when_it_cannot_be_told_what_runs_nothing_is_ended(running: Host) -> None:
    running.install("nitro-cli", "exit 1")
    done = running.run("restart_tee.sh", "--if-unhealthy")

    assert done.returncode == 1
    assert running.calls() == []


def test_an_enclave_that_does_not_end_is_not_doubled(running: Host) -> None:
    running.set("never-ends")
    running.install("sleep", "exit 9")  # in place of waiting a minute
    done = running.run("restart_tee.sh")

    assert done.returncode == 9
    assert [line.split()[1] for line in running.calls("nitro-cli")] == ["terminate-enclave"]


def test_a_hung_enclave_is_ended_and_started_again(running: Host) -> None:
    age(running)
    running.set("attest-fails", "3")
    done = running.run("restart_tee.sh", "--if-unhealthy")

    assert done.returncode == 0, done.stderr
    steps = [line.split()[1] for line in running.calls()]
    assert steps == ["attest"] * 3 + ["terminate-enclave", "run-enclave", "attest"]
    assert "no answer from vsock://15:5005" in done.stderr


def test_a_timer_leaves_an_enclave_that_still_loads_its_model(running: Host) -> None:
    running.set("attest-fails", "99")
    done = running.run("restart_tee.sh", "--if-unhealthy")

    assert done.returncode == 0, done.stderr
    assert [line.split()[1] for line in running.calls()] == ["attest"]
    assert "left alone until 600 s" in done.stderr


def test_debug_mode_is_warned_of_again(host: Host) -> None:
    host.build_and_run("--debug")
    done = host.run("restart_tee.sh")

    assert "DEBUG MODE" in done.stderr
    assert any(line.endswith("--debug-mode") for line in host.calls("nitro-cli"))


def test_an_enclave_that_was_never_started_here_is_not_invented(host: Host) -> None:
    done = host.run("restart_tee.sh", "--cid", "16")

    assert done.returncode == 1
    assert "no enclave was started here" in done.stderr
    assert host.calls() == []


def test_recorded_options_are_read_and_never_run(running: Host) -> None:
    trap = running.fake / "trap"
    options = running.state / "15/options"
    options.write_text(options.read_text() + f"$(touch {trap})=1\n")
    done = running.run("restart_tee.sh")

    assert done.returncode == 1
    assert "a line that is not known here" in done.stderr
    assert not trap.exists()


def test_two_at_a_time_do_not_meet(running: Host) -> None:
    holder = subprocess.Popen(["flock", str(running.state / "15/lock"), "cat"], stdin=subprocess.PIPE)
    try:
        while running.run("restart_tee.sh", "--if-unhealthy").returncode == 0:
            pass  # flock is not there yet
        done = running.run("restart_tee.sh")
    finally:
        holder.communicate(timeout=10)
    assert done.returncode == 1
    assert "another run_tee.sh or restart_tee.sh is at work" in done.stderr


# The scripts themselves


@pytest.mark.parametrize("script", ["init_env.sh", "run_tee.sh", "restart_tee.sh"])
def test_help_is_the_head_of_the_script(host: Host, script: str) -> None:
    done = host.run(script, "--help")

    assert done.returncode == 0
    assert f"scripts/{script}" in done.stdout
    assert "set -euo" not in done.stdout
    mode = (ROOT / "scripts" / script).stat().st_mode
    assert mode & stat.S_IXUSR
