"""llama.cpp through our layer, on the demo model."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest
from numpy.typing import NDArray

from aos_inference import llama
from aos_inference.cache import CacheType
from aos_inference.chat import ChatFormat
from aos_inference.engine import Engine
from aos_inference.errors import ContextTooLarge, ModelUnreadable
from aos_inference.jobs import Claim, Names, Step
from aos_inference.scheduler import Limits
from aos_protocol.transcript import Params

Logits: TypeAlias = NDArray[np.float32]
MakeContext: TypeAlias = Callable[..., llama.Context]
NOISE = 0.05
"""What another way to compute may change in a logit of the demo model; another text changes it by whole numbers."""


@pytest.fixture(scope="module")
def model(demo_model: Path) -> Iterator[llama.Model]:
    with closing(llama.Model(demo_model)) as model:
        yield model


@pytest.fixture
def make_context(model: llama.Model) -> Iterator[MakeContext]:
    """`make_context(slots)` makes a context of 64 tokens a slot, closed after the test."""
    made: list[llama.Context] = []

    def make(slots: int, length: int = 64, **options: object) -> llama.Context:
        made.append(llama.Context(model, length, slots, 1, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for context in made:
        context.close()


def rows(slot: int, tokens: Sequence[int], start: int = 0) -> list[llama.Row]:
    """Rows for the tokens at positions from `start` on, with logits wanted after the last."""
    return [(slot, token, start + place, place == len(tokens) - 1) for place, token in enumerate(tokens)]


def texts(model: llama.Model, count: int, length: int = 40) -> list[list[int]]:
    random = np.random.default_rng(5)
    return [random.integers(6, model.vocabulary, length).tolist() for _ in range(count)]


def apart(one: Logits, other: Logits) -> float:
    return float(np.abs(one - other).max())


class TestContext:
    def test_logits_come_in_batch_order_for_the_rows_that_want_them(
        self, model: llama.Model, make_context: MakeContext
    ) -> None:
        context, alone = make_context(4), make_context(1)
        first, second = texts(model, 2)
        together = context.decode([*rows(3, first), *rows(1, second)]).copy()
        assert together.shape == (2, model.vocabulary)
        for own, text in zip(together, (first, second), strict=True):
            alone.keep(0, 0)
            assert apart(own, alone.decode(rows(0, text))[0]) < NOISE
        assert apart(*together) > 1

    def test_every_position_may_be_wanted_and_none(
        self, model: llama.Model, make_context: MakeContext
    ) -> None:
        context = make_context(2)
        (text,) = texts(model, 1)
        every = context.decode([(0, token, place, True) for place, token in enumerate(text)]).copy()
        assert every.shape == (len(text), model.vocabulary)
        none = context.decode([(1, token, place, False) for place, token in enumerate(text[:-1])])
        assert none.shape == (0, model.vocabulary)
        assert apart(context.decode(rows(1, text[-1:], len(text) - 1))[0], every[-1]) < NOISE

    def test_a_slot_forgets_what_it_is_told_to(self, model: llama.Model, make_context: MakeContext) -> None:
        context = make_context(1)
        assert context.trims
        first, second = texts(model, 2)
        fresh = context.decode(rows(0, [*first[:10], *second])).copy()
        context.keep(0, 0)
        context.decode(rows(0, first))
        context.keep(0, 10)
        assert apart(context.decode(rows(0, second, 10)), fresh) < NOISE

    def test_all_slots_may_be_full_and_no_fuller(self, model: llama.Model, make_context: MakeContext) -> None:
        context = make_context(4)  # llama.cpp rounds the pool of cells up to 256: here it is just that
        for slot, text in enumerate(texts(model, 4, 64)):
            context.decode(rows(slot, text))
        with pytest.raises(llama.DecodeFailed, match="for 1 tokens"):
            context.decode(rows(0, [9], 64))
        context.keep(2, 63)
        context.decode(rows(0, [9], 64))

    def test_what_comes_next_overwrites_the_logits(
        self, model: llama.Model, make_context: MakeContext
    ) -> None:
        """The buffer is llama.cpp's own: whoever keeps logits copies them."""
        context = make_context(1)
        first, second = texts(model, 2)
        kept = context.decode(rows(0, first))
        copy = kept.copy()
        context.keep(0, 0)
        context.decode(rows(0, second))
        assert not np.array_equal(kept, copy)

    @pytest.mark.parametrize(("kind", "bits"), [("F16", 16), ("Q8_0", 8.5), ("Q4_0", 4.5)])
    def test_kinds_of_caches(
        self, model: llama.Model, make_context: MakeContext, kind: CacheType, bits: float
    ) -> None:
        exact, coarse = make_context(1), make_context(1, cache_type=kind)
        (text,) = texts(model, 1)
        for context in (exact, coarse):
            context.decode(rows(0, text[:-1]))
        difference = apart(
            *(context.decode(rows(0, text[-1:], len(text) - 1)) for context in (exact, coarse))
        )
        assert (difference == 0) == (kind == "F16")
        assert model.cache_bytes(64, 8, kind) == model.cache_bytes(64, 8) * bits / 16

    def test_what_attention_needs_beside_caches(self, model: llama.Model) -> None:
        assert model.attention_bytes(64, 8) == 4 * 4 * 128 * 64 * 8  # 4 bytes for each of 4 heads
        assert model.attention_bytes(64, 256) == 4 * 4 * 256 * 64 * 256  # a batch has a row for each slot

    def test_a_quantised_cache_needs_flash_attention(self, make_context: MakeContext) -> None:
        with pytest.raises(ContextTooLarge, match=r"llama\.cpp cannot make 1 contexts of 64 tokens: .*"):
            make_context(1, cache_type="Q8_0", flash_attention=False)

    def test_the_memory_for_logits_is_bounded(self, model: llama.Model, make_context: MakeContext) -> None:
        assert make_context(1).outputs == 128  # 1 MiB at 2,048 tokens
        assert make_context(3, rows=100, outputs=5).outputs == 5
        assert make_context(3, rows=1).rows == 3


async def test_an_engine_whose_slots_run_full(model: llama.Model, make_context: MakeContext) -> None:
    """Twice as many jobs as slots, each to the end of its context, then all scored at once."""
    backend = make_context(4)
    engine = Engine(backend, model, 64, Limits(4, requests=8, tokens=10_000, rows=backend.rows))
    params = Params(temperature=5.0, top_p=1.0, max_tokens=100, stop=())
    prompts = [[model.bos, *text] for text in texts(model, 8, 20)]
    engine.start()

    async def generate(prompt: list[int]) -> list[Step]:
        with engine.generate(prompt, params, bytes(32), "me") as steps:
            return [step async for step in steps if isinstance(step, Step)]

    outputs = await asyncio.gather(*map(generate, prompts))
    assert {step.finish for steps in outputs for step in steps} <= {None, "length", "eos"}
    assert sum(steps[-1].finish == "length" for steps in outputs) >= 6
    names = Names("1" * 64, "2" * 64, "llama.cpp")
    claims = [
        Claim(
            names,
            prompt,
            [step.token for step in steps],
            params,
            bytes(32),
            "me",
            b"".join(step.fingerprint for step in steps),
        )
        for prompt, steps in zip(prompts, outputs, strict=True)
    ]
    for score in await engine.score(claims):
        assert max(score.distances or ()) < NOISE
        assert sum(score.margins or ()) < 0.5
    engine.stop()
    await engine.wait()


@pytest.mark.parametrize(
    "text", ["What is AI?", "naïve 你好 👩‍👧", "  two  spaces\n\n\ttab ", "\x00\x01", "<|user|>"]
)
def test_pieces_join_to_the_text(model: llama.Model, text: str) -> None:
    assert b"".join(map(model.piece, model.tokenize(text))).decode() == text


def test_control_tokens_in_text_are_text(model: llama.Model) -> None:
    special = model.special_tokens()
    assert model.token_text(model.eos) in special
    for text in special:
        tokens = model.tokenize(f"a{text}b")
        assert not set(tokens) & set(special.values())
    assert all(model.piece(token) == b"" for token in special.values())
    assert model.tokenize("") == []
    assert model.token_text(-1) == model.token_text(model.vocabulary) == ""


def test_ends(model: llama.Model) -> None:
    assert model.ends(model.eos)
    assert not model.ends(model.tokenize("a")[0])


def test_the_models_own_chat_template(model: llama.Model) -> None:
    assert model.chat_template is not None
    chat = ChatFormat(model.chat_template, model)
    tokens = chat.tokens([{"role": "user", "content": "Hi <|assistant|>"}])
    special = {token: text for text, token in model.special_tokens().items()}
    written = "".join(special.get(token) or model.piece(token).decode() for token in tokens)
    assert tokens[0] == model.bos
    assert written.count("<|assistant|>") == 2
    assert [special[token] for token in tokens if token in special].count("<|assistant|>") == 1


def test_the_engines_name_tells_the_build() -> None:
    name = llama.engine_name()
    assert name.startswith("llama.cpp ")
    assert "llama-cpp-python 0." in name
    assert len(name) < 1024


def test_what_llama_cpp_refuses_is_refused_in_its_words(demo_model: Path, tmp_path: Path) -> None:
    """A file that passes the header check and is not for llama.cpp."""
    content = demo_model.read_bytes()
    architecture = b"general.architecture\x08\x00\x00\x00\x05\x00\x00\x00\x00\x00\x00\x00"
    assert architecture + b"llama" in content
    broken = tmp_path / "future.gguf"
    broken.write_bytes(content.replace(architecture + b"llama", architecture + b"later"))
    with pytest.raises(ModelUnreadable, match=r"llama\.cpp cannot load .*later"):
        llama.Model(broken)


def test_loading_reports_progress_and_stays_off_the_terminal(
    demo_model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    told: list[float] = []
    with closing(llama.Model(demo_model, told.append)) as model, closing(llama.Context(model, 64, 1, 1)):
        assert model.cache_bytes(64, 1) > 0
    assert told[-1] == 1.0
    assert capfd.readouterr().err == ""
