#!/usr/bin/env python3
"""Make the demo model: learn a vocabulary, train a small Llama on the CPU, write one GGUF file."""

import argparse
import hashlib
import sys
from pathlib import Path

from demo_model.corpus import Corpus
from demo_model.errors import DemoModelError, MissingDependencyError

_DESCRIPTION = """\
Trains the demo model from nothing, on the CPU: questions and answers written for this project, generated
stories and small tasks, and the docstrings of the Python standard library on this machine. Writes one GGUF
file that llama.cpp runs as it is, and prints its held-out losses and its SHA-256."""
_EXAMPLES = """\
examples:
  pip install -e '.[train]'
  python scripts/train_demo_model.py --out models/aos-demo-5m.F16.gguf
  python scripts/train_demo_model.py --out /tmp/tiny.gguf --steps 2     # a trial run, about half a minute

The same seed, packages, Python version, processor type and --threads give the same file. The default number
of steps takes about 20 minutes on one core with bfloat16 instructions (AVX-512 BF16 or AMX), longer without."""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line options: out (Path), steps, seed, threads."""
    parser = argparse.ArgumentParser(
        description=_DESCRIPTION, epilog=_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="the GGUF file to write; replaced when it exists"
    )
    parser.add_argument(
        "--steps", type=_positive, default=1800, help="training steps of about 4,096 tokens (default 1800)"
    )
    parser.add_argument("--seed", type=int, default=1, help="seed of corpus, weights and batches (default 1)")
    parser.add_argument("--threads", type=_positive, default=2, help="processor threads to use (default 2)")
    return parser.parse_args(arguments)


def make_model(options: argparse.Namespace) -> None:
    """Train and write the model that `options` ask for, printing what it is; raises `DemoModelError`."""
    if not options.out.parent.is_dir():
        raise DemoModelError(f"the folder {options.out.parent} does not exist; make it first")
    try:
        import torch
        from demo_model.export import write_gguf
        from demo_model.network import Network, Shape
        from demo_model.training import Plan, evaluate, train
        from demo_model.vocabulary import train_vocabulary
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"the package {error.name} is missing; install the extra: pip install -e '.[train]'"
        ) from error
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    corpus, shape = Corpus.load(), Shape()
    tokenizer = train_vocabulary(corpus.vocabulary_text(options.seed), shape.vocab)
    network = Network(shape)
    print(f"{sum(weight.numel() for weight in network.parameters()):,} parameters, {shape.vocab} tokens")
    train(network, corpus, tokenizer, Plan(options.steps, options.seed))
    write_gguf(network, tokenizer, options.out)
    for name, documents in corpus.held_out().items():
        print(f"held-out loss, {name}: {evaluate(network, tokenizer, documents):.3f} nats a token")
    data = options.out.read_bytes()
    print(f"{options.out}: {len(data):,} bytes, SHA-256 {hashlib.sha256(data).hexdigest()}")


def main() -> int:
    """Run the command line; return its exit status."""
    options = parse_arguments()
    try:
        make_model(options)
    except DemoModelError as error:
        print(f"train_demo_model: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ntrain_demo_model: stopped; nothing was written", file=sys.stderr)
        return 130
    return 0


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
