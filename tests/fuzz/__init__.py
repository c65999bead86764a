"""Fuzzing: long runs of mutants, by hand; the unit tests run a short one."""
