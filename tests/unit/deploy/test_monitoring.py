"""deploy/monitoring: what it shows and warns of is what the programs export, and the other way round."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

import aos_dispatcher.metrics  # noqa: F401 - registers them
from aos_tee_worker.metrics import Metrics
from aos_tee_worker.supervisor import Restarts
from support.deploy import DEPLOY, ROOT, pods, text

LEFT_OUT = {"aos_round_seconds_sum", "aos_gateway_first_text_seconds_sum"}
"""Exported and shown nowhere: what a histogram's sum would say, its quantiles and its count say better."""

FROM_PROMETHEUS = {"up"}
NOT_OURS = re.compile(r"python_|process_")
"""What the client library adds about any process; the dashboard shows some of it."""

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed: apt-get install prometheus"
)


def exported() -> set[str]:
    """Every name that a dispatcher or an enclave shows on /metrics, without what belongs to every process."""
    names = {sample for family in REGISTRY.collect() for sample in samples(family)}
    enclave = Metrics("simulated", 1.0, Restarts()).exposition()
    names |= {sample.name for family in text_string_to_metric_families(enclave) for sample in family.samples}
    return {name for name in names if not NOT_OURS.match(name)}


def samples(family: Any) -> set[str]:
    """The names of a family's samples; one with labels has none before they were used."""
    ends = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_count", "_sum"]}.get(
        family.type, []
    )
    return {family.name + end for end in ends}


def expressions() -> list[str]:
    """Every expression of the dashboard."""
    return [target["expr"] for panel in board()["panels"] for target in panel.get("targets", ())]


def rules() -> list[dict[str, Any]]:
    return [
        rule for group in yaml.safe_load(text("monitoring/alerts.yaml"))["groups"] for rule in group["rules"]
    ]


def board() -> dict[str, Any]:
    read: dict[str, Any] = json.loads(text("monitoring/dashboard.json"))
    return read


def named(expression: str) -> set[str]:
    """The metrics in an expression: names that are no function, label or keyword."""
    bare = re.sub(r'"[^"]*"|\{[^}]*\}|\b(?:by|without|on) \([^)]*\)|\[[^\]]*\]', " ", expression)
    return set(re.findall(r"\b[a-z]\w+\b(?!\s*\()", bare)) - {"and", "or", "offset"}


def test_metrics_are_recognised_in_expressions() -> None:
    said = 'sum by (le, job) (rate(a_bucket{job="x_y"}[5m])) > 0.7 * max(b_total offset 1h) and absent(cc) or dd - ee'
    assert named(said) == {"a_bucket", "b_total", "cc", "dd", "ee"}


@pytest.mark.parametrize("expression", expressions() + [rule["expr"] for rule in rules()])
def test_what_is_asked_for_is_exported(expression: str) -> None:
    asked = named(expression)
    assert asked
    unknown = {name for name in asked - exported() - FROM_PROMETHEUS if not NOT_OURS.match(name)}
    assert unknown == set()


def test_what_is_exported_is_shown_or_left_out_on_purpose() -> None:
    shown = set().union(*map(named, expressions()))
    assert exported() - shown == LEFT_OUT


def test_the_runbook_reads_every_metric() -> None:
    page = (ROOT / "docs" / "runbook.md").read_text()
    read = set(re.findall(r"`(aos_\w+)`", page.partition("## Reading the metrics")[2].partition("\n## ")[0]))
    families = {re.sub(r"_(bucket|count|sum)$", "", name) for name in exported()}
    assert families == read


def test_every_process_metric_that_is_shown_is_one_of_the_client_library() -> None:
    """Where the library cannot read /proc it has none, so they are not looked for in this process."""
    shown = {name for expression in expressions() for name in named(expression) if NOT_OURS.match(name)}
    known = {
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_max_fds",
    }
    assert shown == known


def test_panels_have_a_place_of_their_own_and_say_what_they_show() -> None:
    panels = board()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        grid = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(grid["x"], grid["x"] + grid["w"])
            for y in range(grid["y"], grid["y"] + grid["h"])
        }
        assert not cells & taken
        assert grid["x"] + grid["w"] <= 24
        taken |= cells
        if panel["type"] != "row":
            assert panel["description"]
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_every_alert_says_what_is_wrong_and_leads_to_a_heading_of_the_runbook(rule: dict[str, Any]) -> None:
    assert rule["annotations"]["summary"].endswith(".")
    assert rule["labels"]["severity"] in {"page", "warn"}
    page, _, fragment = rule["annotations"]["runbook"].partition("#")
    headings = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(), re.MULTILINE)
    assert fragment in {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_manifests_speak_of_an_alert_that_there_is() -> None:
    spoken = set(
        re.findall(
            r"\balert (\w+)", "".join(text(f"kubernetes/{f.name}") for f in (DEPLOY / "kubernetes").iterdir())
        )
    )
    assert spoken
    assert spoken <= {rule["alert"] for rule in rules()}
    assert pods()


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)


@needs_promtool
def test_promtool_finds_nothing_wrong() -> None:
    found = promtool("check", "config", DEPLOY / "monitoring" / "prometheus.yaml")
    assert found.returncode == 0, found.stderr
    assert f"{len(rules())} rules found" in found.stdout


@needs_promtool
def test_promtool_reads_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    recorded = [
        {"record": f"shown:{number}", "expr": expression.replace("$__rate_interval", "5m")}
        for number, expression in enumerate(expressions())
    ]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": recorded}]}))
    found = promtool("check", "rules", file)
    assert found.returncode == 0, found.stderr
