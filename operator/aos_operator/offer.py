"""What an operator announces to its dispatcher: worker type and models."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from aos_protocol.errors import InvalidMessage
from aos_protocol.fields import EvidenceLevel, WorkerType
from aos_protocol.job import JobSpec
from aos_protocol.messages import DirectOffer, ModelOffer, ServedModel


@dataclass(frozen=True)
class Offer:
    """A worker type, the models that are served, by name, and how clients of direct jobs reach this operator, if it takes those."""

    worker_type: WorkerType
    models: Mapping[str, ServedModel] = field(default_factory=dict)
    direct: DirectOffer | None = None

    def announced(self) -> list[ServedModel]:
        """Return the models as `connect` lists them, by name."""
        return [model for _, model in sorted(self.models.items())]

    def within(self, other: "Offer") -> "Offer":
        """Return this offer with those of its models only that are the same in another one."""
        models = {name: model for name, model in self.models.items() if other.models.get(name) == model}
        return replace(self, models=models)

    def check(self, job_type: WorkerType, model: ModelOffer) -> None:
        """Raise `InvalidMessage`, in AOS's own words where it has some, unless this job fits the offer."""
        if job_type != self.worker_type:
            raise InvalidMessage(f"unsupported worker type, need {self.worker_type}, got {job_type}")
        served = self.models.get(model.name)
        if served is None:
            raise InvalidMessage(f"this operator does not serve model {model.name}")
        if served.sha256 != model.sha256:
            raise InvalidMessage(
                f"this operator serves model {model.name} as {served.sha256}, not as {model.sha256}"
            )

    def evidence_of(self, name: str) -> EvidenceLevel:
        """Return what answers of the model of this name were offered to show; of one that is not served any more, anything."""
        return self.models[name].evidence if name in self.models else "text"

    def enclave_model(self, name: str) -> ModelOffer:
        """Return the model of this name, served by an enclave. Raises `InvalidMessage` when none here serves it."""
        if self.worker_type != "tee":
            raise InvalidMessage(f"this operator has no enclave to attest: its type is {self.worker_type}")
        if name not in self.models:
            raise InvalidMessage(f"this operator does not serve model {name}")
        return ModelOffer(name=name, sha256=self.models[name].sha256)

    def check_job(self, job: JobSpec, model: ModelOffer) -> None:
        """Like `check`, for a whole job, whose model must be the one that the dispatch names."""
        self.check(job.tag, model)
        if job.model != model.name:
            raise InvalidMessage(f"the job asks for model {job.model}, its dispatch names {model.name}")
        if job.kind not in self.models[model.name].kinds:
            raise InvalidMessage(
                f"this operator serves model {model.name} for other kinds of jobs than {job.kind}"
            )


def select_models(
    served: Iterable[ServedModel], wanted: Sequence[str]
) -> tuple[dict[str, ServedModel], list[str]]:
    """Return the served models that are wanted (all, when `wanted` is empty), and the wanted ones that are missing."""
    available = {model.name: model for model in served}
    if not wanted:
        return available, []
    chosen = {name: available[name] for name in wanted if name in available}
    return chosen, [name for name in wanted if name not in available]
