"""Scores and previews of a job's saves over HTTP, through the client and its command."""

import json

import pytest
from typer.testing import CliRunner

from rvc_engine.events import Evaluated, PreviewReady, QualityScored
from rvc_train.cli.main import app
from rvc_train.client import Client
from server.results.evaluations import PreviewFiles


def content(kind: str, step: int) -> bytes:
    return b"the recording" if kind == "recording" else f"{kind} at {step} ".encode() * 1000


@pytest.fixture(scope="module")
def job_id(live):
    """A job with two evaluated saves, of which the first is better."""
    bench, storage = live.bench, live.context.storage
    job = bench.job()
    lease = bench.claim()
    for step, mel in ((10, 21.5), (20, 23.0)):
        values = {"eval/mel": mel, "eval/f0_cents": 55.4, "eval/voicing": 0.08}
        fields = {"step": step, "epoch": step // 10, "values": values, "held_out": True, "is_best": step == 10}
        bench.jobs.record_events(lease, [Evaluated(**fields, num_clips=8, seconds=1.5)])
        stored = []
        for kind in ("audio", "picture", "recording"):
            source = storage.workspace(job.id) / "made"
            source.parent.mkdir(parents=True, exist_ok=True)
            source.write_bytes(content(kind, step))
            stored.append(storage.store_artifact(job.id, lease.token, source))
        paths = dict.fromkeys(("audio", "picture", "recording"), "somewhere")
        said = PreviewReady(step=step, epoch=step // 10, clip=1, seconds=4.0, scores={"eval/mel": mel}, **paths)
        bench.jobs.publish_preview(lease, said, PreviewFiles(*stored))
    bench.publish(lease)
    bench.jobs.succeed(lease)
    return job.id


def test_checkpoints_have_scores_and_one_is_the_best(http, job_id):
    found = http.get(f"/v1/jobs/{job_id}/checkpoints").json()["data"]
    assert [(each["step"], each["epoch"], each["scores"]["eval/mel"], each["is_best"]) for each in found] == [
        (10, 1, 21.5, True),
        (20, 2, 23.0, False),
    ]


def test_a_preview_is_fetched_by_its_address_with_type_hash_and_ranges(http, job_id):
    first = http.get(f"/v1/jobs/{job_id}/previews").json()["data"][0]
    assert (first["step"], first["clip"], first["is_best"]) == (10, 1, True)
    for kind, media_type in (("audio", "audio/flac"), ("picture", "image/png"), ("recording", "audio/flac")):
        answer = http.get(first[kind]["url"])
        assert (answer.headers["content-type"], answer.content) == (media_type, content(kind, 10))
        assert answer.headers["etag"] == f'"{first[kind]["sha256"]}"'
    part = http.get(first["audio"]["url"], headers={"Range": "bytes=2-5"})
    assert (part.status_code, part.content) == (206, content("audio", 10)[2:6])


@pytest.mark.parametrize("path", ["previews/e9_s9_1.flac", "previews/passwd", "checkpoints/1"])
def test_what_is_not_there_is_404(http, job_id, path):
    assert http.get(f"/v1/jobs/{job_id}/{path}").status_code == 404


def test_a_job_without_saves_has_empty_lists_and_no_job_has_none(http, live):
    job = live.bench.job()
    for kind in ("previews", "checkpoints"):
        assert http.get(f"/v1/jobs/{job.id}/{kind}").json()["data"] == []
        assert http.get(f"/v1/jobs/job_{'0' * 32}/{kind}").status_code == 404


def test_what_follows_of_a_deleted_job_is_nothing(live, http):
    bench = live.bench
    job = bench.job(priority=100)
    lease = bench.claim()
    fields = {"step": 1, "epoch": 1, "values": {"eval/mel": 1.0}, "held_out": False, "is_best": True}
    bench.jobs.record_events(lease, [Evaluated(**fields, num_clips=2, seconds=0.1)])
    bench.jobs.force_fail(job.id, "enough")
    assert http.delete(f"/v1/jobs/{job.id}").status_code == 204
    assert http.get(f"/v1/jobs/{job.id}/checkpoints").status_code == 404


def test_the_client_lists_and_fetches_previews(http, job_id, tmp_path):
    client = Client(http)
    assert [save.is_best for save in client.checkpoints(job_id)] == [True, False]
    path = client.download_artifact(client.previews(job_id)[1].picture, tmp_path)
    assert (path.name, path.read_bytes()) == ("e2_s20_1.png", content("picture", 20))


def test_the_command_shows_the_scores_and_fetches_every_file_once(live, job_id, tmp_path, authorized):
    token = authorized["Authorization"].removeprefix("Bearer ")
    words = ["previews", job_id, "--server", live.url, "--token", token, "-o", str(tmp_path)]
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 0, shown.output
    best = next(line for line in shown.output.splitlines() if "best" in line)
    assert best.split()[:4] == ["1", "10", "21.50", "55"]
    names = {"recording_1.flac", "e1_s10_1.flac", "e1_s10_1.png", "e2_s20_1.flac", "e2_s20_1.png"}
    assert {path.name for path in tmp_path.iterdir()} == names

    told = json.loads(CliRunner().invoke(app, [*words, "--json"]).output)
    assert len(told["checkpoints"]) == len(told["previews"]) == 2
    assert len(told["files"]) == len(names)


QUALITY = {
    "quality/similarity": 0.71,
    "quality/similarity/floor": 0.55,
    "quality/similarity/ceiling": 0.88,
    "quality/f0_correlation": 0.93,
    "quality/f0_correlation/floor": 0.02,
}


@pytest.fixture(scope="module")
def scored_job(live):
    """A job whose first save was evaluated and is the best; the last was not, and both are scored by conversions."""
    bench = live.bench
    job = bench.job(priority=90)
    lease = bench.claim()
    save = {"step": 10, "epoch": 1}
    values = {"eval/mel": 21.5}
    bench.jobs.record_events(
        lease, [Evaluated(**save, values=values, held_out=True, is_best=True, num_clips=8, seconds=1.5)]
    )
    last = QualityScored(step=30, epoch=3, values=QUALITY | {"quality/similarity": 0.69}, seconds=4.0)
    bench.jobs.record_events(lease, [last, QualityScored(**save, values=QUALITY, seconds=3.0)])
    bench.publish(lease)
    bench.jobs.succeed(lease)
    return job.id


def test_scores_by_conversions_stand_between_their_bounds(http, scored_job):
    best, last = http.get(f"/v1/jobs/{scored_job}/checkpoints").json()["data"]
    assert best["scores"] == {"eval/mel": 21.5}
    assert (best["is_best"], best["num_clips"]) == (True, 8)
    assert best["quality"] == [
        {"metric": "similarity", "value": 0.71, "floor": 0.55, "ceiling": 0.88},
        {"metric": "f0_correlation", "value": 0.93, "floor": 0.02, "ceiling": None},
    ]
    assert (last["step"], last["epoch"], last["scores"], last["is_best"]) == (30, 3, {}, False)
    assert last["quality"][0]["value"] == 0.69


def test_scoring_is_an_event_and_no_metric(http, scored_job):
    events = http.get(f"/v1/jobs/{scored_job}/events", params={"type": "quality_scored"}).json()["data"]
    assert [(event["data"]["step"], event["data"]["values"]["quality/similarity"]) for event in events] == [
        (30, 0.69),
        (10, 0.71),
    ]
    assert "on recordings of other speakers: similarity 0.710, F0 correlation 0.93" in events[1]["message"]
    assert not any(key.startswith("quality/") for key in http.get(f"/v1/jobs/{scored_job}").json()["losses"])


def test_a_step_that_is_trained_again_loses_its_scores(live, http):
    bench = live.bench
    job = bench.job(priority=95)
    lease = bench.claim()
    fields = {
        "epoch": 1,
        "values": {"eval/mel": 1.0},
        "held_out": False,
        "is_best": True,
        "num_clips": 2,
        "seconds": 0.1,
    }
    bench.jobs.record_events(lease, [QualityScored(step=9, epoch=1, values=QUALITY, seconds=1.0)])
    bench.jobs.record_events(lease, [Evaluated(step=8, **fields)])
    assert [each["step"] for each in http.get(f"/v1/jobs/{job.id}/checkpoints").json()["data"]] == [8]
    bench.jobs.force_fail(job.id, "enough")


def test_the_client_and_the_command_show_them(live, http, scored_job, authorized):
    assert [each.quality[0].metric for each in Client(http).checkpoints(scored_job)] == ["similarity", "similarity"]
    token = authorized["Authorization"].removeprefix("Bearer ")
    shown = CliRunner().invoke(app, ["previews", scored_job, "--server", live.url, "--token", token]).output
    rows = [" ".join(line.split()) for line in shown.splitlines()]
    assert "1 similarity to the speaker 0.550 0.710 0.880" in rows
    assert "3 intonation kept 0.02 0.93 -" in rows
    assert any("weights" in row for row in rows), "how to get the scores that are missing"
