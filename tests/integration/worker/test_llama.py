"""llama.cpp through our layer, on the demo model."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.integration.worker.conftest import QUANTISED, quantised

from aos_inference import llama
from aos_inference.chat import ChatFormat
from aos_inference.errors import ModelUnreadable
from aos_inference.scheduler import PREFILL_CHUNK

Logits = NDArray[np.float32]
STEPS = 12


MakeContext: TypeAlias = Callable[..., llama.Context]


@pytest.fixture(scope="module")
def model(demo_model: Path) -> Iterator[llama.Model]:
    with closing(llama.Model(demo_model)) as model:
        yield model


@pytest.fixture(scope="module", params=["F16", *QUANTISED])
def any_model(
    request: pytest.FixtureRequest, demo_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[llama.Model]:
    """The demo model as it is and in the usual quantisations, which run through other routines of llama.cpp."""
    path = demo_model
    if request.param in QUANTISED:
        path = quantised(demo_model, request.param, tmp_path_factory.mktemp("quantised"))
    with closing(llama.Model(path)) as model:
        yield model


@pytest.fixture
def context() -> Iterator[MakeContext]:
    """Makes settled contexts of 1,024 tokens, closed after the test."""
    made: list[llama.Context] = []

    def make(model: llama.Model, slots: int, threads: int = 1, length: int = 1024) -> llama.Context:
        made.append(llama.Context(model, length, slots, threads))
        made[-1].settle()
        return made[-1]

    yield make
    for context in made:
        context.close()


def read(context: llama.Context, slot: int, prompt: list[int]) -> Logits:
    """Prefill as the engine does; the logits after the prompt."""
    for start in range(0, len(prompt), PREFILL_CHUNK):
        end = min(start + PREFILL_CHUNK, len(prompt))
        logits = context.prefill(slot, prompt[start:end], start, last=end == len(prompt))
    assert logits is not None
    return logits


def alone(context: llama.Context, slot: int, prompt: list[int]) -> list[Logits]:
    """Greedy logits of a prompt that has the context to itself."""
    rows = [read(context, slot, prompt)]
    for position in range(len(prompt), len(prompt) + STEPS):
        rows.append(context.decode([(slot, int(rows[-1].argmax()), position)])[0])
    return rows


def prompts(model: llama.Model) -> list[list[int]]:
    random = np.random.default_rng(5)
    lengths = (30, 3, 300, PREFILL_CHUNK + 1, 17, 600, PREFILL_CHUNK, 200)
    return [random.integers(6, model.vocabulary, length).tolist() for length in lengths]


def equal(first: list[Logits], second: list[Logits]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_neighbours_do_not_change_a_single_bit(any_model: llama.Model, context: MakeContext) -> None:
    """The ground that determinism stands on: eight sequences that join one by one, against each alone."""
    first, second = context(any_model, slots=8), context(any_model, slots=8)
    expected = [alone(first, 0, prompt) for prompt in prompts(any_model)]
    rows: dict[int, list[Logits]] = {}
    waiting = list(enumerate(prompts(any_model)))
    lengths = [len(prompt) for prompt in prompts(any_model)]
    while waiting or any(len(row) <= STEPS for row in rows.values()):
        if waiting:
            job, prompt = waiting.pop()
            rows[job] = [read(second, 7 - job, prompt)]
        active = [job for job in rows if len(rows[job]) <= STEPS]
        feed = [(7 - job, int(rows[job][-1].argmax()), lengths[job] + len(rows[job]) - 1) for job in active]
        for job, logits in zip(active, second.decode(feed), strict=True):
            rows[job].append(logits)
    assert all(equal(expected[job], rows[job]) for job in range(8))


def test_threads_slots_and_what_ran_before_do_not_either(
    any_model: llama.Model, context: MakeContext
) -> None:
    prompt = prompts(any_model)[2]
    expected = alone(context(any_model, slots=1), 0, prompt)
    two_threads, many_slots = context(any_model, slots=1, threads=2), context(any_model, slots=16)
    alone(many_slots, 3, prompts(any_model)[5])
    assert equal(alone(two_threads, 0, prompt), expected)
    assert equal(alone(many_slots, 3, prompt), expected)
    assert equal(alone(context(any_model, slots=2, length=512), 1, prompt), expected)


def test_as_many_rows_share_a_batch_as_change_nothing(any_model: llama.Model, context: MakeContext) -> None:
    settled = context(any_model, slots=4)
    assert 1 <= settled.batch_rows <= 4
    assert context(any_model, slots=4, threads=2).batch_rows == settled.batch_rows
    assert context(any_model, slots=1).batch_rows == 1


def test_logits_are_copies(model: llama.Model, context: MakeContext) -> None:
    one = context(model, slots=1)
    first = read(one, 0, prompts(model)[1])
    kept = first.copy()
    one.decode([(0, 9, 3)])
    assert np.array_equal(first, kept)


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
