"""The alerts of the administrator's guide, evaluated by Prometheus' own tool over series of a server in trouble."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

pytestmark = pytest.mark.clients

GUIDE = Path(__file__).parents[2] / "docs" / "operations.md"
TROUBLE_MINUTE = 30
"""Minute at which the made-up series change."""


class Alert(NamedTuple):
    """A row of the guide's table."""

    expression: str
    wait_minutes: int


class Trouble(NamedTuple):
    """A series that must raise an alert: its values before and after, and the alert's labels."""

    series: str
    before: str
    after: str
    labels: dict[str, str]


TROUBLES = {
    "up": Trouble('up{job="rvc-train"}', "1", "0", {"job": "rvc-train"}),
    "lost": Trouble('rvc_train_workers{state="lost"}', "0", "1", {"state": "lost"}),
    "idle": Trouble('rvc_train_workers{state="idle"}', "1", "0", {}),
    "queue_age": Trouble("rvc_train_queue_age_seconds", "0", "90000", {}),
    "queued_jobs": Trouble('rvc_train_queued_jobs{gpus="2",has_worker="no"}', "0", "1", {}),
    "storage_errors": Trouble('rvc_train_storage_errors_total{kind="failed"}', "0", "1", {"kind": "failed"}),
    "disk_free": Trouble("rvc_train_disk_free_bytes", "30e9", "10e9", {}),
    "job_failures": Trouble('rvc_train_job_failures{code="engine_crashed"}', "0", "1", {"code": "engine_crashed"}),
    "validating": Trouble('rvc_train_datasets{status="validating"}', "0", "1", {"status": "validating"}),
    "ingesting": Trouble('rvc_train_datasets{status="ingesting"}', "0", "1", {"status": "ingesting"}),
    "webhook_messages": Trouble('rvc_train_webhook_messages{status="pending"}', "0", "101", {"status": "pending"}),
    "server_errors": Trouble("rvc_train_http_server_errors_total", "0", "1+1", {}),
}
"""By a word of the alert's expression, which no other expression has."""


def documented_alerts() -> list[Alert]:
    rows = GUIDE.read_text().split("\n| alert when |")[1].split("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in row.replace(r"\|", "\0").strip("|").split("|")] for row in rows]
    return [Alert(row[0].strip("`").replace("\0", "|"), _minutes(row[1])) for row in cells]


def _minutes(text: str) -> int:
    number, _, unit = text.partition(" ")
    return int(number or 0) * {"": 0, "min": 1, "h": 60}[unit]


def test_each_documented_alert_is_raised_by_the_first_trouble_and_not_before(tmp_path: Path) -> None:
    alerts = documented_alerts()
    assert len(alerts) == len(TROUBLES)
    rules, tests = [], []
    for word, trouble in TROUBLES.items():
        (alert,) = (each for each in alerts if re.search(rf"(_|\b){word}(_|\b)", each.expression))
        rules.append({"alert": word, "expr": alert.expression, "for": f"{alert.wait_minutes}m"})
        raised = TROUBLE_MINUTE + alert.wait_minutes + 2
        values = f"{trouble.before}x{TROUBLE_MINUTE} {trouble.after}x{raised}"
        expected = [(TROUBLE_MINUTE - 1, []), (raised, [{"exp_labels": trouble.labels}])]
        tests.append(
            {
                "interval": "1m",
                "input_series": [{"series": trouble.series, "values": values}],
                "alert_rule_test": [
                    {"eval_time": f"{minute}m", "alertname": word, "exp_alerts": found} for minute, found in expected
                ],
            }
        )
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "guide", "rules": rules}]}))  # JSON is YAML
    (tmp_path / "tests.yml").write_text(json.dumps({"rule_files": ["rules.yml"], "tests": tests}))
    done = subprocess.run(
        ["promtool", "test", "rules", "tests.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_server_that_has_just_started_has_every_series_of_the_alerts(served: Any) -> None:
    text = served.http.get("/metrics").text
    for trouble in TROUBLES.values():
        if trouble.series.startswith("rvc_train_"):
            assert f"\n{trouble.series} " in text, trouble.series


def test_prometheus_own_linter_finds_nothing_in_the_metrics(served: Any) -> None:
    metrics: httpx.Response = served.http.get("/metrics")
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=metrics.text, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
