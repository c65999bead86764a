from dataclasses import replace
from hashlib import sha256

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from aos_protocol.errors import InvalidTemplate
from aos_protocol.fim import TEMPLATES, choose, custom, render, split
from aos_protocol.record import named_model_digest


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("codellama:7b-code", "codellama"),
        ("CodeLlama-7B-GGUF", "codellama"),
        ("models/codellama-7b.Q5_K_M.gguf", "codellama"),
        ("deepseek-coder:6.7b-base-q5_K_M", "deepseek"),
        ("DeepSeek-V3", "deepseek"),
        ("starcoder2:3b", "starcoder"),
        ("stable-code:3b-code-q4_0", "starcoder"),
        ("codegemma:2b-code", "codegemma"),
        ("Qwen2.5-Coder-7B", "codegemma"),
    ],
)
def test_a_family_is_known_by_the_name_of_the_model(model: str, family: str) -> None:
    assert choose(model) is TEMPLATES[family]


@pytest.mark.parametrize("model", ["llama3:8b", "gemma:2b", "deepseek-r1:7b", "aos-demo-5m.F16.gguf", ""])
def test_any_other_model_has_no_template(model: str) -> None:
    assert choose(model) is None


@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        ("codellama", "<PRE> def f( <SUF>): <MID>"),
        ("deepseek", "<｜fim▁begin｜>def f(<｜fim▁hole｜>):<｜fim▁end｜>"),  # noqa: RUF001
        ("starcoder", "<fim_prefix>def f(<fim_suffix>):<fim_middle>"),
        ("codegemma", "<|fim_prefix|>def f(<|fim_suffix|>):<|fim_middle|>"),
    ],
)
def test_a_prompt_is_written_as_the_model_card_shows_it(name: str, prompt: str) -> None:
    assert render(TEMPLATES[name], "def f(", "):") == prompt


def test_a_custom_template_may_put_the_suffix_first() -> None:
    template = custom("[SUF]{suffix}[PRE]{prefix}", ("[END]",))
    assert (template.name, template.order, template.stops) == ("custom", "spm", ("[END]",))
    assert render(template, "a", "b") == "[SUF]b[PRE]a"


@pytest.mark.parametrize(
    "text", ["", "{prefix}", "{suffix}", "{prefix}{prefix}{suffix}", "{prefix} {Suffix}"]
)
def test_a_template_without_both_gaps_is_refused(text: str) -> None:
    with pytest.raises(InvalidTemplate, match=r"\{prefix\} and \{suffix\}, each once"):
        custom(text)


@given(st.text(), st.text(), st.text(), st.text(), st.text(), st.booleans())
def test_what_is_rendered_is_the_template_with_its_gaps_filled(
    before: str, between: str, after: str, prefix: str, suffix: str, prefix_first: bool
) -> None:
    assume(not any("{" in text or "}" in text for text in (before, between, after)))
    gaps = ("{prefix}", "{suffix}") if prefix_first else ("{suffix}", "{prefix}")
    filled = (prefix, suffix) if prefix_first else (suffix, prefix)
    template = custom(before + gaps[0] + between + gaps[1] + after)
    assert render(template, prefix, suffix) == before + filled[0] + between + filled[1] + after


@given(st.sampled_from(sorted(TEMPLATES)), st.text(), st.text())
def test_a_jobs_own_text_is_never_in_a_part_that_may_be_read_as_markers(
    name: str, prefix: str, suffix: str
) -> None:
    template = TEMPLATES[name]
    parts = template.parts(prefix, suffix)
    assert [part.text for part in parts if not part.marker] == [text for text in (prefix, suffix) if text]
    assert {part.text for part in parts if part.marker} == {
        template.prefix,
        template.suffix,
        template.middle,
    }


_PLAIN = st.text(st.characters(codec="utf-8", exclude_characters="<>|"))


@given(st.sampled_from(sorted(TEMPLATES)), _PLAIN, _PLAIN)
def test_a_rendered_prompt_is_split_as_it_was(name: str, prefix: str, suffix: str) -> None:
    template = TEMPLATES[name]
    assert split(template, render(template, prefix, suffix)) == (prefix, suffix)


@pytest.mark.parametrize(
    "prompt",
    [
        "def f(x):",
        "<fim_prefix>a<fim_suffix>b",
        "a<fim_prefix>b<fim_suffix>c<fim_middle>",
        "<|file_sep|>a<fim_prefix>b<fim_suffix>c<fim_middle>",
        "<file_sep>a\n<fim_suffix>c<fim_prefix>b<fim_middle>",
        "<fim_prefix>a<fim_middle>b<fim_suffix>",
        "<fim_prefix>a<fim_prefix>b<fim_suffix>c<fim_middle>",
        "<PRE> a <SUF>b <MID>",
    ],
)
def test_any_other_prompt_is_left_alone(prompt: str) -> None:
    assert split(TEMPLATES["starcoder"], prompt) is None


def test_white_space_at_markers_may_be_missing_as_editors_leave_it_out() -> None:
    assert split(TEMPLATES["codellama"], "<PRE>a\n <SUF> b<MID>") == ("a\n", " b")


@pytest.mark.parametrize(
    ("name", "context"),
    [
        ("starcoder", "<repo_name>mine\n<file_sep>a.py\nx = 1\n<file_sep>b.py\n"),
        ("codegemma", "<|file_separator|>a.py\nx = 1\n<|file_separator|>b.py\n"),
        ("codegemma", "<|repo_name|>mine\n<|file_sep|>a.py\nx = 1\n<|file_sep|>b.py\n"),
    ],
)
def test_other_files_before_the_first_marker_begin_the_prefix(name: str, context: str) -> None:
    prompt = context + render(TEMPLATES[name], "def f(", "):")
    assert split(TEMPLATES[name], prompt) == (context + "def f(", "):")


def test_other_files_begin_the_prefix_when_the_suffix_stands_first_too() -> None:
    template = replace(custom("[SUF]{suffix}[PRE]{prefix}[MID]"), files=("[FILE]",))
    assert split(template, "[FILE]a\n[SUF]s[PRE]p[MID]") == ("[FILE]a\np", "s")


def test_a_template_without_a_marker_splits_nothing() -> None:
    assert split(custom("{prefix}@@{suffix}"), "a@@b") is None


def test_the_digest_of_a_name_is_that_of_its_canonical_json() -> None:
    expected = sha256(b'{"kind":"named","model":"codellama:7b-code"}').hexdigest()
    assert named_model_digest("codellama:7b-code") == expected
    assert named_model_digest("codellama:7b") != expected
