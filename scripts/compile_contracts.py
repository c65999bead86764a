"""Compiles the contracts with Vyper; `scripts/compile_contracts.sh` runs this in Vyper's own environment."""

import argparse
import json
import sys
from pathlib import Path

import vyper
from vyper.compiler import compile_code
from vyper.compiler.input_bundle import FilesystemInputBundle
from vyper.compiler.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "chain" / "contracts"
COMPILED = ROOT / "chain" / "aos_chain" / "compiled"
EVM = "cancun"


def main() -> int:
    """Compile, or with --check compare; the exit status is 1 when something is stale."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with what is committed, change nothing")
    check = parser.parse_args().check
    sources = {path.stem: path for path in sorted(SOURCES.glob("*.vy"))}
    stale = [path.name for path in COMPILED.glob("*.json") if path.stem not in sources]
    for name, source in sources.items():
        target, text = COMPILED / f"{name}.json", compiled(source)
        if check and (not target.is_file() or target.read_text("utf-8") != text):
            stale.append(target.name)
        elif not check:
            target.write_text(text, encoding="utf-8")
    if stale:
        print(f"stale, run scripts/compile_contracts.sh and commit: {', '.join(stale)}", file=sys.stderr)
        return 1
    print(f"{len(sources)} contracts, Vyper {vyper.__version__}, EVM {EVM}")
    return 0


def compiled(source: Path) -> str:
    """The JSON text of one contract; the same for the same sources, wherever they lie."""
    code = source.read_text("utf-8")
    settings = Settings(evm_version=EVM)
    made = compile_code(
        code,
        contract_path=source.name,
        resolved_path=source,
        input_bundle=FilesystemInputBundle([SOURCES]),
        output_formats=["abi", "bytecode"],
        settings=settings,
        no_bytecode_metadata=True,
    )
    document = {
        "contract": source.stem,
        "compiler": f"vyper {vyper.__version__}, EVM {EVM}",
        "abi": made["abi"],
        "bytecode": made["bytecode"],
    }
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    sys.exit(main())
