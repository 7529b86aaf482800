"""Commands of webhooks."""

import json

from typer.testing import CliRunner

from rvc_train.cli.main import app

SECRET = "whsec_" + "QUJD" * 8
WEBHOOK = {"id": "whk_1", "job_id": None, "url": "https://a.example/", "events": ["job.failed"], "is_enabled": True}
WEBHOOK |= dict.fromkeys(("disabled_reason", "disabled_at", "failing_since")) | {"created_at": "2026-11-29T12:00:00Z"}


def test_a_new_secret_is_printed_when_it_is_made_and_when_it_is_replaced(server, client):
    server.answer = lambda request: request.send_json(WEBHOOK | {"secret": SECRET}, 201)
    environment = {"RVC_TRAIN_SERVER": server.url, "RVC_TRAIN_TOKEN": "t"}

    def run(*words: str) -> str:
        done = CliRunner().invoke(app, ["webhook", *words], env=environment)
        assert done.exit_code == 0, done.output
        return done.stdout

    assert run("add", "https://a.example/") == f"whk_1\nsecret: {SECRET}\n"
    assert run("rotate-secret", "whk_1") == f"whk_1\nsecret: {SECRET}\n"
    assert json.loads(run("rotate-secret", "whk_1", "--secret", SECRET, "--json")) == {"id": "whk_1", "secret": SECRET}
    assert [(method, path) for method, path, _, _ in server.seen] == [
        ("POST", "/v1/webhooks"),
        *[("POST", "/v1/webhooks/whk_1/rotate-secret")] * 2,
    ]
    assert json.loads(server.seen[-1][3]) == {"secret": SECRET}
