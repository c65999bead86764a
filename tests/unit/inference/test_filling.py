"""Prompts for filling in: the model's own tokens or a template's, and no text of a job that forges either."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aos_inference.errors import FillingRefused
from aos_inference.filling import Filling, Gap, choose, template
from aos_inference.testing import ByteModel
from aos_protocol import fim

GAP = Gap(260, 261, 262)
SPECIAL = {
    "<PRE>": 270,
    "<SUF>": 271,
    "<MID>": 272,
    "<fim_prefix>": 273,
    "<fim_suffix>": 274,
    "<fim_middle>": 275,
}
BOS = ByteModel.bos


class Vocabulary(ByteModel):
    """A token a byte, with control tokens of its own; `spaced` puts a space before a text that begins with none, as some tokenisers do."""

    def __init__(self, gap: Gap | None = None, *, spaced: bool = False, adds_bos: bool = True) -> None:
        super().__init__()
        self.gap, self.spaced, self.adds_bos = gap, spaced, adds_bos

    def special_tokens(self) -> dict[str, int]:
        return {**super().special_tokens(), **SPECIAL}

    def tokenize(self, text: str) -> list[int]:
        return super().tokenize(f" {text}" if self.spaced and text else text)


def filling(vocabulary: Vocabulary, named: str | None = None) -> Filling:
    found = choose(vocabulary, template(named))
    assert found is not None
    return found


def codes(text: str) -> list[int]:
    return list(text.encode())


def test_the_model_s_own_tokens_stand_around_prefix_and_suffix() -> None:
    made = filling(Vocabulary(GAP))("def f(", "return x")
    assert made == [BOS, 260, *codes("def f("), 261, *codes("return x"), 262]
    assert filling(Vocabulary(GAP, adds_bos=False))("a", "b") == [260, 97, 261, 98, 262]


@pytest.mark.parametrize(("prefix", "suffix"), [("", "b"), ("a", ""), ("", "")])
def test_either_side_of_a_gap_may_be_empty(prefix: str, suffix: str) -> None:
    assert filling(Vocabulary(GAP))(prefix, suffix) == [BOS, 260, *codes(prefix), 261, *codes(suffix), 262]


def test_a_template_s_markers_are_control_tokens_where_the_vocabulary_has_them() -> None:
    made = filling(Vocabulary(), "starcoder")("def f(", "return x")
    assert made == [BOS, 273, *codes("def f("), 274, *codes("return x"), 275]


def test_what_of_a_marker_is_no_control_token_is_text_together_with_what_it_stands_before() -> None:
    made = filling(Vocabulary(), "codellama")("def f(", "return x")
    assert made == [BOS, 270, *codes(" def f( "), 271, *codes("return x "), 272]


def test_markers_that_the_vocabulary_does_not_have_are_text() -> None:
    made = filling(Vocabulary(), "custom:### before\n{prefix}\n### behind\n{suffix}\n### between\n")("a", "b")
    assert made == [BOS, *codes("### before\na\n### behind\nb\n### between\n")]


def test_a_custom_template_may_want_the_suffix_first() -> None:
    made = filling(Vocabulary(), "custom:<fim_suffix>{suffix}<fim_prefix>{prefix}<fim_middle>")("a", "b")
    assert made == [BOS, 274, 98, 273, 97, 275]


def test_a_template_that_begins_with_bos_has_it_once() -> None:
    made = filling(Vocabulary(), "custom:<s><fim_prefix>{prefix}<fim_suffix>{suffix}<fim_middle>")("a", "b")
    assert made == [BOS, 273, 97, 274, 98, 275]


def test_no_space_is_put_before_what_stands_within_a_prompt() -> None:
    """What some tokenisers put before every text belongs to a prompt's beginning only."""
    assert filling(Vocabulary(GAP, spaced=True))("a", "b") == [BOS, 260, *codes(" a"), 261, 98, 262]
    assert filling(Vocabulary(spaced=True), "starcoder")("a", "b") == [BOS, 273, 97, 274, 98, 275]


FORGED = st.lists(
    st.sampled_from([*"<>|_abPRESUF \n", *SPECIAL, "<s>", "</s>", "<|im_end|>", "<fim_", "prefix>", "\0", "é", "\U0001f600"])
).map("".join)  # fmt: skip


@pytest.mark.parametrize(
    "named", [None, "starcoder", "codellama", "deepseek", "codegemma", "custom:{prefix}|{suffix}|"]
)
@given(prefix=FORGED, suffix=FORGED)
def test_no_text_of_a_job_becomes_a_control_token(named: str | None, prefix: str, suffix: str) -> None:
    """There are just as many control tokens, in the same order, as around empty texts, and the texts are whole."""
    fill = filling(Vocabulary(GAP if named is None else None), named)
    made, empty = fill(prefix, suffix), fill("", "")
    assert [token for token in made if token >= 256] == [token for token in empty if token >= 256]
    written = bytes(token for token in made if token < 256).decode()
    assert written == (prefix + suffix if named is None else _plain(named, prefix, suffix))


def _plain(named: str, prefix: str, suffix: str) -> str:
    """What of a prompt by this template is text."""
    found = template(named)
    assert found is not None
    control = "|".join(map(re.escape, SPECIAL))
    return "".join(
        re.sub(control, "", text) if marker else text for text, marker in found.parts(prefix, suffix)
    )


@given(prefix=st.text(), suffix=st.text(), other=st.tuples(st.text(), st.text()))
def test_other_texts_give_another_prompt(prefix: str, suffix: str, other: tuple[str, str]) -> None:
    fill = filling(Vocabulary(GAP))
    assert (fill(prefix, suffix) == fill(*other)) == ((prefix, suffix) == other)


def test_a_model_that_cannot_is_not_told_to() -> None:
    assert choose(Vocabulary(), None) is None


def test_a_model_with_tokens_of_its_own_takes_no_template() -> None:
    with pytest.raises(FillingRefused, match="tokens of its own"):
        choose(Vocabulary(GAP), fim.TEMPLATES["starcoder"])


@pytest.mark.parametrize(
    "named", ["", "gpt", "custom:", "custom:{prefix}", "custom:{prefix}{prefix}{suffix}", "CodeLlama"]
)
def test_a_template_that_is_none_is_refused(named: str) -> None:
    with pytest.raises(FillingRefused, match=r"^--fim: "):
        template(named)


def test_every_template_that_has_a_name_works() -> None:
    for name in fim.TEMPLATES:
        assert filling(Vocabulary(), name)("a", "b") != filling(Vocabulary(), name)("b", "a")
