"""Measuring the demo model for a calibration: trials on real contexts, coarser files, and what comes out of it all."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aos_inference import calibrate_runs
from aos_inference.calibrate import fit
from aos_inference.quantise import NotQuantised, coarser, quantise
from aos_inference.trials import LIKELIEST_OTHER, Answer, Bench, Setup, Trial, bench
from aos_protocol.scoring import FORBIDDEN

TOKENS = 24


@pytest.fixture(scope="module")
def opened(demo_model: Path) -> Iterator[Bench]:
    with bench(Setup(demo_model, slots=4), 128) as one:
        yield one


def trials(opened: Bench, count: int = 4) -> list[Trial]:
    """Jobs at temperature 1 with prompts and seeds of their own."""
    start = (opened.model.bos, *opened.model.tokenize("Once upon a time a fox"))
    names = ("Ada", "Emil", "Nora", "Otto", "Lena")
    return [
        Trial((*start, *opened.model.tokenize(names[place])), 1.0, 1.0, bytes([place]) * 32, "0xa", TOKENS)
        for place in range(count)
    ]


def test_honest_answers_are_drawn_as_the_seed_prescribes(opened: Bench) -> None:
    jobs = trials(opened)
    for job, answer in zip(jobs, opened.answers(jobs), strict=True):
        found = opened.measure(job, answer)
        assert found.distances.max() < 0.02
        assert found.margins.max() < 0.02
        assert found.surprisals.sum() > 0
        assert answer.fingerprints.shape == (TOKENS, 8)


def test_five_jobs_on_four_slots_are_those_of_one_slot(opened: Bench, demo_model: Path) -> None:
    jobs = trials(opened, 5)
    with bench(Setup(demo_model), 128) as alone:
        single = alone.answers(jobs)
    for one, other in zip(opened.answers(jobs), single, strict=True):
        assert np.mean(one.tokens == other.tokens) > 0.5  # noise may turn one draw; all after it differ


def test_a_forced_token_shows_where_it_stands(opened: Bench) -> None:
    job = trials(opened, 1)[0]
    [answer] = opened.answers([replace(job, forced={5: LIKELIEST_OTHER, 9: opened.model.eos})])
    margins = opened.measure(job, answer).margins
    assert answer.tokens[9] == opened.model.eos
    assert set(np.flatnonzero(margins > 0.02)) <= {5, 9}
    assert margins[5] > 0.02


def test_another_seed_shows_in_margins_and_not_in_fingerprints(opened: Bench) -> None:
    job = trials(opened, 1)[0]
    [answer] = opened.answers([replace(job, noise=b"\1" * 32)])
    found = opened.measure(job, answer)
    assert found.margins.max() > 0.1
    assert found.distances.max() < 0.02


def test_fingerprints_of_another_prover_fit_nowhere(opened: Bench) -> None:
    job = trials(opened, 1)[0]
    [answer] = opened.answers([replace(job, prover="0xb")])
    found = opened.measure(job, answer)
    assert found.distances.min() > 0.1
    assert found.margins.max() < 0.02
    mended = Answer(answer.tokens, opened.fingerprints(job, answer.tokens.tolist()))
    assert opened.measure(job, mended).distances.max() < 0.02


def test_a_token_outside_the_nucleus_is_forbidden(opened: Bench) -> None:
    job = replace(trials(opened, 1)[0], top_p=0.5)
    [answer] = opened.answers([replace(job, forced={3: 2})])  # padding: never likely
    assert opened.measure(job, answer).margins[3] == FORBIDDEN


def test_coarser_files_are_smaller_and_load(demo_model: Path, tmp_path: Path) -> None:
    files = coarser(demo_model, tmp_path, 1, most=2)
    assert list(files) == ["Q8_0", "Q6_K"]
    assert files["Q6_K"].stat().st_size < files["Q8_0"].stat().st_size < demo_model.stat().st_size
    assert sorted(tmp_path.iterdir()) == sorted(files.values())
    with bench(Setup(files["Q6_K"]), 64) as one:
        assert one.model.vocabulary == 2048


def test_a_quantised_model_has_coarser_files_too(demo_model: Path, tmp_path: Path) -> None:
    pinned = tmp_path / "pinned.gguf"
    quantise(demo_model, "Q4_0", pinned, 1)
    (tmp_path / "made").mkdir()
    assert list(coarser(pinned, tmp_path / "made", 1)) == ["Q3_K_M", "Q2_K"]


def test_what_is_no_model_cannot_be_quantised(tmp_path: Path) -> None:
    (tmp_path / "no.gguf").write_bytes(b"GGUF, but not really")
    with pytest.raises(NotQuantised):
        quantise(tmp_path / "no.gguf", "Q8_0", tmp_path / "out.gguf", 1)


def test_every_way_is_measured_and_the_calibration_tells_them_apart(demo_model: Path, tmp_path: Path) -> None:
    files = coarser(demo_model, tmp_path, 1, most=1)
    chosen = [
        way
        for way in calibrate_runs.ways(demo_model, files, 1)
        if way.name in {"alone", "reused prefix", "small batches", "weights Q8_0", "cache Q4_0", "other seed"}
    ]
    assert len(chosen) == 6
    with bench(Setup(demo_model, slots=calibrate_runs.SLOTS), 128) as one:
        prompts = calibrate_runs.draw_prompts(one, 8)
    ticks: list[str] = []
    runs = calibrate_runs.measure(chosen, prompts, TOKENS, lambda name, _: ticks.append(name))
    assert ticks == [way.name for way in chosen for _ in prompts]
    calibration = fit("ab" * 32, "here", runs)
    by_name = {run.name: run for run in runs}
    for one_answer in by_name["reused prefix"].measured:
        assert calibration.distances.against(one_answer.distances) < 0
    for one_answer in by_name["weights Q8_0"].measured:
        assert calibration.distances.against(one_answer.distances) > 20
    assert len(set(prompts)) >= 6
