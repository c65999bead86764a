"""The network: a Llama decoder in torch, laid out as llama.cpp's `llama` architecture computes it."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Shape:
    """Sizes of the network. Every matrix row is a multiple of 256, so that K-quants apply to all of them."""

    vocab: int = 2048
    width: int = 256
    layers: int = 5
    heads: int = 4
    kv_heads: int = 2
    hidden: int = 768
    context: int = 1024
    rope_base: float = 10_000.0
    norm_eps: float = 1e-5

    @property
    def head_width(self) -> int:
        """Channels of one attention head."""
        return self.width // self.heads


def rotations(shape: Shape, length: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary embedding, each of shape (length, head_width / 2)."""
    half = torch.arange(0, shape.head_width, 2, dtype=torch.float32) / shape.head_width
    angles = torch.outer(torch.arange(length, dtype=torch.float32), shape.rope_base**-half)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotate neighbouring channel pairs of (batch, heads, length, head_width).

    llama.cpp's `llama` architecture pairs channels 2i and 2i+1, not i and i + half as Hugging Face does,
    so weights trained with this need no permutation on export.
    """
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cosines - odd * sines, even * sines + odd * cosines), dim=-1).flatten(-2)


class Block(nn.Module):
    """One decoder layer: grouped-query attention, then a SwiGLU feed-forward part, each on a residual."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        kv_width = shape.kv_heads * shape.head_width
        self.attn_norm = nn.RMSNorm(shape.width, eps=shape.norm_eps)
        self.attn_q = nn.Linear(shape.width, shape.width, bias=False)
        self.attn_k = nn.Linear(shape.width, kv_width, bias=False)
        self.attn_v = nn.Linear(shape.width, kv_width, bias=False)
        self.attn_output = nn.Linear(shape.width, shape.width, bias=False)
        self.ffn_norm = nn.RMSNorm(shape.width, eps=shape.norm_eps)
        self.ffn_gate = nn.Linear(shape.width, shape.hidden, bias=False)
        self.ffn_up = nn.Linear(shape.width, shape.hidden, bias=False)
        self.ffn_down = nn.Linear(shape.hidden, shape.width, bias=False)

    def forward(self, x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        """Map (batch, length, width) to the same shape."""
        x = x + self._attend(self.attn_norm(x), cosines, sines)
        y = self.ffn_norm(x)
        down: Tensor = self.ffn_down(functional.silu(self.ffn_gate(y)) * self.ffn_up(y))
        return x + down

    def _attend(self, y: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        query = rotate(self._split(self.attn_q(y)), cosines, sines)
        key = rotate(self._split(self.attn_k(y)), cosines, sines)
        group = self.shape.heads // self.shape.kv_heads
        mixed = functional.scaled_dot_product_attention(
            query,
            key.repeat_interleave(group, dim=1),
            self._split(self.attn_v(y)).repeat_interleave(group, dim=1),
            is_causal=True,
        )
        out: Tensor = self.attn_output(mixed.transpose(1, 2).reshape(y.shape))
        return out

    def _split(self, y: Tensor) -> Tensor:
        return y.view(y.shape[0], y.shape[1], -1, self.shape.head_width).transpose(1, 2)


class Network(nn.Module):
    """The whole decoder; the token embedding is also the output matrix."""

    cosines: Tensor
    sines: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.token_embd = nn.Embedding(shape.vocab, shape.width)
        self.blk = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.output_norm = nn.RMSNorm(shape.width, eps=shape.norm_eps)
        cosines, sines = rotations(shape, shape.context)
        self.register_buffer("cosines", cosines, persistent=False)
        self.register_buffer("sines", sines, persistent=False)
        self._initialise()

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of shape (batch, length, vocab) for token ids of shape (batch, length)."""
        length = tokens.shape[1]
        x = self.token_embd(tokens)
        for block in self.blk:
            x = block(x, self.cosines[:length], self.sines[:length])
        return functional.linear(self.output_norm(x), self.token_embd.weight)

    def _initialise(self) -> None:
        residual_scale = 1 / math.sqrt(2 * self.shape.layers)
        for name, weight in self.named_parameters():
            if weight.dim() < 2:
                continue
            scale = residual_scale if name.endswith(("attn_output.weight", "ffn_down.weight")) else 1.0
            nn.init.normal_(
                weight, std=0.02 * scale if "token_embd" in name else scale / math.sqrt(weight.shape[1])
            )
