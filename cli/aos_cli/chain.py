"""`aos chain`: the network's contracts on an EVM chain, from the command line."""

import typer

from aos_cli import chain_anchor, chain_disputes, chain_registry, chain_status
from aos_cli.errors import MessageGroup

app = typer.Typer(
    cls=MessageGroup,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,  # they hold passwords
    help="The network on an EVM chain: contracts, operators with bonds, anchored logs, and challenges of operators that cheat.",
    epilog="Example: aos up --chain in one terminal, and aos chain status in another.",
)
_JOB = "636a5cf015a1a4c7480317f114d5b06d69476b9d0d5a67dbe53e9b59de72769b"
_OPERATOR = "0x5050A4F4b3f9338C3472dcC01A87C76A144b3c9c"
_WHERE = "--keystore operator-key.json --rpc https://rpc.example --deployment chain.json"

app.command(
    epilog="Example: aos chain deploy --keystore deployer-key.json --rpc https://rpc.example --deployment chain.json --bond-per-slot 0.00002"
)(chain_registry.deploy)
app.command(epilog=f"Example: aos chain register --width 60000 {_WHERE}")(chain_registry.register)
app.command(epilog=f"Example: aos chain update --width 120000 {_WHERE}")(chain_registry.update)
app.command(epilog=f"Example: aos chain leave {_WHERE}")(chain_registry.leave)
app.command(epilog=f"Example: aos chain withdraw {_WHERE}")(chain_registry.withdraw)
app.command(
    epilog="Example: aos chain anchor --keystore monitor-key.json --dispatcher https://dispatcher.example --dispatcher-address "
    f"{_OPERATOR} --rpc https://rpc.example --deployment chain.json"
)(chain_anchor.anchor)
app.command(
    epilog=f"Example: aos chain status; of one operator: aos chain status {_OPERATOR}; of one challenge: aos chain status 3 --json"
)(chain_status.status)
app.command(
    epilog=f"Example: aos chain challenge {_JOB} {_OPERATOR} --ground mismatch --keystore my-key.json; of two contradicting results: "
    "--ground equivocation --evidence first.json --evidence second.json"
)(chain_disputes.challenge)
app.command(
    epilog=f"Example: aos chain answer 3 {_WHERE}; against a challenge of membership: add --operator-config config-operator.yaml"
)(chain_disputes.answer)
app.command(epilog=f"Example: aos chain vote 3 --worker http://127.0.0.1:5005 {_WHERE}")(chain_disputes.vote)
app.command(epilog=f"Example: aos chain close 3 {_WHERE}")(chain_disputes.close)
app.command(epilog=f"Example: aos chain credit --withdraw {_WHERE}")(chain_disputes.credit)
