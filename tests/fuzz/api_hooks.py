"""Hooks of schemathesis: into half of the generated requests they put ids, names and a token that the dispatcher knows.

Without them hardly a request would get past "there is no such job". What is known comes as JSON by the environment variable `KNOWN`: for a
field's name, the values that may stand in it. Which requests are changed follows from what was generated, so a seed repeats a run.
"""

import json
import os
import random
from collections.abc import MutableMapping
from typing import Any

import schemathesis

KNOWN = "AOS_FUZZ_KNOWN"
_SHARE = 0.5


def _known() -> dict[str, list[Any]]:
    known: dict[str, list[Any]] = json.loads(os.environ.get(KNOWN, "{}"))
    return known


def with_known(value: Any, known: dict[str, list[Any]], rng: random.Random | None = None) -> Any:
    """Return what was generated, with known values in half of the fields that they fit; other than objects stay as they are."""
    if not isinstance(value, MutableMapping):
        return value
    rng = rng or random.Random(repr(value))
    for name in list(value):
        if name in known and rng.random() < _SHARE:
            value[name] = rng.choice(known[name])
        elif isinstance(value[name], dict):
            value[name] = with_known(value[name], known, rng)
    return value


@schemathesis.hook
def map_body(_context: Any, body: Any) -> Any:
    """Put known values into a body."""
    return with_known(body, _known())


@schemathesis.hook
def map_query(_context: Any, query: Any) -> Any:
    """Put known values into a query."""
    return with_known(query, _known())


@schemathesis.hook
def map_path_parameters(_context: Any, parameters: Any) -> Any:
    """Put known values into a path."""
    return with_known(parameters, _known())


@schemathesis.hook
def map_headers(_context: Any, headers: Any) -> Any:
    """Put a token into the header of authorisation."""
    return with_known(headers, _known())
