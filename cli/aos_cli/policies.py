"""The attestation policy by which a command judges enclaves: a YAML file, or that of the stack on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from aos_cli.errors import CliError
from aos_cli.target import Target
from aos_protocol.attestation.policy import AttestationPolicy
from aos_service.settings import load_settings

PolicyFile = Annotated[
    Path | None,
    typer.Option(
        "--policy",
        metavar="FILE",
        help="Which enclaves you trust (docs/template/attestation-policy.yaml). Default: what the running `aos up --enclaves N` "
        "wrote for its own.",
        show_default=False,
    ),
]


def find_policy(chosen: Path | None, target: Target | None) -> AttestationPolicy | None:
    """Return the policy that was chosen, else that of the stack on this machine if it is the target; None when there is neither.

    Raises `SettingsError` for a file that holds none.
    """
    file = chosen or (target.policy if target else None)
    return None if file is None else load_settings(file, AttestationPolicy)


def required_policy(chosen: Path | None, target: Target | None) -> AttestationPolicy:
    """Return what `find_policy` does. Raises `CliError` when there is none: an enclave that nothing is asked of proves nothing."""
    policy = find_policy(chosen, target)
    if policy is None:
        raise CliError(
            "--policy FILE is needed: which enclaves to trust is for you to say; only of the stack that `aos up --enclaves N` "
            "runs on this machine it is known"
        )
    return policy
