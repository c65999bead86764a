"""docs/runbook.md is executed: every command on it, in its order, on one site, except what it says was not tried."""

import re
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from acceptance.site import NOT_TRIED, PAGE, Site, open_site, sections
from aos_cli.ports import number, reserve

on_the_site = pytest.mark.asyncio(loop_scope="module")

TITLE = "Runbook"
BLOCKS = sections()
RUN = [heading for heading in BLOCKS if heading not in {TITLE, "Backup", "Restore"}]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site() -> AsyncIterator[Site]:
    with tempfile.TemporaryDirectory(prefix="aos-test-") as folder:
        Path(folder).chmod(0o711)
        reserved = [reserve(0) for _ in range(3)]
        try:
            async with open_site(Path(folder), [number(one) for one in reserved]) as running:
                yield running
        finally:
            for one in reserved:
                one.close()


@on_the_site
async def test_the_names_of_the_page_are_those_that_the_site_gives(site: Site) -> None:
    said = dict(re.findall(r"^([A-Z_]+)=(\S+)$", BLOCKS[TITLE][0], re.MULTILINE))
    assert said.keys() == site.names.keys()
    used = set(
        re.findall(r"\$\{?([A-Z_]+)", "".join(block for blocks in BLOCKS.values() for block in blocks))
    )
    assert used == said.keys()


@on_the_site
async def test_backup(site: Site) -> None:
    await site.submit(2)
    status, said = await site.shell(BLOCKS["Backup"])
    assert status == 0, said
    assert "AOS-HEAD-1" in said


@on_the_site
async def test_restore_loses_nothing_that_was_told(site: Site) -> None:
    """What was submitted after the base backup is there again, the last of it only in what the old disk had."""
    await site.submit(3)
    looked = BLOCKS["Backup"][-1]
    assert (await site.shell([looked]))[0] == 0
    await site.submit(1)
    status, said = await site.shell(BLOCKS["Restore"])
    assert status == 0, said
    counted = re.search(r"restored (\d+), told (\d+)", said)
    assert counted is not None
    assert int(counted[1]) > int(counted[2]) > 0
    assert "FAIL" not in said


@on_the_site
async def test_a_dump_is_found_to_be_too_old_and_a_monitor_proves_the_fork_of_who_starts_on_it(
    site: Site,
) -> None:
    restore = 'createdb --maintenance-db "$ADMIN_DB" forked; pg_restore --no-owner -d "$FORKED" "$BACKUP/dispatcher.dump"'
    forked = site.postgres.url("forked")
    assert (await site.shell([restore], FORKED=forked))[0] == 0
    check = next(block for block in BLOCKS["Restore"] if "restored=" in block)
    status, said = await site.shell([check], DISPATCHER_DB=forked)
    assert status == 1
    assert re.search(r"restored \d+, told \d+", said)
    assert "ready" not in said, "the check comes before the start"
    site.configure("forked", "forked")
    await site.start("forked")
    shutil.copy(site.names["MONITOR"], site.folder / "other.json")
    shutil.copy(f"{site.names['MONITOR']}.journal", site.folder / "other.json.journal")
    there = {"URL": f"http://127.0.0.1:{site.ports['forked']}", "MONITOR": str(site.folder / "other.json")}
    status, said = await site.shell([BLOCKS["Backup"][-1]], **there)
    await site.stop("forked")
    assert (status, "FAIL  AOS-ROLLBACK-1" in said) == (1, True), said


@on_the_site
@pytest.mark.parametrize("heading", RUN)
async def test_every_other_command_of_the_page_does_what_it_says(site: Site, heading: str) -> None:
    status, said = await site.shell(BLOCKS[heading])
    assert status == 0, said


@on_the_site
async def test_a_rotated_token_works_and_a_revoked_one_does_not(site: Site) -> None:
    """The page has made, rotated and revoked them."""
    tokens = [(site.folder / name).read_text().strip() for name in ("token", "token.new")]
    assert [await site.may_submit("runbook", token) for token in tokens] == [401, 200]


def test_what_was_not_tried_says_why() -> None:
    reasons = re.findall(rf"^{NOT_TRIED}(.*)$", PAGE.read_text(), re.MULTILINE)
    assert len(reasons) == 5
    assert all(len(reason) > 20 for reason in reasons)


def test_every_link_of_the_page_leads_somewhere() -> None:
    text = PAGE.read_text()
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    for target in re.findall(r"\]\(([^)]+)\)", text):
        path, _, fragment = target.partition("#")
        assert (PAGE.parent / path).exists()
        assert path or fragment in anchors, target
