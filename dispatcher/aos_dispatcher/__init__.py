"""The dispatcher: takes jobs, draws committees, and stores only what it has verified. Start at `service` and `app`."""
