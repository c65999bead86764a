"""docs/images.md: its commands run as they stand, its answer has the form of a real one, and its numbers are the program's."""

import asyncio
import hashlib
import json
import os
from pathlib import Path

import pytest
import yaml

from acceptance.pages import DOCS, examples, form
from aos_dispatcher import blobs, fetching
from aos_dispatcher.gateway.images import LARGEST_SIDE
from aos_dispatcher.settings import Limits
from aos_operator.backends.build import open_backend
from aos_operator.backends.images import ImagesBackend
from aos_operator.backends.settings import BackendSettings
from aos_protocol.images import read_header
from aos_protocol.job import MAX_IMAGES
from integration.dispatcher.images.conftest import Gallery

PAGE = DOCS / "images.md"


async def test_its_commands_run_as_they_stand(gallery: Gallery, tmp_path: Path) -> None:
    (start, _), *commands = examples(PAGE)
    assert start.startswith("URL=http")
    here = f"URL={gallery.base}\nTOKEN={gallery.network.token}\n"
    script = here + "\n".join(command for command, _ in commands)
    process = await asyncio.create_subprocess_exec(
        *("bash", "-eu", "-o", "pipefail", "-c", script),
        cwd=tmp_path,
        env=os.environ,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said
    made, edited, scarf = (
        json.loads((tmp_path / f"{name}.json").read_text()) for name in ("made", "edited", "scarf")
    )
    [shown] = [answer for _, answer in commands if answer is not None]
    assert form(made) == form(edited) == form(scarf) == form(shown)
    assert made.keys() == shown.keys()
    assert [(made["aos"]["images"][0][side]) for side in ("width", "height")] == [256, 128]
    header = read_header((tmp_path / "otter.png").read_bytes())
    assert (header.width, header.height) == (128, 128)
    first, second = gallery.painter.uploads
    assert hashlib.sha256(first).hexdigest() == made["aos"]["images"][0]["sha256"]
    assert second == (tmp_path / "otter.png").read_bytes()


def test_its_settings_are_read() -> None:
    block = PAGE.read_text().partition("```yaml\n")[2].partition("```")[0]
    [entry] = [BackendSettings.model_validate(each) for each in yaml.safe_load(block)["backends"]]
    assert isinstance(open_backend(entry, 1.0), ImagesBackend)


@pytest.mark.parametrize(
    "said",
    [
        f"1 to {MAX_IMAGES} images",
        f"up to {Limits().upload_bytes >> 20} MiB (`limits.upload_bytes`)",
        f"{LARGEST_SIDE} pixels a side",
        f"for {Limits().blob_hours:g} hours (`limits.blob_hours`)",
        f"{Limits().blobs_bytes >> 30} GiB at most (`limits.blobs_bytes`)",
        f"{blobs.MOST_BLOBS:,} images",
        f"{fetching.LONGEST_URL:,} characters of ASCII",
        f"{fetching.TOTAL_S:g} seconds in all",
        f"{fetching._AT_ONCE} at a time",
    ],
)
def test_its_numbers_are_the_program_s(said: str) -> None:
    assert said in PAGE.read_text()
