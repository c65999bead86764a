"""What pydantic found wrong with a settings file: where, what, and what is allowed there."""

import difflib
from collections.abc import Iterable
from pathlib import Path
from types import UnionType
from typing import Annotated, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from aos_service.yaml_document import KeyPath, YamlDocument


class Problem(NamedTuple):
    """One thing that is wrong, at a key and a line of the file."""

    at: KeyPath
    line: int
    what: str

    def render(self, path: Path) -> str:
        """`FILE:LINE: group.key: what is wrong`."""
        where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.at).lstrip(".")
        return f"{path}:{self.line}: {where}: {self.what}" if where else f"{path}:{self.line}: {self.what}"


def explain(error: ValidationError, model: type[BaseModel], document: YamlDocument) -> list[Problem]:
    """The problems of a validation, without any value of the file (it may be a secret)."""
    return [
        _problem(detail, model, document) for detail in error.errors(include_url=False, include_input=False)
    ]


def _problem(detail: ErrorDetails, model: type[BaseModel], document: YamlDocument) -> Problem:
    location = detail["loc"]
    if detail["type"] == "extra_forbidden":
        return Problem(location, document.line(location), _unknown_key(location, model))
    if detail["type"] == "missing":
        known = document.known(location)
        at = location[: len(known) + 1]
        return Problem(at, document.line(at), "is required and missing")
    at = document.known(location)  # unions add names of their own to the location
    return Problem(at, document.line(at), _sentence(detail))


def _unknown_key(location: KeyPath, model: type[BaseModel]) -> str:
    key = str(location[-1])
    allowed = _allowed_keys(model, location[:-1])
    close = difflib.get_close_matches(key, allowed, n=1)
    elsewhere = [] if close else _groups_with(model, key)
    hint = (
        f", did you mean {close[0]}?"
        if close
        else f", it belongs in group {elsewhere[0]}"
        if elsewhere
        else ""
    )
    return f"unknown key{hint}; allowed here: {', '.join(allowed)}"


def _sentence(detail: ErrorDetails) -> str:
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    message = message.replace("Input should be", "should be", 1)
    return message[:1].lower() + message[1:]


def _allowed_keys(model: type[BaseModel], location: KeyPath) -> list[str]:
    """The keys of the group at `location`, which may pass through lists, maps and unions."""
    groups: list[type[BaseModel]] = [model]
    for part in location:
        below = [_field_type(group, part) for group in groups]
        found = [inner for annotation in below if annotation is not None for inner in _models_in(annotation)]
        groups = found or groups  # a list index, or a name that a union put into the location
    return [key for group in groups for key in _keys(group)]


def _groups_with(model: type[BaseModel], key: str) -> list[str]:
    """The top-level groups that have `key`."""
    return [
        name
        for name in _keys(model)
        if any(key in _keys(group) for group in _models_in(_field_type(model, name)))
    ]


def _keys(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _field_type(model: type[BaseModel], key: object) -> object | None:
    for name, field in model.model_fields.items():
        if key == (field.alias or name):
            return field.annotation
    return None


def _models_in(annotation: object) -> Iterable[type[BaseModel]]:
    """Every model that `annotation` names: itself, or inside Optional, list, dict and unions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in {Annotated, Union, UnionType, list, dict, tuple, set, frozenset}:
        return [model for argument in get_args(annotation) for model in _models_in(argument)]
    return []
