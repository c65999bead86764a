"""deploy/compose.yaml: what it starts exists, and none of it has more rights than it needs."""

import copy
import re
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose
from typer.exceptions import TyperException

from support.deploy import (
    DEPLOY,
    FILLED_IN,
    SETTINGS,
    compose,
    interpolated,
    is_ours,
    made_by_prepare,
    parse_command,
    text,
)

SERVICES = sorted(compose()["services"])
WITHOUT_A_PORT = {"operator", "operator-tables"}
"""Nobody can ask these how they are; the file says what shows it instead."""


def service(name: str) -> dict[str, Any]:
    found: dict[str, Any] = compose()["services"][name]
    return found


def test_the_file_is_a_compose_file() -> None:
    read = PyCompose.from_yaml(interpolated(compose()))
    assert sorted(read.service_names()) == SERVICES


def test_the_validator_finds_what_is_wrong() -> None:
    wrong = copy.deepcopy(compose())
    wrong["services"]["worker"]["cap_drops"] = ["ALL"]
    with pytest.raises(ValueError, match="cap_drops"):
        PyCompose.from_yaml(interpolated(wrong))


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_has_no_rights_and_no_room_to_spare(name: str) -> None:
    one = service(name)
    assert one["read_only"] is True
    assert one["cap_drop"] == ["ALL"]
    assert one["security_opt"] == ["no-new-privileges:true"]
    assert re.fullmatch(r"\$\{AOS_UID:\?.+\}:\$\{AOS_GID:\?.+\}", one["user"])
    assert set(one["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
    assert "privileged" not in one
    assert "env_file" not in one


@pytest.mark.parametrize("name", sorted(set(SERVICES) - WITHOUT_A_PORT))
def test_what_has_a_port_has_a_health_check_of_that_port(name: str) -> None:
    check = service(name)["healthcheck"]
    said = " ".join(check["test"])
    if port := re.search(r":(\d+)/", said):
        assert int(port[1]) == {"dispatcher": 8000, "worker": 5005}[name]
        assert re.search(r"/(readyz|healthz)'", said)
    else:
        assert name in {"postgres", "valkey"}


@pytest.mark.parametrize("name", SERVICES)
def test_our_commands_are_understood_by_our_programs(name: str) -> None:
    command = service(name)["command"]
    assert is_ours(command) == (name not in {"postgres", "valkey"})
    if is_ours(command):
        parse_command(command)


def test_a_command_that_is_misspelt_would_be_found() -> None:
    with pytest.raises(TyperException, match="--config-file"):
        parse_command(["dispatcher", "run", "--config-file", "x"])


@pytest.mark.parametrize("name", SERVICES)
def test_every_secret_is_a_file_that_is_made_and_none_is_in_the_environment(name: str) -> None:
    files, one = compose()["secrets"], service(name)
    sources = [each if isinstance(each, str) else each["source"] for each in one.get("secrets", [])]
    for source in sources:
        assert files[source] == {"file": f"secrets/{source}"}
    reached = {f"/run/secrets/{source}" for source in sources}
    wanted = set(
        re.findall(r"/run/secrets/[\w.-]+", yaml.safe_dump([one["command"], one.get("environment")]))
    )
    assert wanted <= reached
    assert not any("PASSWORD" in key and not key.endswith("_FILE") for key in one.get("environment", {}))


def test_prepare_makes_every_secret() -> None:
    assert set(compose()["secrets"]) <= made_by_prepare()


def test_every_image_is_pinned_by_its_digest_or_built_here_on_such_a_one() -> None:
    pinned = set(re.findall(r'echo "(AOS_\w+_IMAGE)=\$\(digest ', text("pin_images.sh")))
    used = set()
    for name in SERVICES:
        one = service(name)
        if "build" in one:
            assert one["build"]["dockerfile"] == "deploy/Dockerfile"
            assert (DEPLOY.parent / one["build"]["dockerfile"]).is_file()
            images = one["build"]["args"].values()
        else:
            images = [one["image"]]
        for image in images:
            variable = re.fullmatch(r"\$\{(AOS_\w+_IMAGE):\?.+\}", image)
            assert variable is not None, image
            used.add(variable[1])
    assert used == pinned


def test_only_the_dispatcher_is_reached_from_outside_and_by_this_machine_only() -> None:
    ports = {name: service(name).get("ports") for name in SERVICES}
    assert ports.pop("dispatcher") == ["127.0.0.1:8000:8000"]
    assert set(ports.values()) == {None}
    networks = compose()["networks"]
    assert {name for name, network in networks.items() if not network.get("internal")} == {"front"}
    assert {name for name in SERVICES if "front" in service(name)["networks"]} == {"dispatcher", "operator"}


@pytest.mark.parametrize("file", SETTINGS)
def test_the_settings_are_accepted_and_name_services_that_are_reached(
    file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aos_service.settings import load_settings

    for name, value in FILLED_IN.items():
        monkeypatch.setenv(name, value)
    load_settings(DEPLOY / "config" / file, SETTINGS[file])
    user = service(file.removesuffix(".yaml"))
    hosts = re.findall(r"^[^#\n]*://(?:[^@\n]*@)?([a-z]+):(\d+)", text(f"config/{file}"), re.MULTILINE)
    assert hosts
    for host, port in hosts:
        assert set(service(host)["networks"]) & set(user["networks"]), f"{file} does not reach {host}"
        assert int(port) == {"postgres": 5432, "valkey": 6379, "dispatcher": 8000, "worker": 5005}[host]
    for path in re.findall(r"/run/secrets/([\w.-]+)", text(f"config/{file}")):
        assert path in user["secrets"]


def test_the_templates_hold_no_other_variable_than_prepare_fills_in() -> None:
    for file in ("dispatcher.yaml", "operator.yaml", "roles.sql", "valkey.conf"):
        body = re.sub(r"^#.*$", "", text(f"config/{file}"), flags=re.MULTILINE)
        assert set(re.findall(r"\$\{(\w+)\}", body)) <= set(FILLED_IN)
    for name in FILLED_IN:
        assert f"{name}=" in text("prepare.sh")
