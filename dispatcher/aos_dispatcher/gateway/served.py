"""Which models can be asked for now: those that connected operators serve, as `GET /v1/models` lists them."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from fastapi import Request

from aos_dispatcher.gateway.chunks import SUCCESS
from aos_dispatcher.gateway.errors import BadRequest, NotServed, UnknownModel
from aos_dispatcher.hub import Hub
from aos_dispatcher.service import Dispatcher
from aos_dispatcher.tables import JsonObject
from aos_protocol.fields import EVIDENCE_LEVELS, Ability, EvidenceLevel, ModelKind, WorkerType
from aos_protocol.messages import ServedModel

_NOBODY = "aos"
"""Who owns a model that nobody registered for a project."""

_PATHS: dict[int, str] = {
    0: "/v1/chat/completions",
    1: "/v1/images/generations",
    2: "/v1/images/edits",
}
_TYPES: tuple[WorkerType, ...] = ("opml", "tee")
"""Job types, the one that is preferred first: its answers can be verified by anybody."""


@dataclass(frozen=True)
class Served:
    """A model that is served now: by which type of job, from which file, and what its operators say of it.

    `evidence` is what the weakest of them can show of an answer, since any may be drawn; of `able` and `kinds`, what at least one has.
    """

    name: str
    job_type: WorkerType
    sha256: str
    evidence: EvidenceLevel
    kinds: list[ModelKind]
    able: frozenset[Ability]
    projects: list[str]

    def to_json(self, base: str) -> JsonObject:
        """Return OpenAI's model object with DBC's fields and ours beside; `base` is the URL at which this dispatcher was reached."""
        owner = self.projects[0] if self.projects else _NOBODY
        return {
            "id": self.name,
            "object": "model",
            "created": 0,
            "owned_by": owner,
            "model": self.name,
            "url": base.rstrip("/") + self._path(),
            "project": owner,
            "evidence": self.evidence,
            "kinds": self.kinds,
            "able": sorted(self.able),
            "job_type": self.job_type,
            "sha256": self.sha256,
        }

    def _path(self) -> str:
        if self.kinds == [0] and "chat" not in self.able:
            return "/v1/completions"
        return _PATHS[self.kinds[0]]


async def served(service: Dispatcher) -> list[Served]:
    """Return every model that is served now, by name; one that several types of jobs can have is there once."""
    found: dict[str, Served] = {}
    for name, job_type, sha256 in await service.operators.models():
        one = _served(service.hub, name, job_type, sha256)
        if one is not None and (name not in found or one.job_type == _TYPES[0]):
            found[name] = one
    return [found[name] for name in sorted(found)]


async def find(service: Dispatcher, name: str) -> Served:
    """Return a model that is served now. Raises `UnknownModel`, or `NotServed` for one that was served before."""
    known = await service.operators.pins(name)
    if not known:
        raise UnknownModel(
            f"there is no model {name!r} here; GET /v1/models lists those that are served", param="model"
        )
    for job_type in _TYPES:
        if job_type in known and (one := _served(service.hub, name, job_type, known[job_type])):
            return one
    raise NotServed(f"no operator that serves model {name!r} is connected now; try again", param="model")


def check_able(model: Served, needs: dict[Ability, str]) -> None:
    """Raise `BadRequest` for what no operator of this model can do, naming the field that asks for it."""
    if 0 not in model.kinds:
        raise BadRequest(
            f"model {model.name!r} makes images: POST to {_PATHS[model.kinds[0]]}", param="model"
        )
    for ability, asked_by in needs.items():
        if ability not in model.able:
            can = ", ".join(sorted(model.able)) or "plain prompts only"
            raise BadRequest(
                f"{asked_by} is not supported by model {model.name!r}, which is able to: {can}",
                param=asked_by,
                name="unsupported_parameter",
            )


def listing(models: Collection[Served], project: str, request: Request) -> JsonObject:
    """Return the answer to GET /v1/models."""
    base = str(request.base_url)
    data = [model.to_json(base) for model in models]
    return {"object": "list", "project": project, "data": data} | SUCCESS


def _served(hub: Hub, name: str, job_type: str, sha256: str) -> Served | None:
    offers = [offer for offer in hub.offers(job_type, name) if offer.sha256 == sha256]
    if not offers:
        return None
    return Served(
        name=name,
        job_type="tee" if job_type == "tee" else "opml",
        sha256=sha256,
        evidence=_weakest(offers),
        kinds=sorted({kind for offer in offers for kind in offer.kinds}),
        able=frozenset(ability for offer in offers for ability in offer.able),
        projects=sorted({instance.project for offer in offers for instance in offer.instances}),
    )


def _weakest(offers: Sequence[ServedModel]) -> EvidenceLevel:
    return max((offer.evidence for offer in offers), key=EVIDENCE_LEVELS.index)
