"""The training loop: batches of similar length, AdamW, one line of progress."""

import math
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TextIO

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from demo_model.chat import PAD_ID
from demo_model.corpus import Corpus
from demo_model.network import Network

_IGNORED = -100
_LENGTH_STEP = 32  # batches come in few lengths: the CPU kernels are prepared once for each shape


@dataclass(frozen=True)
class Plan:
    """How long and how fast to learn."""

    steps: int
    seed: int
    batch_tokens: int = 4096
    peak_rate: float = 3e-3
    warmup_steps: int = 100
    weight_decay: float = 0.1
    pool: int = 4096  # documents sorted by length together

    def rate(self, step: int) -> float:
        """Learning rate of a step: a linear rise, then a linear fall to a hundredth."""
        rise = min(1.0, (step + 1) / self.warmup_steps)
        return self.peak_rate * rise * (1 - 0.99 * step / self.steps)


def batches(corpus: Corpus, tokenizer: Tokenizer, plan: Plan, context: int) -> Iterator[Tensor]:
    """Batches of token ids (documents, length) without end, padded with PAD, each of about `batch_tokens`."""
    rng = random.Random(plan.seed)
    documents = corpus.documents(plan.seed)
    while True:
        encoded = tokenizer.encode_batch(list(islice(documents, plan.pool)), add_special_tokens=False)
        rows = sorted((item.ids[: context + 1] for item in encoded), key=len)
        groups = _group(rows, plan.batch_tokens)
        rng.shuffle(groups)
        for group in groups:
            yield padded(group)


def padded(rows: list[list[int]]) -> Tensor:
    """Rows of token ids as one tensor (rows, length), filled up with PAD on the right to 1 + a multiple of 32."""
    width = _padded_length(max(map(len, rows)))
    return torch.tensor([row + [PAD_ID] * (width - len(row)) for row in rows])


def next_token_loss(network: Network, tokens: Tensor) -> Tensor:
    """Mean cross-entropy in nats of each token given those before it; PAD is not counted."""
    logits = network(tokens[:, :-1])
    targets = tokens[:, 1:].masked_fill(tokens[:, 1:] == PAD_ID, _IGNORED)
    return functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=_IGNORED)


def train(
    network: Network, corpus: Corpus, tokenizer: Tokenizer, plan: Plan, out: TextIO = sys.stderr
) -> None:
    """Train `network` in place, on the CPU with bfloat16 arithmetic over float32 weights."""
    decayed = [weight for weight in network.parameters() if weight.dim() > 1]
    others = [weight for weight in network.parameters() if weight.dim() <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": plan.weight_decay}, {"params": others, "weight_decay": 0.0}],
        betas=(0.9, 0.95),
    )
    progress = Progress(plan.steps, out)
    network.train()
    for step, tokens in enumerate(
        islice(batches(corpus, tokenizer, plan, network.shape.context), plan.steps)
    ):
        for group in optimiser.param_groups:
            group["lr"] = plan.rate(step)
        with torch.autocast("cpu", torch.bfloat16):
            loss = next_token_loss(network, tokens)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        progress.show(step + 1, loss.item())


def evaluate(network: Network, tokenizer: Tokenizer, documents: list[str]) -> float:
    """Mean loss in nats a token over `documents`, in float32."""
    network.eval()
    rows = sorted((tokenizer.encode(text, add_special_tokens=False).ids for text in documents), key=len)
    total = count = 0.0
    with torch.no_grad():
        for group in _group([row[: network.shape.context + 1] for row in rows], 8192):
            targets = sum(len(row) - 1 for row in group)
            total += next_token_loss(network, padded(group)).item() * targets
            count += targets
    return total / count


class Progress:
    """One line that is rewritten at most four times a second: bar, step, loss, time left."""

    def __init__(self, steps: int, out: TextIO) -> None:
        self._steps, self._out = steps, out
        self._start = time.monotonic()
        self._shown = -math.inf
        self._loss: float | None = None

    def show(self, step: int, loss: float) -> None:
        """Report a finished step; the printed loss is a running mean over about 20 steps."""
        self._loss = loss if self._loss is None else 0.95 * self._loss + 0.05 * loss
        now = time.monotonic()
        if now - self._shown < 0.25 and step < self._steps:
            return
        self._shown = now
        left = (now - self._start) / step * (self._steps - step)
        bar = "#" * (30 * step // self._steps)
        text = f"[{bar:<30}] step {step}/{self._steps}  loss {self._loss:.3f}  left {left // 60:.0f}m{left % 60:02.0f}s"
        self._out.write(f"\r{text}{chr(10) if step == self._steps else ''}")
        self._out.flush()


def _padded_length(length: int) -> int:
    return 1 + math.ceil((length - 1) / _LENGTH_STEP) * _LENGTH_STEP


def _group(rows: list[list[int]], batch_tokens: int) -> list[list[list[int]]]:
    """Cut rows, sorted by length, into groups of at most `batch_tokens` inputs when padded (one row at least)."""
    groups: list[list[list[int]]] = []
    for row in rows:
        length = _padded_length(len(row)) - 1
        if groups and _fits(len(groups[-1]) + 1, len(groups[-1][0]), length, batch_tokens):
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def _fits(rows: int, shortest: int, length: int, batch_tokens: int) -> bool:
    return rows * length <= batch_tokens and length <= _padded_length(shortest * 5 // 4)
