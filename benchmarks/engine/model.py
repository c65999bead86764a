"""A GGUF file of TinyLlama-1.1B's shape with random weights, so that speed can be measured without a download.

It takes 640 MB under the user's cache folder. What a model computes costs the same whatever its weights are. They are symmetric around 0 and small enough for finite logits, and the
output's scale gives a spread of logits (standard deviation 3.5) like that of a trained model, on which the cost of sampling depends.
The output rows of control and byte tokens are zero: their logits stay 3.5 deviations below the greatest, so that practically every job
runs to its `max_tokens`, and writes whole characters.

The vocabulary spells one character a token (after the control and byte tokens: every character of some wide scripts), so that a text
of n characters has n tokens in every server.
"""

import os
import shutil
from pathlib import Path
from typing import Final

import gguf
import numpy as np
from numpy.typing import NDArray

LAYERS: Final = 22
WIDTH: Final = 2048
HEADS: Final = 32
KV_HEADS: Final = 4
FEED_FORWARD: Final = 5632
VOCABULARY: Final = 32_000
CONTEXT: Final = 2048

_NAME: Final = "random-1.1b.Q4_0.gguf"
_BOS, _EOS = 1, 2
_FIRST_CHARACTER: Final = 3 + 256
# CJK ideographs and Hangul syllables: assigned without gaps, three bytes of UTF-8 each.
_SCRIPTS: Final = (range(0x4E00, 0x9FA5), range(0xAC00, 0xD7A4))
_WORDS: Final = (
    "the",
    "river",
    "a",
    "light",
    "of",
    "water",
    "stone",
    "and",
    "night",
    "tree",
    "in",
    "bird",
    "sea",
    "house",
)
_HIDDEN_STD: Final = 0.02
_LOGIT_STD: Final = 3.5

Bytes = NDArray[np.uint8]


def path() -> Path:
    """Where the file is, made at the first call."""
    target = folder() / _NAME
    if not target.exists():
        part = target.with_suffix(".part")
        _write(part)
        part.replace(target)
    return target


def endless(original: Path) -> Path:
    """A copy of the demo model that never ends by itself: another token, which it never writes, is its end of sequence."""
    target = folder() / f"endless-{original.name}"
    shutil.copyfile(original, target)
    reader = gguf.GGUFReader(target, "r+")
    _field(reader, "tokenizer.ggml.eos_token_id")[:] = _field(reader, "tokenizer.ggml.padding_token_id")
    # llama.cpp knows this token by its name, too, and the list's first parts are its own name and sizes.
    tokens = reader.fields["tokenizer.ggml.tokens"]
    end = next(tokens.parts[part] for part in tokens.data if bytes(tokens.parts[part]) == b"<|endoftext|>")
    end[:] = list(b"<|no_end_txt|>"[: len(end)])
    return target


def words(count: int, salt: int) -> str:
    """English words for a trained model, of one to three tokens each."""
    drawn = np.random.default_rng(salt).choice(_WORDS, count)
    return f"Tell me about {' '.join(drawn)}."


def text(tokens: int, salt: int) -> str:
    """A text of so many tokens, another for every salt."""
    drawn = np.random.default_rng(salt).integers(_FIRST_CHARACTER, VOCABULARY, tokens)
    alphabet = _alphabet()
    return "".join(alphabet[token - _FIRST_CHARACTER] for token in drawn)


def folder() -> Path:
    """Where the benchmarks keep what they made: a folder under the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    found = (Path(base) if base.startswith("/") else Path.home() / ".cache") / "aos" / "benchmarks"
    found.mkdir(parents=True, exist_ok=True)
    return found


def _field(reader: gguf.GGUFReader, name: str) -> NDArray[np.uint32]:
    field = reader.fields[name]
    value: NDArray[np.uint32] = field.parts[field.data[0]]
    return value


def _alphabet() -> list[str]:
    return [chr(code) for script in _SCRIPTS for code in script][: VOCABULARY - _FIRST_CHARACTER]


def _write(target: Path) -> None:
    writer = gguf.GGUFWriter(target, "llama")
    writer.add_name("random 1.1B")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(VOCABULARY)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _add_vocabulary(writer)
    _add_weights(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_vocabulary(writer: gguf.GGUFWriter) -> None:
    characters = _alphabet()
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *characters]
    types = [gguf.TokenType.UNKNOWN, *[gguf.TokenType.CONTROL] * 2, *[gguf.TokenType.BYTE] * 256]
    types += [gguf.TokenType.NORMAL] * len(characters)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(rank) for rank in range(len(tokens))])
    writer.add_token_types(types)
    writer.add_bos_token_id(_BOS)
    writer.add_eos_token_id(_EOS)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)


def _add_weights(writer: gguf.GGUFWriter) -> None:
    random = np.random.default_rng(0)
    kv_width = WIDTH // HEADS * KV_HEADS
    shapes = {
        "attn_q": (WIDTH, WIDTH),
        "attn_k": (kv_width, WIDTH),
        "attn_v": (kv_width, WIDTH),
        "attn_output": (WIDTH, WIDTH),
        "ffn_gate": (FEED_FORWARD, WIDTH),
        "ffn_up": (FEED_FORWARD, WIDTH),
        "ffn_down": (WIDTH, FEED_FORWARD),
    }
    ones = np.ones(WIDTH, np.float32)
    _add_q4_0(writer, "token_embd", (VOCABULARY, WIDTH), random)
    for layer in range(LAYERS):
        for name, shape in shapes.items():
            _add_q4_0(writer, f"blk.{layer}.{name}", shape, random)
        writer.add_tensor(f"blk.{layer}.attn_norm.weight", ones)
        writer.add_tensor(f"blk.{layer}.ffn_norm.weight", ones)
    writer.add_tensor("output_norm.weight", ones)
    output = _q6_k((VOCABULARY, WIDTH), random)
    output[:_FIRST_CHARACTER] = 0
    writer.add_tensor("output.weight", output, raw_dtype=gguf.GGMLQuantizationType.Q6_K)


def _add_q4_0(
    writer: gguf.GGUFWriter, name: str, shape: tuple[int, int], random: np.random.Generator
) -> None:
    """Blocks of 32 weights: a half-precision scale, then 32 numbers of 4 bits that stand for -8 to 7; here -7 to 7."""
    rows, columns = shape
    blocks = np.empty((rows, columns // 32, 18), np.uint8)
    blocks[..., :2] = _half(_HIDDEN_STD / np.arange(-7, 8).std())
    pairs = np.array([low | high << 4 for low in range(1, 16) for high in range(1, 16)], np.uint8)
    blocks[..., 2:] = pairs[random.integers(0, len(pairs), (rows, columns // 32, 16), dtype=np.uint8)]
    data = blocks.reshape(rows, -1)
    writer.add_tensor(f"{name}.weight", data, raw_dtype=gguf.GGMLQuantizationType.Q4_0)


def _q6_k(shape: tuple[int, int], random: np.random.Generator) -> Bytes:
    """Blocks of 256 weights: 4 low bits and 2 high bits of each (-32 to 31), 16 scales (8 bits) and one for all (half).

    The scales alternate in sign, so that the numbers' mean, which is not 0, cancels.
    """
    rows, columns = shape
    blocks = np.empty((rows, columns // 256, 210), np.uint8)
    blocks[..., :192] = random.integers(0, 256, (rows, columns // 256, 192), dtype=np.uint8)
    scales = np.where(random.random((rows, columns // 256, 16)) < 0.5, -64, 64).astype(np.int8)
    blocks[..., 192:208] = scales.view(np.uint8)
    weight_std = _LOGIT_STD / np.sqrt(columns)
    blocks[..., 208:] = _half(weight_std / 64 / np.arange(-32, 32).std())
    return blocks.reshape(rows, -1)


def _half(value: float) -> Bytes:
    return np.array([value], "<f2").view(np.uint8)
