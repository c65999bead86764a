"""Whether anybody has used a number of its clock for two events."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Record = Mapping[str, Any]


def tickets(rounds: Iterable[Record]) -> list[str]:
    """Return the frames of all tickets that operators drew."""
    drawn = (row["electorate"] for row in rounds)
    return [answer["frame"] for text in drawn if text for answer in json.loads(text) if answer["frame"]]


def operators_events(frames: Iterable[str], numbers: Mapping[str, int]) -> set[tuple[int, int, str]]:
    """Return (participant, counter, frame's hash) of every frame that carries its sender's clock."""
    events = set()
    for text in frames:
        frame = json.loads(text)
        said = frame["params"][0] if frame.get("params") else (frame["result"] or {}).get("ticket")
        number = numbers.get(frame["address"])
        counter = (said or {}).get("clock", {}).get(str(number))
        if number is not None and counter is not None:
            events.add((number, int(counter), frame["hash"]))
    return events


def reused(events: Iterable[tuple[int, int, str]]) -> list[str]:
    """Return a line for each counter that stands for more than one event."""
    counted = Counter((number, counter) for number, counter, _ in events)
    return [
        f"counter {counter} of participant {number} stands for {count} frames"
        for (number, counter), count in counted.items()
        if count > 1
    ]


def dispatcher_ticks(rounds: Iterable[Record], jobs: Iterable[Record]) -> list[int]:
    """Return the dispatcher's own entry of every event of its own that is stored: draws, dispatches, ends of jobs."""
    stored = [row[column] for row in rounds for column in ("draw_clock", "dispatch_clock") if row[column]]
    stored += [job["clock"] for job in jobs]
    return [int(json.loads(clock)["1"]) for clock in stored if clock != "null"]


def repeated(ticks: Sequence[int]) -> list[str]:
    """Return a line for each tick that was used more than once."""
    return [f"tick {tick} was used {count} times" for tick, count in Counter(ticks).items() if count > 1]
