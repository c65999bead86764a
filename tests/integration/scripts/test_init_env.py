"""Making a host ready for enclaves, with FAKES of nitro-cli, docker and the rest (`support.nitro_host`)."""

from pathlib import Path

import pytest
import yaml

from support.nitro_host import FOLDERS, NITRO, RECORD, Host


def test_a_ready_host_is_left_as_it_is(host: Host) -> None:
    done = host.run("init_env.sh", "--user", "tester")

    assert done.returncode == 0, done.stderr
    assert host.calls() == []
    assert "did " not in done.stdout
    assert "Next: scripts/run_tee.sh" in done.stdout


def bare(host: Host) -> None:
    """Leave the driver, and nothing else."""
    for name in ("docker", "nitro-cli"):
        host.remove(name)
    for unit in ("docker", "nitro-enclaves-allocator"):
        (host.fake / f"active-{unit}").unlink()
    host.set("groups", "tester")
    host.set("nitro-body", RECORD + NITRO)
    host.install(
        "dnf",
        'case "$*" in *nitro*) cp "$FAKE/nitro-body" "$FAKE/bin/nitro-cli"; chmod +x "$FAKE/bin/nitro-cli" ;; esac',
    )


@pytest.mark.skipif(
    any(Path(folder, name).exists() for folder in FOLDERS for name in ("docker", "nitro-cli")),
    reason="a true docker or nitro-cli lies beside python3 or git here, and would be found",
)
def test_a_bare_host_gets_everything_and_a_second_run_does_nothing(host: Host) -> None:
    bare(host)
    (host.root / "etc/nitro_enclaves/allocator.yaml").write_text("---\nmemory_mib: 512\ncpu_count: 2\n")
    done = host.run("init_env.sh", "--user", "tester", "--cpus", "4", "--memory", "8192")

    assert done.returncode == 0, done.stderr
    assert host.calls() == [
        "dnf install --assumeyes --quiet docker",
        "systemctl enable --now docker",
        "dnf install --assumeyes --quiet aws-nitro-enclaves-cli aws-nitro-enclaves-cli-devel",
        "getent group ne",
        "usermod -aG ne tester",
        "getent group docker",
        "usermod -aG docker tester",
        "systemctl enable nitro-enclaves-allocator",
        "systemctl restart nitro-enclaves-allocator",
    ]
    assert "log out and in again" in done.stdout
    allocator = host.root / "etc/nitro_enclaves/allocator.yaml"
    assert yaml.safe_load(allocator.read_text()) == {"memory_mib": 8192, "cpu_count": 4}
    assert "memory_mib: 512" in allocator.with_name("allocator.yaml.before-aos").read_text()

    host.install("docker")
    host.set("groups", "tester ne docker")
    again = host.run("init_env.sh", "--user", "tester")
    assert again.returncode == 0, again.stderr
    assert host.calls() == []


def test_checking_changes_nothing_and_names_all_that_is_missing(host: Host) -> None:
    bare(host)
    before = (host.root / "etc/nitro_enclaves/allocator.yaml").read_text()
    done = host.run("init_env.sh", "--check", "--user", "tester", "--memory", "9000")

    assert done.returncode == 1
    assert host.calls() == []
    assert (host.root / "etc/nitro_enclaves/allocator.yaml").read_text() == before
    for what in (
        "docker:",
        "nitro-cli:",
        "is not in ne",
        "is not in docker",
        "allocator:",
        "huge pages: 8192 MiB of 9000",
    ):
        assert any(line.startswith("missing") and what in line for line in done.stdout.splitlines()), what


def test_a_machine_without_the_device_is_told_what_it_must_be(host: Host) -> None:
    (host.root / "dev/nitro_enclaves").unlink()
    done = host.run("init_env.sh", "--user", "tester")

    assert done.returncode == 1
    assert "--enclave-options Enabled=true" in done.stderr
    assert "--enclave simulated" in done.stderr
    assert host.calls() == ["modprobe nitro_enclaves"]


def test_a_driver_that_only_was_not_loaded_is_loaded(host: Host) -> None:
    (host.root / "dev/nitro_enclaves").unlink()
    host.install("modprobe", 'touch "$AOS_HOST_ROOT/dev/nitro_enclaves"')
    done = host.run("init_env.sh", "--user", "tester")

    assert done.returncode == 0, done.stderr
    assert "did      driver: loaded" in done.stdout


def test_ubuntu_is_told_how_to_get_nitro_cli(host: Host) -> None:
    (host.root / "etc/os-release").write_text("ID=ubuntu\nID_LIKE=debian\n")
    host.remove("nitro-cli")
    done = host.run("init_env.sh", "--user", "tester")

    assert done.returncode == 1
    assert "Ubuntu has no package" in done.stdout
    assert host.calls() == []


def test_another_system_is_refused(host: Host) -> None:
    (host.root / "etc/os-release").write_text("ID=fedora\n")
    done = host.run("init_env.sh", "--check")

    assert done.returncode == 1
    assert "this is 'fedora'" in done.stderr


def test_what_a_running_enclave_uses_is_not_changed(host: Host) -> None:
    host.set("enclaves", '[{"EnclaveID": "i-1-enc9", "EnclaveCID": 15, "State": "RUNNING"}]')
    done = host.run("init_env.sh", "--user", "tester", "--memory", "6000")

    assert done.returncode == 1
    assert "an enclave runs, and the allocator cannot be changed" in done.stderr
    assert host.calls() == []


def test_the_host_keeps_two_cpus(host: Host) -> None:
    done = host.run("init_env.sh", "--user", "tester", "--cpus", "7")

    assert done.returncode == 1
    assert "7 of 8 CPUs cannot be set aside" in done.stderr
