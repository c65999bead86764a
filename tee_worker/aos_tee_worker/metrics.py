"""What the enclave counts, in Prometheus' text format."""

import threading
from typing import Final

from aos_protocol.attestation.statement import Kind
from aos_tee_worker.supervisor import Restarts

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """One life of the enclave: its kind, when it began (Unix seconds), the restarts before it, and attestations since, from any thread."""

    def __init__(self, kind: Kind, started: float, restarts: Restarts) -> None:
        self._kind = kind
        self._started = started
        self._restarts = restarts
        self._attestations = 0
        self._lock = threading.Lock()

    def attested(self) -> None:
        """Count one attestation."""
        with self._lock:
            self._attestations += 1

    def exposition(self) -> str:
        """The text that Prometheus reads."""
        restarts = self._restarts.model_dump()
        return "".join(
            [
                *_family(
                    "aos_enclave_restarts_total",
                    "counter",
                    "Times that the enclave was started again, by what had ended it.",
                    {f'{{reason="{reason}"}}': count for reason, count in restarts.items()},
                ),
                *_family(
                    "aos_enclave_started_timestamp_seconds",
                    "gauge",
                    "When the enclave was started last, in Unix seconds.",
                    {"": round(self._started, 3)},
                ),
                *_family(
                    "aos_enclave_attestations_total",
                    "counter",
                    "Documents that the enclave had signed since its last start.",
                    {"": self._attestations},
                ),
                *_family(
                    "aos_enclave_kind",
                    "gauge",
                    "What vouches for the enclave; simulated proves nothing.",
                    {f'{{kind="{self._kind}"}}': 1},
                ),
            ]
        )


def _family(name: str, kind: str, says: str, samples: dict[str, float]) -> list[str]:
    head = [f"# HELP {name} {says}\n", f"# TYPE {name} {kind}\n"]
    return head + [f"{name}{labels} {value}\n" for labels, value in samples.items()]
