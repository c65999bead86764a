"""What npm installs for a local chain: one version, checked by hashes, from whichever registry npm is set to."""

import json
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[3] / "chain" / "anvil"


def test_the_lock_file_has_hashes_and_no_addresses() -> None:
    package = json.loads((FOLDER / "package.json").read_text("utf-8"))
    text = (FOLDER / "package-lock.json").read_text("utf-8")
    locked = json.loads(text)["packages"]

    assert "://" not in text
    assert locked[""]["dependencies"] == package["dependencies"]
    packages = {name: entry for name, entry in locked.items() if name}
    assert packages
    for entry in packages.values():
        assert entry["version"] == package["dependencies"]["@foundry-rs/anvil"]
        assert entry["integrity"].startswith("sha512-")
        assert "resolved" not in entry
