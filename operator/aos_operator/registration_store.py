"""The models that are registered with a node, remembered until they go: a restarted node finds those that still run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from aos_protocol.fields import ModelKind


class InstanceKey(NamedTuple):
    """What makes a registered model one and the same on its node."""

    project: str
    model: str
    cid: str


@dataclass(frozen=True)
class Registered:
    """A model as it was registered: its URL, and its type."""

    key: InstanceKey
    api: str
    kind: ModelKind


class InstanceStore(Protocol):
    """Keeps the registered models of one node. Every method raises `StoreUnavailable` when it cannot."""

    async def instances(self) -> Sequence[Registered]:
        """Return all of them."""
        ...

    async def keep_instances(self, instances: Sequence[Registered]) -> None:
        """Add these, or put them in the place of those of the same keys."""
        ...

    async def drop_instances(self, keys: Sequence[InstanceKey]) -> None:
        """Forget those of these keys."""
        ...
