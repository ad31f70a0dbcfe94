"""Alert rules: valid, complete, each fires when it should and is silent when it should be."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from app.telemetry.catalogue import METRICS
from deploy.observability.__main__ import HERE, ROOT, generated
from deploy.observability.rules import rules
from deploy.observability.slo import load_slo
from tests.observability.alert_cases import CASES
from tests.observability.names import unknown_names

PROMETHEUS = ROOT / HERE / "prometheus"
RULES = rules(load_slo())
ALERTS: dict[str, dict[str, Any]] = {rule["alert"]: rule for group in RULES["groups"] for rule in group["rules"] if "alert" in rule}
EXPRESSIONS = [rule["expr"] for group in RULES["groups"] for rule in group["rules"]]


def promtool(*args: str, cwd: Path = PROMETHEUS) -> None:
    """Run it; its output is the failure's message."""
    done = subprocess.run(["promtool", *args], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def rule_test(name: str, *, fires: bool) -> dict[str, Any]:
    """One test of promtool's. It asks for the series ALERTS, so that labels and texts are not repeated here."""
    case = CASES[name]
    series = case.fires if fires else case.silent
    expr = f'count by (alertname) (ALERTS{{alertname="{name}",alertstate="firing"}}) > bool 0'
    found = [{"labels": f'{{alertname="{name}"}}', "value": 1}] if fires else []
    return {
        "name": f"{name} {'fires' if fires else 'is silent'}",
        "interval": f"{case.step}m",
        "input_series": [{"series": each, "values": values} for each, values in series.items()],
        "promql_expr_test": [{"expr": expr, "eval_time": f"{case.at}m", "exp_samples": found}],
    }


def run_rule_tests(folder: Path, *, fires: bool) -> None:
    """All cases, in one run of promtool for each step of time."""
    files = []
    for step in sorted({case.step for case in CASES.values()}):
        tests = [rule_test(name, fires=fires) for name, case in CASES.items() if case.step == step]
        files.append(folder / f"step-{step}.yml")
        content = {"rule_files": [str(PROMETHEUS / "rules.yml")], "evaluation_interval": f"{step}m", "tests": tests}
        files[-1].write_text(yaml.safe_dump(content))
    promtool("test", "rules", *map(str, files), cwd=folder)


@pytest.mark.parametrize("path", generated())
def test_a_generated_file_is_what_its_sources_say(path: str) -> None:
    assert (ROOT / path).read_text() == generated()[path], "run `make observability` and commit what it writes"


def test_every_alert_has_a_case_and_every_case_an_alert() -> None:
    assert CASES.keys() == ALERTS.keys()


@pytest.mark.process
def test_every_alert_fires_when_it_should(tmp_path: Path) -> None:
    run_rule_tests(tmp_path, fires=True)


@pytest.mark.process
def test_every_alert_is_silent_when_it_should_be(tmp_path: Path) -> None:
    run_rule_tests(tmp_path, fires=False)


@pytest.mark.process
def test_promtool_accepts_rules_and_configuration(tmp_path: Path) -> None:
    promtool("check", "rules", "rules.yml")
    promtool("check", "config", "prometheus.yml")


@pytest.mark.process
def test_the_configuration_for_pods_is_accepted_but_for_the_discovery_that_debians_prometheus_lacks(tmp_path: Path) -> None:
    config = yaml.safe_load((PROMETHEUS / "prometheus-pods.yml").read_text())
    for job in config["scrape_configs"]:
        assert job.pop("kubernetes_sd_configs") == [{"role": "pod"}]
    (tmp_path / "pods.yml").write_text(yaml.safe_dump(config))
    (tmp_path / "rules.yml").write_text((PROMETHEUS / "rules.yml").read_text())

    promtool("check", "config", "pods.yml", cwd=tmp_path)


def test_both_configurations_scrape_the_same_jobs() -> None:
    def jobs(name: str) -> set[str]:
        return {job["job_name"] for job in yaml.safe_load((PROMETHEUS / name).read_text())["scrape_configs"]}

    assert jobs("prometheus.yml") == jobs("prometheus-pods.yml") == {"veltrix-worker", "veltrix-admin"}


@pytest.mark.parametrize("expr", EXPRESSIONS)
def test_a_rule_names_only_metrics_and_labels_that_exist(expr: str) -> None:
    recorded = {rule["record"] for group in RULES["groups"] for rule in group["rules"] if "record" in rule}

    assert unknown_names(expr, recorded) == set()


@pytest.mark.parametrize(
    ("expr", "unknown"),
    [
        ("rate(veltrix_evnts_total[5m])", {"veltrix_evnts_total"}),
        ("sum by (topic) (veltrix_consumer_lag)", {"topic"}),
        ('veltrix_ready{agent="a"}', {"agent"}),
        ('veltrix_consumer_lag{partition="0"}', set()),
        ("rate(veltrix_batch_records_bucket[5m])", set()),
        ("veltrix_batch_records", {"veltrix_batch_records"}),
    ],
)
def test_a_wrong_name_is_found(expr: str, unknown: set[str]) -> None:
    assert unknown_names(expr, set()) == unknown


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_calls_somebody_says_what_is_wrong_and_has_a_runbook(name: str) -> None:
    alert = ALERTS[name]

    assert alert["labels"]["severity"] in {"page", "ticket"}
    assert alert["annotations"]["summary"]
    assert (ROOT / alert["annotations"]["runbook"]).is_file(), "its runbook does not exist"


def test_the_runbooks_that_the_catalogue_names_exist() -> None:
    named = {name for metric in METRICS for name in re.findall(r"runbook ([a-z-]+)", metric.help)}

    assert {name for name in named if not (ROOT / "docs" / "runbooks" / f"{name}.md").is_file()} == set()


def test_an_objective_that_no_bucket_measures_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "slo.toml"
    file.write_text('[[objective]]\nname = "latency"\nsays = "x"\nshare = 0.99\nthreshold_ms = 90\n')

    with pytest.raises(ValidationError, match="must be one of"):
        load_slo(file)


def test_alertmanagers_example_routes_every_severity_and_inhibits_only_alerts_that_exist() -> None:
    config = yaml.safe_load((ROOT / HERE / "alertmanager.yml").read_text())
    receivers = {receiver["name"] for receiver in config["receivers"]}
    named = set(re.findall(r"Veltrix\w+", yaml.safe_dump(config["inhibit_rules"])))

    assert {config["route"]["receiver"], *(route["receiver"] for route in config["route"]["routes"])} == receivers
    assert named <= ALERTS.keys()
