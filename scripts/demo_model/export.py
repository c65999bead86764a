"""Writing the GGUF file: weights in F16, norms in F32, vocabulary, chat template and facts about the model."""

from pathlib import Path

import gguf
import numpy as np
from tokenizers import Tokenizer

from demo_model.chat import BOS_ID, CHAT_TEMPLATE, EOS_ID, PAD_ID, SPECIAL_TOKENS
from demo_model.errors import ModelTooLargeError
from demo_model.network import Network, Shape
from demo_model.vocabulary import merges_of

LARGEST_FILE = 10_000_000  # bytes


def write_gguf(network: Network, tokenizer: Tokenizer, path: Path) -> None:
    """Write the model to `path`, complete or not at all; raise `ModelTooLargeError` over 10,000,000 bytes."""
    partial = path.with_name(path.name + ".part")
    try:
        writer = gguf.GGUFWriter(partial, "llama")
        _add_facts(writer)
        _add_shape(writer, network.shape)
        _add_vocabulary(writer, tokenizer)
        for name, weight in network.named_parameters():
            array = weight.detach().float().numpy()
            writer.add_tensor(name, array.astype(np.float16) if array.ndim > 1 else array)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        size = partial.stat().st_size
        if size > LARGEST_FILE:
            raise ModelTooLargeError(
                f"{path.name} has {size:,} bytes, more than {LARGEST_FILE:,}: use a smaller shape"
            )
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _add_facts(writer: gguf.GGUFWriter) -> None:
    writer.add_name("AOS demo 5M")
    writer.add_author("The AOS authors")
    writer.add_description("A very small language model that shows AOS at work. Not for real questions.")
    writer.add_license("apache-2.0")
    writer.add_size_label("5M")
    writer.add_languages(["en"])
    writer.add_tags(["text-generation", "demo"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _add_shape(writer: gguf.GGUFWriter, shape: Shape) -> None:
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.hidden)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.head_width)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(shape.norm_eps)
    writer.add_vocab_size(shape.vocab)


def _add_vocabulary(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    ids = tokenizer.get_vocab()
    tokens = sorted(ids, key=ids.__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(
        [gguf.TokenType.CONTROL if token in SPECIAL_TOKENS else gguf.TokenType.NORMAL for token in tokens]
    )
    writer.add_token_merges(merges_of(tokenizer))
    writer.add_bos_token_id(BOS_ID)
    writer.add_eos_token_id(EOS_ID)
    writer.add_pad_token_id(PAD_ID)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(CHAT_TEMPLATE)
