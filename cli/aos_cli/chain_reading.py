"""Reading a network's contracts: single values, and the registry as a whole."""

from typing import TYPE_CHECKING, Any

from aos_chain.deployment import Deployment
from aos_chain.registry import RegistryState

if TYPE_CHECKING:
    from aos_chain.client import Chain


async def ask_registry(chain: "Chain", deployment: Deployment, name: str, *arguments: Any) -> Any:  # noqa: ANN401 (the ABI's)
    """Return what a function of the OperatorRegistry gives now."""
    return await chain.call(chain.function("OperatorRegistry", deployment.registry, name, *arguments))


async def ask_challenge(chain: "Chain", deployment: Deployment, name: str, *arguments: Any) -> Any:  # noqa: ANN401 (the ABI's)
    """Return what a function of the Challenge contract gives now."""
    return await chain.call(chain.function("Challenge", deployment.challenge, name, *arguments))


async def registry_state(chain: "Chain", deployment: Deployment) -> RegistryState:
    """Return the registry as it is now, folded from all its events."""
    from aos_chain.follower import RegistryFollower

    follower = RegistryFollower(
        chain, deployment.registry, deployment.block, confirmations=0, poll_interval=1, maximum_age=60
    )
    return await follower.start()
