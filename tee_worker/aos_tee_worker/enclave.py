"""The enclave itself, as a process that `tee-worker` starts: device, isolation, model, keys, and then it serves until it is told to stop.

python -m aos_tee_worker.enclave ORDERS (JSON, see `orders`)
"""

import asyncio
import json
import logging
import os
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import structlog
import typer

from aos_inference import gguf, loading, memory, server
from aos_inference.errors import StartupError
from aos_protocol.attestation.statement import Kind
from aos_protocol.canonical import parse
from aos_protocol.errors import NotCanonical
from aos_protocol.messages import ModelOffer
from aos_service.hardening import keep_memory_private
from aos_service.logs import configure_logs
from aos_tee_worker import app
from aos_tee_worker.device import Device
from aos_tee_worker.errors import CollateralUnreadable
from aos_tee_worker.heart import Heart
from aos_tee_worker.isolation import isolate
from aos_tee_worker.keyring import Keyring, build_name
from aos_tee_worker.metrics import Metrics
from aos_tee_worker.nsm import NitroDevice
from aos_tee_worker.orders import EnclaveOptions, Orders
from aos_tee_worker.simulator import SimulatedDevice
from aos_tee_worker.tsm import TdxDevice
from aos_tee_worker.worker import TeeWorker

_log = structlog.get_logger(__name__)


def main(orders: Orders) -> None:
    """Run one life of the enclave. Raises StartupError when it cannot start, and what the engine failed with."""
    started = time.time()
    options = orders.options
    configure_logs("tee-worker", level=options.log_level)
    hide_values()
    structlog.contextvars.bind_contextvars(enclave=options.kind)
    for descriptor in (orders.listener, orders.heartbeat):
        os.set_inheritable(descriptor, False)
    gguf.check(options.serve.path)
    device = _device(options)
    if options.kind == "simulated":
        _isolate(options)
    else:
        keep_memory_private()
    # Measured at each start: what somebody else remembers of the file is no measurement.
    with loading.loaded(options.serve, digests=None) as model:
        offer = ModelOffer(name=model.card.name, sha256=model.card.sha256)
        keyring = Keyring(device, offer, build_name(), options.keyset_lifetime)
        worker = TeeWorker(model, keyring, Metrics(options.kind, started, orders.restarts))
        _introduce(options.kind, keyring)
        asyncio.run(_serve(worker, orders))


async def _serve(worker: TeeWorker, orders: Orders) -> None:
    listener = socket.socket(fileno=orders.listener)
    beating = asyncio.create_task(Heart(orders.heartbeat, worker.engine).beat())
    try:
        await server.serve(worker, listener, app.router)
    finally:
        beating.cancel()


def _device(options: EnclaveOptions) -> Device:
    match options.kind:
        case "nitro":
            return NitroDevice.open()
        case "tdx":
            return TdxDevice(_collateral(options.collateral))
        case "simulated" if options.simulator is not None:
            return SimulatedDevice(options.simulator)
    raise StartupError(f"There is no way to be an enclave of kind {options.kind} with these options.")


def _collateral(path: Path | None) -> dict[str, Any] | None:
    if path is None:
        return None
    try:
        found = parse(path.read_bytes())
    except (OSError, NotCanonical) as error:
        raise CollateralUnreadable(f"Cannot read {path}: {error}") from error
    if not isinstance(found, dict):
        raise CollateralUnreadable(f"{path} is no JSON object; give what a PCCS answers, as one object.")
    return found


def _isolate(options: EnclaveOptions) -> None:
    # Without a limit of its own it gets what is free now: enough for it, and no way to take what others get later.
    limit = memory.available() if options.memory_limit is None else options.memory_limit << 20
    report = isolate([options.serve.path], limit)
    _log.info("isolated", in_force=list(report.in_force), not_in_force=list(report.not_in_force))


def _introduce(kind: Kind, keyring: Keyring) -> None:
    keys = keyring.current()
    model = keys.keyset.model
    _log.info("enclave", model=model.name, sha256=model.sha256, keyset=keys.digest, build=keys.keyset.build)
    if kind == "simulated":
        _log.warning(
            "this enclave is SIMULATED: its attestations prove nothing, and its host can read all of its memory"
        )


class _WithoutValues(logging.Filter):
    """Replaces an exception by its types and places: messages of exceptions may quote what somebody has sealed."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and record.exc_info[1] is not None:
            record.msg = f"{record.getMessage().strip()}: {json.dumps(places(record.exc_info[1]))}"
            record.args, record.exc_info, record.exc_text = None, None, None
        return True


def places(error: BaseException) -> list[str]:
    """An exception's type and where it was raised, and of those behind it."""
    found: list[str] = []
    behind: BaseException | None = error
    while behind is not None:
        frames = traceback.extract_tb(behind.__traceback__)
        where = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames))
        found.append(f"{type(behind).__name__} at {where}")
        behind = behind.__cause__ or behind.__context__
    return found


def hide_values() -> None:
    """Keep the messages of unexpected exceptions out of the log, and their values with them."""
    for handler in logging.getLogger().handlers:
        handler.addFilter(_WithoutValues())


if __name__ == "__main__":
    try:
        main(Orders.model_validate_json(sys.argv[1]))
    except StartupError as error:
        typer.secho(f"tee-worker: {error}", fg="red", err=True)
        sys.exit(1)
