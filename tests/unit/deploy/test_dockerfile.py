"""deploy/Dockerfile: linted, everything it copies is there, and nothing in it is taken by name alone."""

import re
import subprocess
import sysconfig
from importlib.metadata import entry_points
from pathlib import Path

from support.deploy import DEPLOY, ROOT, text

LINES = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", text("Dockerfile"), flags=re.MULTILINE)).splitlines()
HADOLINT = Path(sysconfig.get_path("scripts")) / "hadolint"


def lint(file: str | Path, said: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([HADOLINT, file], input=said, capture_output=True, text=True, check=False)


def test_hadolint_finds_nothing() -> None:
    found = lint(DEPLOY / "Dockerfile")
    assert (found.returncode, found.stdout) == (0, "")


def test_hadolint_would_find_something() -> None:
    assert lint("-", "FROM python\nRUN cd /tmp && pip install aos\n").returncode == 1


def test_everything_that_is_copied_is_there_and_not_ignored() -> None:
    kept = re.findall(r"^!(\S+)$", text("Dockerfile.dockerignore"), re.MULTILINE)
    for line in LINES:
        if line.startswith("COPY ") and "--from=" not in line:
            for source in line.split()[1:-1]:
                assert (ROOT / source).exists(), source
                assert any(
                    Path(source).match(pattern) or source.startswith(f"{pattern}/") for pattern in kept
                ), source


def test_every_package_of_the_project_is_copied() -> None:
    wheel = re.search(
        r"^packages = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(), re.MULTILINE | re.DOTALL
    )
    assert wheel is not None
    copied = " ".join(line for line in LINES if line.startswith("COPY "))
    for package in re.findall(r'"([\w/]+)"', wheel[1]):
        assert re.search(rf" ({package}|{package.partition('/')[0]}) ", copied), package


def test_base_images_are_given_by_whoever_builds_and_stages_by_name() -> None:
    stages = {line.split()[3] for line in LINES if line.startswith("FROM ")}
    assert {"service", "worker"} <= stages
    for line in LINES:
        if line.startswith("FROM "):
            assert line.split()[1] in {"${BUILDER}", "${BASE}"} | stages


def test_every_package_is_taken_by_its_hash_or_was_built_here() -> None:
    installs = [
        part
        for line in LINES
        for part in re.split(r"&&", line)
        if re.search(r"pip\b.*\b(install|wheel) ", part)
    ]
    assert len(installs) == 7
    for part in installs:
        from_here = "--no-deps" in part and ("--no-index" in part or part.strip().endswith(" ."))
        assert "--require-hashes" in part or from_here, part


def test_the_awk_rule_cuts_requirements_exactly_at_llama() -> None:
    everything = (ROOT / "requirements" / "worker.txt").read_text().splitlines()
    rule = "/^[a-zA-Z0-9]/ { llama = /^llama-cpp-python==/ } "
    cut = {
        which: subprocess.run(
            ["awk", rule + which, "requirements/worker.txt"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        for which in ("llama", "!llama")
    }
    assert sorted(cut["llama"] + cut["!llama"]) == sorted(everything)
    assert [line for line in cut["llama"] if re.match(r"\w", line)] == [cut["llama"][0]]
    assert cut["llama"][0].startswith("llama-cpp-python==")
    assert rule in text("Dockerfile")


def test_it_runs_as_nobody_and_keeps_only_the_programs_of_its_image() -> None:
    scripts = {
        script.name for script in entry_points(group="console_scripts") if script.value.startswith("aos_")
    }
    removed = [
        set(re.findall(r"/opt/aos/bin/([\w-]+)", line.partition("rm ")[2]))
        for line in LINES
        if " rm " in line
    ]
    assert removed == [{"inference-worker", "tee-worker"}, scripts - {"inference-worker"}]
    assert [line for line in LINES if line.startswith("USER ")] == ["USER 10001:10001"] * 2
