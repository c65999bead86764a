"""Reading a network's contracts: single values, and the registry as a whole."""

from typing import TYPE_CHECKING, Any

from aos_chain.deployment import Deployment
from aos_chain.registry import RegistryState

if TYPE_CHECKING:
    from aos_chain.challenges import Challenge
    from aos_chain.client import Chain


async def ask_registry(chain: "Chain", deployment: Deployment, name: str, *arguments: Any) -> Any:  # noqa: ANN401 (the ABI's)
    """Return what a function of the OperatorRegistry gives now."""
    return await chain.call(chain.function("OperatorRegistry", deployment.registry, name, *arguments))


async def ask_challenge(chain: "Chain", deployment: Deployment, name: str, *arguments: Any) -> Any:  # noqa: ANN401 (the ABI's)
    """Return what a function of the Challenge contract gives now."""
    return await chain.call(chain.function("Challenge", deployment.challenge, name, *arguments))


async def job_of(chain: "Chain", deployment: Deployment, challenge: "Challenge") -> str | None:
    """Return the job that a challenge is about: the event of its opening has it, in the block after the one that jurors are counted in."""
    block = challenge.jury_block + 1
    events = await chain.logs("Challenge", deployment.challenge, block, block, ["ChallengeOpened"])
    return next(
        (bytes(event.arguments["jobId"]).hex() for event in events if event.arguments["id"] == challenge.id),
        None,
    )


async def registry_state(chain: "Chain", deployment: Deployment) -> RegistryState:
    """Return the registry as it is now, folded from all its events."""
    from aos_chain.follower import RegistryFollower

    follower = RegistryFollower(
        chain, deployment.registry, deployment.block, confirmations=0, poll_interval=1, maximum_age=60
    )
    return await follower.start()
