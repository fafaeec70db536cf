"""The Grafana dashboard: read by Grafana's published types, and each of its expressions asked of real metrics."""

from __future__ import annotations

import json
import re
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("prometheus_client", reason="the extra fleet is not installed")

from agent.collector.metrics import exposition
from tests.integrations.prometheus import OWN, ask, samples
from tests.integrations.stand_in import fleet

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "grafana"
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "boardfit-dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]
VARIABLES = {one["name"]: one for one in DASHBOARD["templating"]["list"]}
QUERIES = [one["query"]["query"] for one in VARIABLES.values() if one["type"] == "query"]


def lost(ours: Any, theirs: Any, where: str = "") -> Iterator[str]:
    """Yield what of ours did not come back."""
    if isinstance(ours, dict):
        for key, value in ours.items():
            if isinstance(theirs, dict) and key in theirs:
                yield from lost(value, theirs[key], f"{where}.{key}")
            elif value is not None:
                yield f"{where}.{key}"
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from lost(one, other, f"{where}[{number}]")
    elif ours != theirs:
        yield f"{where}: {ours!r} is {theirs!r}"


def test_grafanas_published_types_know_every_field() -> None:
    """The types are generated from Grafana's schema; what they do not know does not come back."""
    pytest.importorskip("grafana_foundation_sdk", reason="grafana-foundation-sdk: not installed")
    from grafana_foundation_sdk.cog import plugins
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.models.dashboard import Dashboard

    plugins.register_default_plugins()

    def back(document: dict[str, Any]) -> Any:
        return json.loads(JSONEncoder().encode(Dashboard.from_json(document)))

    assert list(lost(DASHBOARD, back(DASHBOARD))) == []
    wrong = json.loads(json.dumps(DASHBOARD))
    wrong["panels"][1]["options"]["colourMode"] = "value"  # the check can fail
    assert list(lost(wrong, back(wrong))) == [".panels[1].options.colourMode"]


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    assert all(panel["description"] for panel in PANELS)


@pytest.mark.parametrize(("title", "expression"), EXPRESSIONS, ids=[title for title, _ in EXPRESSIONS])
def test_no_panel_speaks_of_a_metric_or_label_that_is_not_given(title: str, expression: str) -> None:
    found = samples(exposition(fleet(), OWN))
    names = re.findall(r"boardfit_\w+", expression)
    assert names
    for name in names:
        assert name in found, f"{title}: {name}"
        braces = re.search(rf"{name}\{{([^}}]*)\}}", expression)
        labels = set().union(*(labels for labels, _ in found[name]))
        assert set(re.findall(r"(\w+)\s*[=!]~?\"", braces.group(1) if braces else "")) <= labels, title


def filled(expression: str) -> str:
    for name in VARIABLES:
        expression = expression.replace(f"${name}", ".*")
    assert "$" not in expression.replace("$__rate_interval", ""), expression
    return expression.replace("$__rate_interval", "5m")


def test_a_real_prometheus_has_an_answer_for_every_panel(scraped: str) -> None:
    until = time.monotonic() + 60
    for _, expression in EXPRESSIONS:
        assert ask(scraped, filled(expression), until)
    (over,) = ask(scraped, filled(dict(EXPRESSIONS)["Tasks over their latency limit"]), until)
    assert over["value"][1] == "0"


def test_a_real_prometheus_has_values_for_every_variable(scraped: str) -> None:
    for query in QUERIES:
        found = re.fullmatch(r"label_values\((.+), (\w+)\)", query)
        assert found is not None
        ask(scraped, filled(found[1]), time.monotonic() + 60)
        url = f"{scraped}/api/v1/label/{found[2]}/values?match[]={urllib.parse.quote(filled(found[1]))}"
        with urllib.request.urlopen(url) as answer:
            assert json.load(answer)["data"], query


def test_what_legends_and_variables_name_exists() -> None:
    found = samples(exposition(fleet(), OWN))
    labels = {label for series in found.values() for those, _ in series for label in those} | {"instance"}
    for panel in PANELS:
        for target in panel["targets"]:
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= labels, panel["title"]
    named = set(re.findall(r"\$(\w+)", " ".join(expression for _, expression in EXPRESSIONS)))
    assert named - {"__rate_interval"} <= set(VARIABLES)


def test_the_provisioning_files_are_what_grafana_reads() -> None:
    (provider,) = yaml.safe_load((FOLDER / "provisioning" / "boardfit.yaml").read_text())["providers"]
    assert (provider["type"], set(provider["options"])) == ("file", {"path"})
    (source,) = yaml.safe_load((FOLDER / "provisioning" / "datasource.yaml").read_text())["datasources"]
    assert {"name", "type", "access", "url"} <= set(source)
    assert source["type"] == VARIABLES["datasource"]["query"]


def test_the_page_on_tools_names_metrics_that_exist() -> None:
    text = (FOLDER.parents[1] / "docs" / "integrations.md").read_text()
    page = text.split("## Prometheus")[1].split("## Telegraf")[0]
    found = samples(exposition(fleet(), OWN))
    named = {name for name in re.findall(r"boardfit_\w+", page) if not name.endswith("_")}
    assert len(named) > 10
    assert named <= set(found)
