"""The configuration files of a one-machine stack, in the form that anybody would write for the same commands by hand."""

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from aos_chain.deployment import Deployment
from aos_cli.data import DataFolder, write_private
from aos_protocol.attestation.policy import VERSION
from aos_protocol.fields import EvidenceLevel, WorkerType
from aos_protocol.identity import Signer, recursion_limit_kept
from aos_protocol.messages import ModelOffer

MODEL_LIMIT = 4
"""Jobs that one local operator hands to its worker at a time."""

ANCHOR_INTERVAL_S = 3
"""How often the local dispatcher anchors its log, if that has grown; a network takes a minute or more, since each anchor costs gas."""


@dataclass(frozen=True)
class ChainPlace:
    """The local chain: its RPC URL, and where the contracts are."""

    rpc: str
    deployment: Deployment


def ensure_password(data: DataFolder) -> Path:
    """Make the file with the password of all local keystores, once.

    It lies beside them: they are encrypted so that a stray copy of one gives no key away, not against who reads this folder.
    """
    if not data.password.exists():
        write_private(data.password, secrets.token_urlsafe(24) + "\n")
    return data.password


def make_keystore(data: DataFolder, name: str, password: str) -> None:
    """Make a key and its keystore, with a key derivation that takes no time.

    The usual one takes a second of computing, so that a password that somebody thought up cannot be guessed. This password
    has 192 random bits, which nobody guesses, however quick each try is.
    """
    with recursion_limit_kept():
        from eth_account import Account
    document = Account.encrypt(Signer.generate().secret, password, kdf="pbkdf2", iterations=1)
    write_private(data.keystore(name), json.dumps(document) + "\n")


def write_dispatcher(
    data: DataFolder,
    database: str,
    port: int,
    *,
    name: str = "dispatcher",
    redis: str | None = None,
    policy: Path | None = None,
    chain: ChainPlace | None = None,
    least_evidence: EvidenceLevel = "fingerprints",
) -> Path:
    """Write the dispatcher's settings (`aos_dispatcher.settings`) and return their file; without a policy it takes no `tee` jobs.

    Without a `chain`, its own table is the registry. It may be several processes, each with a `name` and a port, which meet over `redis`.
    """
    settings: dict[str, Any] = {
        "database": {"url": database},
        "identity": {
            "keystore": str(data.keystore("dispatcher")),
            "keystore_password_file": str(data.password),
        },
        "listen": {"host": "127.0.0.1", "port": port},
        # Operators that share a machine are slow together: one that is left out of a draw leaves a committee too small to check an answer.
        "dispatch": {"draw_timeout": 10},
        # Whoever tries things out on one machine wants to see each answer verified; a network samples.
        "verification": {"audit_share": 1.0, "least_evidence": least_evidence},
    }
    if policy is not None:
        settings["attestation"] = {"policy": str(policy)}
    if chain is not None:
        settings["chain"] = {
            "chain_id": chain.deployment.chain_id,
            "registry": chain.deployment.registry,
            "rpc_url": chain.rpc,
            "anchor": chain.deployment.anchor,
            "deployed_at": chain.deployment.block,
            "confirmations": 0,  # nobody reorganises a chain of one node
            "poll_interval": 0.5,
            "anchor_interval": ANCHOR_INTERVAL_S,
        }
    if redis is not None:
        settings["cluster"] = {"redis_url": redis}
    return _write(data.config / f"{name}.yaml", settings)


def write_policy(data: DataFolder, model: ModelOffer, *, root: str, measurements: dict[str, str]) -> Path:
    """Write the attestation policy of a stack with simulated enclaves and return its file.

    `root` is the SHA-256 of the simulator's root certificate, `measurements` what its enclaves measure.
    """
    build = {"name": "simulated", "measurements": measurements}
    trusted = {"sha256": model.sha256, "simulated": {"roots": [root], "builds": [build]}}
    policy = {"version": VERSION, "allow_simulated": True, "models": {model.name: trusted}}
    return _write(data.policy, policy)


def write_operator(
    data: DataFolder,
    name: str,
    *,
    database: str,
    queue: str,
    dispatcher_ports: Sequence[int],
    worker: Path,
    model: str,
    node_type: WorkerType = "opml",
    chain: ChainPlace | None = None,
    direct_port: int | None = None,
) -> Path:
    """Write one operator's settings (`aos_operator.settings`) and return their file; it tries the dispatcher's ports in this order.

    With a `direct_port`, clients of direct sessions reach it there.
    """
    settings: dict[str, Any] = {
        "db": {"pg_db_url": database, "min_connect_pool": 1, "max_connect_pool": 5},
        "queue": {"queue_url": queue},
        "net": {
            "dispatcher_url": [f"ws://127.0.0.1:{port}/ws" for port in dispatcher_ports],
            "worker_url": f"unix://{worker}",
            "worker_concurrency": MODEL_LIMIT,
        },
        "node": {
            "node_id": data.address(name),
            "keystore": str(data.keystore(name)),
            "keystore_password_file": str(data.password),
            "dispatcher_address": data.address("dispatcher"),
            "node_type": node_type,
            "ai_models": [model],
        },
    }
    if direct_port is not None:
        settings["net"]["outer_url"] = f"http://127.0.0.1:{direct_port}"
    if chain is not None:
        settings["chain"] = {
            "chain_rpc_url": chain.rpc,
            "vrf_range_contract": chain.deployment.registry,
            "deployed_at": chain.deployment.block,
            "confirmations": 0,
        }
    return _write(data.config / f"{name}.yaml", settings)


def _write(path: Path, settings: dict[str, Any]) -> Path:
    text = yaml.safe_dump(_literal(settings), sort_keys=False, allow_unicode=True)
    write_private(path, f"# Made by `aos up`, which writes it anew at every start.\n{text}")
    return path


def _literal(value: Any) -> Any:  # noqa: ANN401 (YAML data)
    """Keep `${` in paths from being read as an environment variable."""
    if isinstance(value, dict):
        return {key: _literal(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_literal(item) for item in value]
    return value.replace("${", "$${") if isinstance(value, str) else value
