"""The network as anybody may see it: made at most once a second, and no more than a tenth of the time, however many ask."""

import asyncio
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from aos_dispatcher.database import Database
from aos_dispatcher.documents import time
from aos_dispatcher.figures import TOKENS_S, Census, Figures, ModelKey
from aos_dispatcher.hub import Hub, Peer
from aos_dispatcher.network_documents import MOST_PUSHED
from aos_dispatcher.operators import Operators
from aos_dispatcher.tables import JsonObject
from aos_protocol.identity import Signer
from aos_protocol.messages import ServedModel

_FRESH_S: Final = 1.0
_REST: Final = 9  # times as long as the last reading took; it is how a tenth of the time is kept to
_LONGEST_REST_S: Final = 60.0


@dataclass(frozen=True)
class Snapshot:
    """The network at one moment, encoded: the whole `answer` of HTTP, and the `summary` that listeners are pushed."""

    answer: bytes
    summary: str


class NetworkView:
    """Shows the network to all who ask. Who is connected is what the mesh knows, and so the same in every process, within seconds."""

    def __init__(self, database: Database, hub: Hub, operators: Operators, signer: Signer) -> None:
        self._census = Census(database)
        self._hub = hub
        self._operators = operators
        self._address = signer.address
        self._server_key = signer.public_key[1:].hex()
        self._last: Snapshot | None = None
        self._fresh_until = 0.0
        self._reading: asyncio.Task[Snapshot] | None = None

    async def snapshot(self) -> Snapshot:
        """Return the network as it was a second ago at most, where reading it takes less than a tenth of that. Raises `Unavailable`."""
        if self._last is not None and asyncio.get_running_loop().time() < self._fresh_until:
            return self._last
        if self._reading is None:
            self._reading = asyncio.create_task(self._read())
        return await asyncio.shield(self._reading)

    async def _read(self) -> Snapshot:
        clock = asyncio.get_running_loop().time
        begun = clock()
        try:
            figures, suspended = await self._census.count(), await self._operators.suspended()
            self._last = self._encoded(figures, suspended)
        finally:
            self._reading = None
        ended = clock()
        self._fresh_until = ended + min(max(_FRESH_S, _REST * (ended - begun)), _LONGEST_REST_S)
        return self._last

    def _encoded(self, figures: Figures, suspended: Collection[str]) -> Snapshot:
        shown = portrait(self._hub.peers(), figures, suspended)
        who = {"dispatcher": self._address, "server_key": self._server_key}
        whole = who | {"as_of": time(datetime.now(UTC))} | shown
        return Snapshot(_json({"code": 200, "result": whole}).encode(), _json(who | summary(shown)))


def portrait(peers: Iterable[Peer], figures: Figures, suspended: Collection[str]) -> JsonObject:
    """Return what `network_documents.Network` has, but for whose network it is and when."""
    there = sorted(peers, key=lambda peer: peer.number)
    made = _Sums(figures)
    return {
        "connected": len(there),
        "jobs": _queue(made.rounds),
        "tokens_per_second": _speed(sum(figures.tokens.values())),
        "verdicts": _verdicts(made.outcomes),
        "models": _models(there, figures, made),
        "providers": [_provider(peer, figures, made, peer.address in suspended) for peer in there],
    }


def summary(shown: JsonObject) -> JsonObject:
    """Return what is pushed of a portrait: the busiest models and providers, these without their models."""
    models = _busiest(shown["models"])
    providers = _busiest(shown["providers"])
    return shown | {
        "models": models,
        "providers": [{name: one[name] for name in one if name != "models"} for one in providers],
        "models_left_out": len(shown["models"]) - len(models),
        "providers_left_out": len(shown["providers"]) - len(providers),
    }


class _Sums:
    """Figures added up: rounds by status, tokens by model and by operator, verdicts by outcome, of all and of each operator."""

    def __init__(self, figures: Figures) -> None:
        self.rounds: Counter[str] = Counter()
        self.of_model: Counter[ModelKey] = Counter()
        self.of_operator: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.outcomes_of: dict[str, Counter[str]] = {}
        for (_, status), number in figures.rounds.items():
            self.rounds[status] += number
        for (operator, model), number in figures.tokens.items():
            self.of_model[model] += number
            self.of_operator[operator] += number
        for (operator, outcome), number in figures.verdicts.items():
            self.outcomes[outcome] += number
            self.outcomes_of.setdefault(operator, Counter())[outcome] += number


def _models(peers: Iterable[Peer], figures: Figures, made: _Sums) -> list[JsonObject]:
    """Return every model file that somebody serves; of one name there may be several, whose jobs and tokens are those of the name."""
    served: dict[tuple[str, str, str], int] = Counter(
        (job_type, name, model.sha256) for peer in peers for (job_type, name), model in peer.serves.items()
    )
    return [
        {
            "name": name,
            "job_type": job_type,
            "sha256": sha256,
            "providers": providers,
            "jobs": _queue({status: figures.rounds.get(((job_type, name), status), 0) for status in _STATES}),
            "tokens_per_second": _speed(made.of_model[job_type, name]),
        }
        for (job_type, name, sha256), providers in sorted(served.items())
    ]


def _provider(peer: Peer, figures: Figures, made: _Sums, suspended: bool) -> JsonObject:
    mine = peer.address
    return {
        "address": mine,
        "number": peer.number,
        "standing": "suspended" if suspended else "good",
        "direct": peer.direct is not None and peer.direct.url is not None,
        "jobs": {
            "executing": figures.seats.get((mine, "executor"), 0),
            "verifying": figures.seats.get((mine, "verifier"), 0),
        },
        "tokens_per_second": _speed(made.of_operator[mine]),
        "verdicts": _verdicts(made.outcomes_of.get(mine, {})),
        "models": [
            _provided(mine, key, model, figures.tokens.get((mine, key), 0))
            for key, model in sorted(peer.serves.items(), key=lambda one: one[0])
        ],
    }


def _provided(operator: str, key: ModelKey, model: ServedModel, tokens: int) -> JsonObject:
    return {
        "name": model.name,
        "job_type": key[0],
        "sha256": model.sha256,
        "kinds": model.kinds,
        "evidence": model.evidence,
        "able": model.able,
        "tokens_per_second": _speed(tokens),
        "instances": [
            {
                "node_id": operator,
                "project": each.project,
                "model": model.name,
                "cid": each.cid,
                "kind": each.kind,
            }
            for each in model.instances
        ],
    }


_STATES: Final = ("created", "dispatched")


def _queue(rounds: Mapping[str, int]) -> JsonObject:
    waiting, running = (rounds.get(status, 0) for status in _STATES)
    return {"waiting": waiting, "running": running}


def _verdicts(outcomes: Mapping[str, int]) -> JsonObject:
    told = {outcome: outcomes.get(outcome, 0) for outcome in ("match", "mismatch", "inconclusive")}
    decided = told["match"] + told["mismatch"]
    return told | {"match_rate": round(told["match"] / decided, 4) if decided else None}


def _speed(tokens: int) -> float:
    return round(tokens / TOKENS_S, 2)


def _busiest(shown: Sequence[JsonObject]) -> list[JsonObject]:
    """Return those with the most jobs, in the order that they came in."""
    if len(shown) <= MOST_PUSHED:
        return list(shown)
    places = sorted(range(len(shown)), key=lambda place: -sum(shown[place]["jobs"].values()))
    return [shown[place] for place in sorted(places[:MOST_PUSHED])]


def _json(value: JsonObject) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
