"""The files in deploy/, as data, and what they are held against."""

import re
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import typer
import yaml
from typer.core import TyperGroup

from aos_dispatcher.settings import DispatcherSettings
from aos_operator.settings import OperatorSettings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
SETTINGS: dict[str, type[DispatcherSettings] | type[OperatorSettings]] = {
    "dispatcher.yaml": DispatcherSettings,
    "operator.yaml": OperatorSettings,
}
FILLED_IN = {
    "DISPATCHER_DB_PASSWORD": "one",
    "OPERATOR_DB_PASSWORD": "two",
    "VALKEY_PASSWORD": "three",
    "DISPATCHER_ADDRESS": "0x9DE33DBDeF86932Ae13DDe642b6cd42E7Dd667df",
}
"""What deploy/prepare.sh writes into the templates."""


def text(name: str) -> str:
    return (DEPLOY / name).read_text(encoding="utf-8")


@cache
def compose() -> dict[str, Any]:
    """The compose file with its merges done."""
    read: dict[str, Any] = yaml.safe_load(text("compose.yaml"))
    return read


def interpolated(document: dict[str, Any]) -> str:
    """A compose file as the engine would see it, with what deploy/.env says."""
    image, number = "postgres@sha256:" + "0" * 64, "1000"
    said = yaml.safe_dump(document, width=10_000)
    return re.sub(r"\$\{AOS_(\w+):\?[^}]*\}", lambda name: image if "IMAGE" in name[1] else number, said)


@cache
def manifests() -> dict[str, dict[str, Any]]:
    """Every Kubernetes object, by kind and name."""
    found = {}
    for file in sorted((DEPLOY / "kubernetes").glob("*.yaml")):
        for one in yaml.safe_load_all(file.read_text(encoding="utf-8")):
            found[f"{one['kind']}/{one['metadata']['name']}"] = one
    return found


def pods() -> dict[str, dict[str, Any]]:
    """The pod of every workload, by the workload's name."""
    return {
        one["metadata"]["name"]: one["spec"]["template"]["spec"]
        for one in manifests().values()
        if one["kind"] in {"Deployment", "StatefulSet"}
    }


def containers() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every container of every pod, with the workload's name."""
    for name, pod in pods().items():
        for container in [*pod.get("initContainers", ()), *pod["containers"]]:
            yield name, container


def parse_command(arguments: Sequence[str]) -> None:
    """Read a command line as our command of that name would, without running it; raises what it would exit with."""
    script = next(script for script in entry_points(group="console_scripts") if script.name == arguments[0])
    command, rest = typer.main.get_command(script.load()), list(arguments[1:])
    while isinstance(command, TyperGroup):
        context = command.make_context(arguments[0], rest)
        _, chosen, rest = command.resolve_command(context, context._protected_args + context.args)
        assert chosen is not None
        command = chosen
    command.make_context(arguments[0], rest)


def is_ours(arguments: Sequence[str]) -> bool:
    """Whether a command line is one of our commands."""
    return arguments[0] in {script.name for script in entry_points(group="console_scripts")}


def made_by_prepare() -> set[str]:
    """The names of the files that deploy/prepare.sh makes."""
    script = text("prepare.sh")
    passwords = re.search(r"for name in ([\w -]+); do\n  password", script)
    filled = re.search(r"for name in ([\w. -]+); do\n  filled", script)
    keys = re.findall(r"^keystore (\w+)$", script, re.MULTILINE)
    assert passwords is not None
    assert filled is not None
    made = (
        {f"{name}.password" for name in passwords[1].split()} | set(filled[1].split()) | {"operator.pgpass"}
    )
    return made | {
        f"{key}{end}" for key in keys for end in ("-keystore.json", "-keystore.password", ".address")
    }
