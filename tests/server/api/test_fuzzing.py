"""Every operation of the OpenAPI document under generated requests of schemathesis, with all its checks.

Event streams are left out, for they do not end; `test_following.py` tries them by hand.
"""

import copy
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from rvc_engine.events import Evaluated, PreviewReady
from rvc_train.schemas.access import TokenCreate
from rvc_train.schemas.webhooks import WebhookCreate
from server.admin.retention import KEEP_LABEL
from server.results.evaluations import PreviewFiles

TOKEN = "a-token-that-may-do-everything"
CONFIG = Path(__file__).parent / "schemathesis.toml"
NUM_JOBS = 12
"""Jobs of each kind: deleting and cancelling uses them up."""


@dataclass(frozen=True)
class Target:
    """A server with jobs, datasets and other resources."""

    url: str
    document: dict[str, Any]
    """Its OpenAPI document, whose id parameters also take the ids of these resources."""

    def with_short_config(self) -> "Target":
        """The same with three fields of the training config, which differ in all that fields differ in."""
        document = copy.deepcopy(self.document)
        config = document["components"]["schemas"]["TrainingConfig"]
        config["properties"] = {name: config["properties"][name] for name in ("f0", "batch_size", "lr_decay")}
        document["components"]["schemas"]["JobCreate"]["properties"]["config"].pop("default", None)
        return Target(self.url, document)


def filled(server: Any) -> dict[str, list[str]]:
    """Create resources of every kind; their ids and names by path parameter."""
    bench, context = server.bench, server.context
    known: dict[str, list[str]] = {"job_id": [], "webhook_id": [], "dataset_id": [], "upload_id": [], "token_id": []}
    for _ in range(NUM_JOBS):
        job = bench.job(labels={KEEP_LABEL: ""}, priority=100)
        lease = bench.claim()
        bench.jobs.record_events(lease, [Evaluated(**SAVE, num_clips=8, seconds=1.5)])
        source = context.storage.workspace(job.id) / "weights" / "made"
        source.parent.mkdir(parents=True)
        source.write_bytes(b"0123456789" * 100)
        stored = context.storage.store_artifact(job.id, lease.token, source)
        preview_ready = PreviewReady(
            step=10, epoch=1, clip=1, seconds=4.0, scores={}, audio="", picture="", recording=""
        )
        bench.jobs.publish_preview(lease, preview_ready, PreviewFiles(stored, stored, stored))
        bench.jobs.publish_artifact(lease, "voice", "anna.pth", stored.path, stored.size, stored.sha256)
        context.storage.job_log(job.id).write_text("a line\n" * 50)
        bench.jobs.succeed(lease)
        known["job_id"] += [job.id, bench.job().id]
        known["dataset_id"] += [job.dataset_id, bench.dataset()]
        webhook = context.webhooks.create("local", WebhookCreate(url="http://127.0.0.1:9/"))
        known["webhook_id"].append(webhook.id)
        known["delivery_id"] = [context.webhooks.ping(None, webhook.id).id]
        known["upload_id"].append(context.uploads.create("local", 1000, "").id)
        known["token_id"].append(context.tokens.create(TokenCreate(owner="bob"))[0].id)
    preview = httpx.get(f"{server.url}/v1/jobs/{job.id}/previews", headers=AUTHORIZED).json()["data"][0]
    known["name"] = ["anna.pth", preview["audio"]["url"].rpartition("/")[2]]
    known["weights_id"] = ["hubert"]
    known["owner"] = ["local", "bob"]
    return known


SAVE = {"step": 10, "epoch": 1, "values": {"eval/mel": 21.5}, "held_out": True, "is_best": True}
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}


def with_known(document: dict[str, Any], known: dict[str, list[str]]) -> dict[str, Any]:
    """The document with existing ids among the values of its parameters, without endless answers and cursors.

    Nor with keys, which are free or not by other requests; only submissions keep theirs, as they may be refused anyway.
    """
    for item in document["paths"].values():
        for operation in item.values():
            unknown = {"follow", "after"}
            if operation["operationId"] not in {"jobs_create", "jobs_retry"}:
                unknown.add("idempotency-key")
            parameters = [each for each in operation.get("parameters", []) if each["name"].lower() not in unknown]
            operation["parameters"] = parameters
            for parameter in parameters:
                if parameter["in"] == "path" and parameter["name"] in known:
                    exists = {"type": "string", "enum": known[parameter["name"]]}
                    parameter["schema"] = {"anyOf": [exists, parameter["schema"]]}
    schemas = document["components"]["schemas"]
    for schema in schemas.values():
        if schema.get("title") in {"JobCreate", "EstimateRequest"}:
            schema["properties"]["dataset_id"]["enum"] = known["dataset_id"]
    for name in ("WebhookCreate", "WebhookPatch"):
        schemas[name]["properties"]["url"] = {"enum": ["http://127.0.0.1:9/", "https://127.0.0.1:9/a?b=c"]}
    return document


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory, serve_for_module: Any) -> Iterator[Target]:
    """A server without rate limits, with webhooks to a closed port of this machine."""
    folder = tmp_path_factory.mktemp("fuzzed")
    unlimited = {"requests_per_minute": None, "writes_per_minute": None, "refusals_per_minute": None}
    with (
        pytest.MonkeyPatch.context() as patch,
        serve_for_module(folder, token=TOKEN, outbound_networks="127.0.0.1", **unlimited) as server,
    ):
        patch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # downloads of weights fail
        document = httpx.get(f"{server.url}/openapi.json").json()
        yield Target(server.url, with_known(document, filled(server)))


def fuzz(target: Target, folder: Path, *options: str) -> None:
    """Run schemathesis; fails with its output when it finds a fault."""
    document = folder / "openapi.json"
    document.write_text(json.dumps(target.document))
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "run", str(document)]
    command += ["--url", target.url, "--header", f"Authorization: Bearer {TOKEN}", "--no-color", *options]
    environment = {**os.environ, "NO_PROXY": "*", "PYTHONPATH": str(CONFIG.parent)}
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, check=False)
    assert ended.returncode == 0, ended.stdout[-30_000:] + ended.stderr[-5_000:]
    print(ended.stdout[-2_000:])


def test_no_question_brings_a_server_error_or_an_answer_that_is_not_documented(target: Target, tmp_path: Path) -> None:
    options = ("--generation-deterministic", "--phases", "examples,coverage")  # without the random ones
    fuzz(target.with_short_config(), tmp_path, *options)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_thousands_of_questions_bring_neither(target: Target, tmp_path: Path) -> None:
    fuzz(target, tmp_path, "--max-examples", "100")
