"""The `tee-worker` command: it listens, and keeps an enclave running behind the socket (`supervisor`, `enclave`)."""

import asyncio
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import structlog
import typer

from aos_inference.errors import StartupError
from aos_inference.options import (
    DEFAULT_HOST,
    DEFAULT_PORT,
    DEFAULT_SLOTS,
    CacheTypeOption,
    ContextOption,
    FimOption,
    HostOption,
    LogLevelOption,
    ModelOption,
    NameOption,
    PortOption,
    ServeOptions,
    SlotsOption,
    SocketOption,
    ThreadsOption,
)
from aos_service.hardening import keep_memory_private
from aos_service.logs import configure_logs
from aos_tee_worker.orders import EnclaveOptions, Orders
from aos_tee_worker.sockets import listening
from aos_tee_worker.supervisor import Restarts, Supervisor, Timing, enclave_command

TIMING = Timing()

EnclaveKind: TypeAlias = Literal["nitro", "tdx", "simulated"]

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def serve(
    *,
    enclave: Annotated[EnclaveKind, typer.Option(help="What attests to it. simulated proves nothing.")],
    model: ModelOption,
    name: NameOption = "",
    uds: SocketOption = None,
    vsock: Annotated[
        int | None, typer.Option(min=1, max=2**32 - 2, help="Listen on this vsock port in place of TCP.")
    ] = None,
    host: HostOption = DEFAULT_HOST,
    port: PortOption = DEFAULT_PORT,
    simulator: Annotated[
        Path | None, typer.Option(help="Folder of the simulated hardware's root, made if it is not there.")
    ] = None,
    collateral: Annotated[
        Path | None, typer.Option(help="For tdx: JSON of what a PCCS says of this platform.")
    ] = None,
    memory_limit: Annotated[
        int | None,
        typer.Option(
            min=64, help="For simulated: MiB that the enclave may take. Default: what is free at the start."
        ),
    ] = None,
    keyset_lifetime: Annotated[
        int, typer.Option(min=60, max=30 * 86_400, help="Seconds until the enclave's keys are replaced.")
    ] = 86_400,
    context: ContextOption = None,
    slots: SlotsOption = DEFAULT_SLOTS,
    threads: ThreadsOption = None,
    cache_type: CacheTypeOption = "F16",
    fim: FimOption = None,
    log_level: LogLevelOption = "info",
) -> None:
    """Serve one GGUF model from an enclave, with answers that its keys sign and its hardware attests to.

    It keeps the enclave running: one that crashes or hangs is started again, with fresh keys.

    Simulated, anywhere; it shows how all of it works and proves nothing:

      tee-worker --enclave simulated --simulator ~/.aos/simulator --model models/aos-demo-5m.F16.gguf --uds /tmp/enclave.sock

      curl -s --unix-socket /tmp/enclave.sock "http://enclave/attestation?nonce=$(openssl rand -hex 32)"

    Inside an AWS Nitro Enclave (scripts/run_tee.sh builds and runs one), where only vsock leads out:

      tee-worker --enclave nitro --model /model.gguf --vsock 5005
    """
    keep_memory_private()
    configure_logs("tee-worker", level=log_level)
    structlog.contextvars.bind_contextvars(enclave=enclave)
    options = EnclaveOptions(
        kind=enclave,
        simulator=simulator,
        collateral=collateral,
        memory_limit=memory_limit,
        keyset_lifetime=keyset_lifetime,
        log_level=log_level,
        serve=ServeOptions(
            path=model,
            name=name or model.name,
            context=context,
            slots=slots,
            threads=threads,
            cache_type=cache_type,
            fim=fim,
        ),
    )
    _check_options(options, uds, vsock)
    try:
        with listening(host, port, uds, vsock) as listener:
            status = asyncio.run(_supervise(options, listener.fileno()))
    except StartupError as error:
        typer.secho(f"tee-worker: {error}", fg="red", err=True)
        raise typer.Exit(1) from error
    raise typer.Exit(status)


async def _supervise(options: EnclaveOptions, listener: int) -> int:
    def command(heartbeat: int, restarts: Restarts) -> list[str]:
        orders = Orders(options=options, listener=listener, heartbeat=heartbeat, restarts=restarts)
        return enclave_command(orders.model_dump_json())

    return await Supervisor(command, [listener], TIMING).run()


def _check_options(options: EnclaveOptions, uds: Path | None, vsock: int | None) -> None:
    """Refuse options that do not go together: one that had no effect would be taken for one that had."""
    if uds is not None and vsock is not None:
        raise typer.BadParameter("give one of --uds and --vsock")
    if (options.simulator is not None) != (options.kind == "simulated"):
        raise typer.BadParameter("--simulator DIR belongs to --enclave simulated, which needs it")
    if options.collateral is not None and options.kind != "tdx":
        raise typer.BadParameter("--collateral belongs to --enclave tdx")
    if options.memory_limit is not None and options.kind != "simulated":
        raise typer.BadParameter(
            "--memory-limit belongs to --enclave simulated: a real enclave has the memory that its host gave it"
        )
