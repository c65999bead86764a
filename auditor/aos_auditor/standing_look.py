"""A monitor's look at what the API shows of operators and models, against what the log tells of them."""

import asyncio
from typing import Final

from aos_auditor.following import Follower
from aos_auditor.http import JsonObject
from aos_protocol.errors import ProtocolError
from aos_protocol.evidence import Check

_TIMES: Final = 3
_PAUSE_S: Final = 0.5
"""Longer than a dispatcher takes to log what it has stored."""


async def look_at_standing(follower: Follower) -> list[Check]:
    """Compare what is shown with the log. What differs is looked at again, since rows are shown a moment before they are logged.

    Raises `Unreachable`, `Refused` and `BadAnswer`.
    """
    shown = await _shown(follower)
    differences = _differences(follower, shown)
    for _ in range(_TIMES):
        if not differences:
            break
        await asyncio.sleep(_PAUSE_S)
        failed = [check for check in await follower.advance() if check.status == "FAIL"]
        if failed:
            return failed
        before, shown = shown, await _shown(follower)
        differences = _differences(follower, shown)
        if differences and shown != before:
            differences = []  # it moves on: the next look tells
    if differences:
        return [Check("AOS-STANDING-1", "FAIL", difference) for difference in differences]
    operators, models, _ = shown
    what = f"operators and models are shown as the log tells: {len(operators)} and {len(models)}"
    return [Check("AOS-STANDING-1", "PASS", what)]


Shown = tuple[list[JsonObject], list[JsonObject], list[JsonObject]]


async def _shown(follower: Follower) -> Shown:
    """The operators, models and standings that the API shows."""
    api = follower.api
    operators, models = await api.operators(), await api.models()
    standings = [await api.standing(str(row.get("operator"))) for row in operators]
    return operators, models, standings


def _differences(follower: Follower, shown: Shown) -> list[str]:
    operators, models, standings = shown
    log = follower.memory.log
    try:
        found = [*log.differences_of_operators(operators), *log.differences_of_models(models)]
        for standing in standings:
            found += log.differences_of_standing(standing)
    except (KeyError, TypeError, ValueError, ProtocolError) as error:
        return [f"what is shown of operators and models cannot be read: {error!r:.200}"]
    return found
