"""AOS-TAG-1 by itself: honest dispatchers pass whatever order their jobs end in, and what a cheat does is found or excused."""

import json
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aos_auditor import tags
from aos_auditor.tags import Tags
from aos_protocol.fields import Tag
from aos_protocol.tagging import ActiveTag, Placement, place

Document = dict[str, Any]
NOWHERE = Placement("", "", None, tagging=False)


def document(job_id: str, user: str, asked: str, placement: Placement) -> Document:
    """As much of a job's evidence as tells its place."""
    ran = {"tag": placement.tag, "position": placement.position, "cause": placement.cause}
    before = {"tag": "malicious", "position": "before", "cause": "x", "challenge": 0}
    return {
        "job": {"job_id": job_id, "sequence": 1, "request": {"from": "shop", "user": user, "tag": asked}},
        "rounds": [before, {**ran, "challenge": 0}, {**ran, "challenge": 1}],
    }


def history(jobs: list[tuple[str, Tag]]) -> list[Document]:
    """The jobs of an honest dispatcher, of these users and asked for under these tags; job n has the id `str(n)`."""
    active: dict[str, ActiveTag] = {}
    documents = []
    for number, (user, asked) in enumerate(jobs):
        placement, after = place(active.pop(user, None), str(number), asked)
        if after is not None:
            active[user] = after
        documents.append(document(str(number), user, asked, placement))
    return documents


def told(documents: list[Document], *, hidden: tuple[int, ...] = ()) -> list[tuple[str, str]]:
    """Status and first words of everything that is found, where these jobs are not shown."""
    known = Tags()
    for number, shown in enumerate(documents):
        known.opened(str(number))
        known.kept_back(str(number)) if number in hidden else known.read(shown)
    return [(check.status, " ".join(check.what.split()[:2])) for check in known.check()]


def failures(documents: list[Document], *, hidden: tuple[int, ...] = ()) -> list[tuple[str, str]]:
    return [one for one in told(documents, hidden=hidden) if one[0] != "PASS"]


@st.composite
def ended(draw: st.DrawFn) -> tuple[list[Document], list[int], set[int]]:
    """An honest history, the order in which its jobs ended, and which are not shown."""
    jobs = draw(
        st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(get_args(Tag))), min_size=1, max_size=60)
    )
    order = draw(st.permutations(range(len(jobs))))
    return history(jobs), order, draw(st.sets(st.sampled_from(order)))


@given(ended())
def test_an_honest_dispatcher_passes_in_whatever_order_jobs_end(
    day: tuple[list[Document], list[int], set[int]],
) -> None:
    documents, order, _ = day
    known, fitting = Tags(), 0
    for number in range(len(documents)):
        known.opened(str(number))
    for number in order:
        known.read(documents[number])
        known = Tags.from_json(json.loads(json.dumps(known.to_json())))
        for check in known.check():
            assert check.status == "PASS"
            fitting += int(check.what.rpartition(": ")[2])
    assert (fitting, known.placed, known.waiting) == (len(documents), len(documents), {})


@given(ended())
def test_an_honest_dispatcher_never_fails_for_what_is_hidden(
    day: tuple[list[Document], list[int], set[int]],
) -> None:
    documents, _, hidden = day
    assert "FAIL" not in {status for status, _ in told(documents, hidden=tuple(hidden))}


def test_what_is_kept_is_a_tag_for_each_user_that_has_one() -> None:
    known = Tags()
    for shown in history([("a", ""), ("b", "suspicion"), ("c", "malicious"), *[("b", "")] * 10] * 2):
        known.waiting.clear()
        known.opened(shown["job"]["job_id"])
        known.read(shown)
        known.check()
    assert (len(known.users), known.waiting) == (1, {})
    [tagged] = known.users.values()
    assert tagged.active.tag == "malicious"


class TestCheats:
    def test_a_tag_that_is_dropped_is_told_for_every_job_that_lacks_it(self) -> None:
        documents = history([("a", "suspicion")])
        documents += [document(str(number), "a", "", NOWHERE) for number in range(1, 14)]
        assert failures(documents) == [("FAIL", f"job {number}") for number in range(1, 11)]

    @pytest.mark.parametrize(
        "placement",
        [
            Placement("suspicion", "after", "0", tagging=False),
            Placement("suspicion", "after", None, tagging=True),
            Placement("", "after", None, tagging=False),
        ],
    )
    def test_a_tag_that_nobody_brought_is_found(self, placement: Placement) -> None:
        assert failures([*history([("a", "")]), document("1", "a", "", placement)]) == [("FAIL", "job 1")]

    def test_a_tag_of_somebody_else_is_found(self) -> None:
        documents = history([("a", "suspicion"), ("a", "")])
        documents[1]["job"]["request"]["user"] = "b"
        assert failures(documents) == [("FAIL", "job 1")]

    def test_a_tag_that_lasts_too_long_is_found(self) -> None:
        documents = history([("a", "suspicion"), *[("a", "")] * 10])
        documents.append(document("11", "a", "", Placement("suspicion", "after", "0", tagging=False)))
        assert failures(documents) == [("FAIL", "job 11")]

    def test_evidence_without_a_round_of_its_own_places_nothing(self) -> None:
        documents = history([("a", ""), ("a", "")])
        documents[0]["rounds"].pop(1)
        documents[0]["rounds"].pop(1)
        assert told(documents) == [("PASS", "jobs that")]


class TestHidden:
    def test_a_tag_that_a_hidden_job_may_have_brought_is_skipped(self) -> None:
        documents = history([("a", "suspicion"), *[("a", "")] * 3])
        assert failures(documents, hidden=(0,)) == [("SKIP", "job 1")]

    def test_a_tag_that_hidden_jobs_may_have_used_up_is_skipped(self) -> None:
        documents = history([("a", "suspicion"), *[("a", "")] * 11])
        assert failures(documents, hidden=(3, 4)) == [("SKIP", "job 11")]

    def test_what_no_hidden_job_explains_is_found_all_the_same(self) -> None:
        """A tag of its own that it did not ask for, and one that was dropped after it was certain again."""
        own = Placement("malicious", "after", None, tagging=True)
        assert failures([*history([("b", "")]), document("1", "a", "", own)], hidden=(0,)) == [
            ("FAIL", "job 1")
        ]
        documents = [*history([("a", ""), ("a", "suspicion")]), document("2", "a", "", NOWHERE)]
        assert failures(documents, hidden=(0,)) == [("FAIL", "job 2")]

    def test_a_job_that_never_ends_holds_up_so_many_and_no_more(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tags, "_MOST_WAITING", 5)
        known, documents = Tags(), history([("a", "")] * 9)
        found = []
        for number, shown in enumerate(documents):
            known.opened(str(number))
            if number:
                known.read(shown)
            found.append([check.what[-3:] for check in known.check()])
        assert found == [[], [], [], [], [], [": 5"], [": 1"], [": 1"], [": 1"]]
        assert known.hidden == 1


def test_what_is_read_again_changes_nothing() -> None:
    known, [first] = Tags(), history([("a", "suspicion")])
    known.opened("0")
    known.read(first)
    known.check()
    before = known.to_json()
    known.read(first)
    known.kept_back("0")
    assert (known.check(), known.to_json()) == ([], before)
