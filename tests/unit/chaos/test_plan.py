"""A run's plan follows from its seed, and leaves nothing out."""

from collections import Counter

import pytest

from chaos.plan import DEEDS, LINKS, REAL_MODEL, Deed, Options, faults, jobs
from support.tcp_proxy import Harm

OPTIONS = Options(jobs=200, faults=40)


def test_the_same_seed_gives_the_same_run() -> None:
    assert (faults(OPTIONS), jobs(OPTIONS)) == (faults(OPTIONS), jobs(OPTIONS))
    other = Options(jobs=200, faults=40, seed=2)
    assert faults(OPTIONS) != faults(other)
    assert [job.body for job in jobs(OPTIONS)] != [job.body for job in jobs(other)]


@pytest.mark.parametrize("seed", range(5))
def test_a_short_run_has_every_deed_and_every_harm(seed: int) -> None:
    planned = faults(Options(jobs=100, faults=17, seed=seed))
    deeds = {(fault.deed, fault.kind) for fault in planned if isinstance(fault.deed, Deed)}
    assert deeds == {(deed, kind) for deed, kinds in DEEDS.items() for kind in kinds}
    assert {fault.deed for fault in planned if isinstance(fault.deed, Harm)} == set(Harm)


def test_a_long_run_has_every_harm_on_every_link() -> None:
    done = Counter((fault.deed, fault.kind) for fault in faults(Options(faults=49)))
    assert all(done[harm, kind] for harm in Harm for kind in LINKS)


def test_faults_come_in_order_while_jobs_are_taken() -> None:
    after = [fault.after for fault in faults(OPTIONS)]
    assert after == sorted(after)
    assert after[0] > 0
    assert after[-1] < OPTIONS.jobs


def test_every_job_has_a_key_of_its_own() -> None:
    planned = jobs(OPTIONS)
    assert len({job.key for job in planned}) == len(planned) == 200
    assert {job.body["tag"] for job in planned} > {""}
    assert any(job.cancelled for job in planned)
    assert any(job.repeated for job in planned)


def test_only_real_operators_are_asked_for_the_real_model() -> None:
    asked = [job.body["job"]["model"] for job in jobs(Options(jobs=300))]
    assert REAL_MODEL in asked
    assert REAL_MODEL not in [job.body["job"]["model"] for job in jobs(Options(jobs=300, real_operators=0))]
