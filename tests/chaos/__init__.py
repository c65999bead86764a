"""Chaos: a whole network of real processes under load, whose parts are killed, stopped and cut off meanwhile, and what must hold then.

`python -m tests.chaos` runs it (README of its options: `--help`); `tests/acceptance/test_chaos.py` runs a short one.

The faults and the jobs follow from the seed; what meets what does not: processes keep no time. A fault comes once so many jobs were
accepted, so that a slow machine sees the same faults at about the same work.
"""
