"""Makes every change to evidence documents that tests/support/evidence_mutations.py knows, and says which no check finds.

Usage, from the project's root: python -m tests.fuzz.evidence [NAME ...]. It takes some minutes, and ends with status 1 if one was missed.
"""

import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.evidence_mutations import NAMES, changes, each_signature_verified_once, missed


def main(names: list[str]) -> int:
    """Make all changes of these documents, of all if none is named."""
    count: Counter[str] = Counter()
    with each_signature_verified_once():
        for name in names or NAMES:
            began = time.monotonic()
            for change in changes(name):
                count[name] += 1
                if missed(change, name):
                    count["missed"] += 1
                    sys.stdout.write(
                        f"{name}: {change.path}, {change.kind} ({change.what}): no check fails\n"
                    )
            sys.stdout.write(f"{name}: {count[name]} changes, {time.monotonic() - began:.0f} s\n")
    sys.stdout.write(f"missed: {count['missed']}\n")
    return 1 if count["missed"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
