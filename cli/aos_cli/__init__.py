"""`aos`: keys, jobs and the one-machine stack, from the command line."""
