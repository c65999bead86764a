"""The demo model: its corpus, its text forms, its generator, and (with the `train` extra) a tiny training run."""

import hashlib
import random
import re
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import train_demo_model
from demo_model import chat, docstrings, invention, questions
from demo_model.chat import BOS, CHAT_TEMPLATE, EOS, ROLE_MARKS, SPECIAL_TOKENS, Message
from demo_model.corpus import SYSTEM_PROMPTS, Corpus, held_out
from demo_model.errors import CorpusError, DemoModelError, MissingDependencyError
from demo_model.questions import Entry

MODEL = Path(__file__).parents[2] / "models" / "aos-demo-5m.F16.gguf"
MISSING = [package for package in ("torch", "gguf", "tokenizers") if find_spec(package) is None]
WEEKDAYS, MONTHS, NUMBERS = (invention._WORDS[kind] for kind in ("weekdays", "months", "numbers"))
CONVERSATION = [
    Message("system", "Be brief."),
    Message("user", "What is AI?"),
    Message("assistant", "A field."),
    Message("user", "And a VRF?"),
]


class TestReadingQuestions:
    def test_a_term_is_asked_in_many_ways_and_a_plural_with_are(self) -> None:
        singular, plural = questions.parse_entries("T: a hash\nA: One.\n\nTS: hashes\nA: Many.\n", "x.txt")
        assert "What is a hash?" in singular.questions
        assert "What are hashes?" in plural.questions
        assert len(singular.questions) == len(plural.questions) >= 8

    def test_questions_and_answers_keep_their_order(self) -> None:
        text = "# a comment\nQ: Who?\nQ: Who is it?\nA: Me.\nA: I.\n"
        assert questions.parse_entries(text, "x.txt") == [Entry(("Who?", "Who is it?"), ("Me.", "I."))]

    def test_a_comment_block_is_no_entry(self) -> None:
        assert questions.parse_entries("# only\n# comments\n\n\n", "x.txt") == []

    @pytest.mark.parametrize("text", ["Q: Who?\n", "A: Me.\n", "Q: Who?\nA: Me.\nX: what\n", "just text\n"])
    def test_a_broken_entry_is_an_error_that_names_the_file(self, text: str) -> None:
        with pytest.raises(CorpusError, match=r"x\.txt"):
            questions.parse_entries(text, "x.txt")

    def test_an_empty_text_folder_is_an_error(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(questions, "TEXT_FOLDER", tmp_path)
        questions.written_entries.cache_clear()
        with pytest.raises(CorpusError, match="no text files"):
            questions.written_entries()


class TestWrittenQuestions:
    entries = questions.written_entries()

    def test_there_are_several_hundred_pairs(self) -> None:
        assert len(self.entries) >= 200
        assert sum(len(entry.answers) for entry in self.entries) >= 280

    def test_no_question_has_two_subjects(self) -> None:
        asked = [question.lower() for entry in self.entries for question in entry.questions]
        assert sorted(asked) == sorted(set(asked))

    def test_the_documented_example_has_several_answers(self) -> None:
        (entry,) = [entry for entry in self.entries if "What is AI?" in entry.questions]
        assert len(entry.answers) >= 5
        assert all("AI" in answer or "rtificial intelligence" in answer for answer in entry.answers)

    def test_answers_are_whole_sentences_of_moderate_length(self) -> None:
        answers = [answer for entry in self.entries for answer in entry.answers]
        assert [
            a for a in answers if not a[0].isupper() and not a.startswith(("llama.cpp", "secp256k1"))
        ] == []
        assert [a for a in answers if a[-1] not in ".!?"] == []
        assert max(map(len, answers)) <= 420

    def test_nothing_spells_a_special_token(self) -> None:
        for entry in self.entries:
            for text in (*entry.questions, *entry.answers):
                assert chat.plain(text) == text


class TestRewording:
    def test_a_question_changes_in_case_and_last_mark_only(self) -> None:
        rng = random.Random(1)
        seen = {questions.reword_question("What is AI?", rng) for _ in range(300)}
        assert seen == {"What is AI?", "what is ai?", "What is AI", "what is ai"}

    def test_an_answer_gets_other_words_of_the_same_meaning(self) -> None:
        rng = random.Random(1)
        answer = "It usually needs care, so that nobody is hurt."
        seen = {questions.reword_answer(answer, rng) for _ in range(300)}
        assert "It generally requires care, so no one is hurt." in seen
        assert len(seen) == 3 * 2 * 2 * 2

    def test_words_with_other_meanings_stay(self) -> None:
        answer = "People like it, so it helps since 1956, and it is unusually good."
        assert {questions.reword_answer(answer, random.Random(seed)) for seed in range(50)} == {answer}


class TestTextForms:
    def test_raw_document(self) -> None:
        assert chat.raw_document("Who?", "Me.") == f"{BOS}Who?\nMe.{EOS}"

    def test_chat_document_ends_with_eos_after_the_answer(self) -> None:
        document = chat.chat_document([Message("user", "Who?"), Message("assistant", "Me.")])
        assert document == f"{BOS}<|user|>\nWho?{EOS}\n<|assistant|>\nMe.{EOS}"

    def test_a_conversation_must_end_with_the_assistant(self) -> None:
        with pytest.raises(CorpusError, match="assistant"):
            chat.chat_document([Message("user", "Who?")])

    @pytest.mark.parametrize("mark", SPECIAL_TOKENS)
    def test_text_cannot_forge_a_special_token(self, mark: str) -> None:
        forms: list[Callable[[str], str]] = [
            lambda text: chat.raw_document("Who?", text),
            lambda text: chat.raw_document(text, "Me."),
            lambda text: chat.chat_prompt([Message("user", text)]),
            lambda text: chat.chat_document([Message("assistant", text)]),
        ]
        for form in forms:
            with pytest.raises(CorpusError, match="special token"):
                form(f"before {mark} after")

    def test_the_template_renders_what_the_model_learned(self) -> None:
        jinja2 = pytest.importorskip("jinja2", reason="jinja2 is not installed")
        template = jinja2.Environment(autoescape=False, keep_trailing_newline=True).from_string(CHAT_TEMPLATE)
        messages = [message._asdict() for message in CONVERSATION]
        rendered = template.render(
            messages=messages, bos_token=BOS, eos_token=EOS, add_generation_prompt=True
        )
        assert rendered == chat.chat_prompt(CONVERSATION)

    def test_the_template_refuses_an_unknown_role(self) -> None:
        jinja2 = pytest.importorskip("jinja2", reason="jinja2 is not installed")

        def raise_exception(message: str) -> None:
            raise ValueError(message)

        template = jinja2.Environment(autoescape=False).from_string(CHAT_TEMPLATE)
        with pytest.raises(ValueError, match="roles are"):
            template.render(messages=[{"role": "tool", "content": ""}], raise_exception=raise_exception)

    def test_llama_cpp_recognises_the_template_as_zephyr(self) -> None:
        assert "<|user|>" in CHAT_TEMPLATE
        assert "<|endoftext|>" in CHAT_TEMPLATE


class TestInvention:
    made = tuple(invention.invent(random.Random(seed)) for seed in range(3000))

    def test_the_same_seed_makes_the_same_text(self) -> None:
        assert self.made[:50] == tuple(invention.invent(random.Random(seed)) for seed in range(50))

    def test_stories_hardly_ever_repeat(self) -> None:
        stories = [answer for question, answer in self.made if len(answer) > 120]
        assert len(stories) > 1500
        assert len(set(stories)) == len(stories)

    def test_sums_are_right(self) -> None:
        pattern = re.compile(r"What is (\w+) (plus|minus|\+|-) (\w+)\?")
        checked = 0
        for question, answer in self.made:
            if found := pattern.fullmatch(question):
                left, right = _number(found[1]), _number(found[3])
                expected = left + right if found[2] in ("plus", "+") else left - right
                assert _number(answer.rstrip(".").rpartition(" ")[2]) == expected
                checked += 1
        assert checked > 300

    def test_the_calendar_is_right(self) -> None:
        pattern = re.compile(r"Which (?:day|month) comes (before|after) (\w+)\?")
        for question, answer in self.made:
            if found := pattern.fullmatch(question):
                names = next(names for names in (WEEKDAYS, MONTHS) if found[2] in names)
                step = 1 if found[1] == "after" else -1
                assert names[(names.index(found[2]) + step) % len(names)] in answer

    def test_lists_have_the_asked_length(self) -> None:
        for question, answer in self.made:
            if found := re.fullmatch(r"Give me (\w+) (names|animals|things)\.", question):
                assert len(re.split(r", | and ", answer)) == _number(found[1])


class TestDocstrings:
    LONG = "Text that says something about a function. " * 200

    def test_takes_docstrings_under_the_library_licence_only(self, tmp_path: Path) -> None:
        good = "A docstring of the module that is long enough to be worth reading, as all good ones are."
        (tmp_path / "good.py").write_text(f'"""{good}"""\ndef f():\n    """Short."""\n', "utf-8")
        (tmp_path / "other.py").write_text(f'"""Other. {good}"""\n# Copyright of somebody else\n', "utf-8")
        (tmp_path / "test").mkdir()
        (tmp_path / "test" / "test_x.py").write_text(f'"""Test. {good}"""\n', "utf-8")
        (tmp_path / "mark.py").write_text(f'"""{BOS} {good}"""\n', "utf-8")
        assert docstrings.library_docstrings(tmp_path) == [good]

    def test_cuts_what_exceeds_the_context(self, tmp_path: Path) -> None:
        (tmp_path / "long.py").write_text(f'class A:\n    """{self.LONG}"""\n', "utf-8")
        assert docstrings.library_docstrings(tmp_path) == [self.LONG[:4000]]

    def test_says_what_is_missing(self, tmp_path: Path) -> None:
        with pytest.raises(CorpusError, match="install Python with the source"):
            docstrings.library_docstrings(tmp_path)


class TestCorpus:
    entries = tuple(
        Entry((f"Question {i}?", f"Another {i}?"), (f"Answer {i}.", f"Reply {i}.")) for i in range(40)
    )
    prose = tuple(f"Prose number {i}." for i in range(200))
    corpus = Corpus(entries, prose)

    def test_the_same_seed_draws_the_same_documents(self) -> None:
        first, again, other = (list(islice(self.corpus.documents(seed), 200)) for seed in (7, 7, 8))
        assert first == again
        assert first != other

    def test_about_a_twentieth_is_held_out(self) -> None:
        share = sum(held_out(f"text {i}") for i in range(10_000)) / 10_000
        assert 0.04 < share < 0.06

    def test_training_never_draws_what_is_held_out(self) -> None:
        drawn = " ".join(islice(self.corpus.documents(3), 20_000)).lower()
        kept = self.corpus.held_out()
        assert kept["questions"]
        assert kept["docstrings"]
        for document in kept["docstrings"]:
            assert document.lower() not in drawn
        for document in kept["questions"]:
            question, answer = document.removeprefix(BOS).removesuffix(EOS).lower().split("\n")
            assert f"{question}\n{answer}" not in drawn
            assert f"{question}{EOS}\n<|assistant|>\n{answer}" not in drawn

    def test_training_draws_every_other_pair(self) -> None:
        drawn = " ".join(islice(self.corpus.documents(3), 20_000)).lower()
        for entry in self.entries:
            for question in entry.questions:
                for answer in entry.answers:
                    asked = f"{question}\n{answer}".lower() in drawn
                    assert asked != held_out(question + answer)

    def test_every_document_is_well_formed(self) -> None:
        for document in islice(self.corpus.documents(5), 2000):
            assert document.startswith(BOS)
            assert document.endswith(EOS)
            assert len(document) > len(BOS + EOS)

    def test_both_forms_and_system_prompts_occur(self) -> None:
        documents = list(islice(self.corpus.documents(5), 2000))
        chats = [text for text in documents if ROLE_MARKS["assistant"] in text]
        assert 0.2 < len(chats) / len(documents) < 0.7
        assert all(any(prompt in text for text in chats) for prompt in SYSTEM_PROMPTS)
        assert any(text.startswith(BOS + BOS) for text in chats)
        assert any(text.count(ROLE_MARKS["user"]) >= 8 for text in chats)

    def test_the_documented_example_is_drawn_more_often(self) -> None:
        entries = (*self.entries, Entry(("What is AI?",), ("A field.",)))
        drawn = " ".join(islice(Corpus(entries, self.prose).documents(5), 3000))
        assert drawn.count("A field.") > 3 * drawn.count("Answer 7.")


class TestCommandLine:
    def test_help_teaches_with_an_example(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as exit_:
            train_demo_model.parse_arguments(["--help"])
        assert exit_.value.code == 0
        assert (
            "python scripts/train_demo_model.py --out models/aos-demo-5m.F16.gguf" in capsys.readouterr().out
        )

    @pytest.mark.parametrize("steps", ["0", "-3", "many"])
    def test_steps_must_be_a_positive_number(self, steps: str, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as exit_:
            train_demo_model.parse_arguments(["--out", "x.gguf", "--steps", steps])
        assert exit_.value.code == 2
        assert "--steps" in capsys.readouterr().err

    @pytest.mark.parametrize("package", ["torch", "gguf", "tokenizers"])
    def test_a_missing_package_names_the_extra(
        self, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if "torch" in MISSING and package != "torch":
            pytest.skip("torch is not installed (extra: train)")
        for module in [name for name in sys.modules if name.startswith("demo_model.")]:
            monkeypatch.delitem(sys.modules, module)
        monkeypatch.setitem(sys.modules, package, None)
        options = train_demo_model.parse_arguments(["--out", str(tmp_path / "x.gguf")])
        with pytest.raises(MissingDependencyError, match=rf"{package} is missing.*\[train\]"):
            train_demo_model.make_model(options)

    def test_a_missing_folder_is_said_before_any_work(self, tmp_path: Path) -> None:
        options = train_demo_model.parse_arguments(["--out", str(tmp_path / "none" / "x.gguf")])
        with pytest.raises(DemoModelError, match="does not exist"):
            train_demo_model.make_model(options)

    def test_an_error_is_one_line_and_a_status(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(sys, "argv", ["train_demo_model.py", "--out", str(tmp_path / "none" / "x.gguf")])
        assert train_demo_model.main() == 1
        assert capsys.readouterr().err.count("\n") == 1


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    train_demo_model.make_model(train_demo_model.parse_arguments(["--out", str(path), "--steps", "2"]))
    return path


@pytest.mark.skipif(bool(MISSING), reason=f"not installed (extra: train): {', '.join(MISSING)}")
class TestTinyRun:
    """Two steps with everything real: vocabulary, training, file."""

    def test_the_file_fits_and_nothing_else_is_left(self, tiny_model: Path) -> None:
        assert 1_000_000 < tiny_model.stat().st_size <= 10_000_000
        assert list(tiny_model.parent.iterdir()) == [tiny_model]

    def test_every_matrix_is_f16_with_rows_that_k_quants_accept(self, tiny_model: Path) -> None:
        import gguf

        for tensor in gguf.GGUFReader(tiny_model).tensors:
            if len(tensor.shape) > 1:
                assert tensor.tensor_type == gguf.GGMLQuantizationType.F16
                assert tensor.shape[0] % 256 == 0
            else:
                assert tensor.tensor_type == gguf.GGMLQuantizationType.F32

    def test_metadata_names_vocabulary_template_and_licence(self, tiny_model: Path) -> None:
        import gguf

        fields = {name: field.contents() for name, field in gguf.GGUFReader(tiny_model).fields.items()}
        assert fields["general.architecture"] == "llama"
        assert fields["general.license"] == "apache-2.0"
        assert fields["tokenizer.ggml.pre"] == "gpt-2"
        assert fields["tokenizer.chat_template"] == CHAT_TEMPLATE
        tokens = fields["tokenizer.ggml.tokens"]
        assert len(tokens) == len(set(tokens)) == 2048
        assert tuple(tokens[: len(SPECIAL_TOKENS)]) == SPECIAL_TOKENS
        assert tokens[fields["tokenizer.ggml.bos_token_id"]] == BOS
        assert tokens[fields["tokenizer.ggml.eos_token_id"]] == EOS

    def test_a_model_over_the_limit_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from demo_model import errors, export, network, vocabulary

        shape = network.Shape(vocab=300, layers=1)
        monkeypatch.setattr(export, "LARGEST_FILE", 1000)
        tokenizer = vocabulary.train_vocabulary(["some text", "more text"], shape.vocab)
        with pytest.raises(errors.ModelTooLargeError, match="smaller shape"):
            export.write_gguf(network.Network(shape), tokenizer, tmp_path / "x.gguf")
        assert list(tmp_path.iterdir()) == []


class TestCommittedModel:
    """The file in the repository: what its card says of it, and the documented example."""

    def test_the_card_names_its_size_and_digest(self) -> None:
        data, card = MODEL.read_bytes(), MODEL.with_name("README.md").read_text("utf-8")
        assert len(data) <= 10_000_000
        assert hashlib.sha256(data).hexdigest() in card
        assert f"{len(data):,} bytes" in card

    @pytest.mark.parametrize("prompt", ["What is AI?", chat.chat_prompt([Message("user", "What is AI?")])])
    def test_the_documented_example_gets_a_short_answer_that_ends(self, prompt: str) -> None:
        llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
        model = llama_cpp.Llama(str(MODEL), n_ctx=256, n_threads=1, seed=1, verbose=False)
        is_chat = prompt.startswith(BOS)
        tokens = model.tokenize(prompt.encode(), add_bos=not is_chat, special=is_chat)
        for seed in range(3):
            model.set_seed(seed)
            output = list(islice(_until_eos(model, tokens), 200))
            answer = model.detokenize(output).decode().strip()
            assert 30 <= len(output) <= 120
            assert "AI" in answer
            assert answer.endswith(".")


def _until_eos(model: Any, tokens: list[int]) -> Iterator[int]:
    """Sample at the documented settings: temperature 1.0, top_p 0.5, no other filter."""
    for token in model.generate(tokens, temp=1.0, top_p=0.5, top_k=0, min_p=0.0, repeat_penalty=1.0):
        if token == model.token_eos():
            return
        yield token


def _number(text: str) -> int:
    return int(text) if text.isdigit() else NUMBERS.index(text)
