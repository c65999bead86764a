"""`aos-audit`: checks a job, or everything that a dispatcher logs, without trusting whoever served it."""
