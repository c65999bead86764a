"""What the supervisor tells the enclave that it starts, as JSON on its command line: no secrets, those are made inside."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from aos_inference.options import LogLevel, ServeOptions
from aos_protocol.attestation.statement import Kind
from aos_tee_worker.supervisor import Restarts


class EnclaveOptions(BaseModel):
    """What the command's options say; `memory_limit` is in MiB, `keyset_lifetime` in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    serve: ServeOptions
    simulator: Path | None
    collateral: Path | None
    memory_limit: int | None
    keyset_lifetime: int
    log_level: LogLevel


class Orders(BaseModel):
    """One life of the enclave: its options, the file descriptors that it inherits, and how often it was started before, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    options: EnclaveOptions
    listener: int
    heartbeat: int
    restarts: Restarts
