"""Evaluations of an engine are recorded: events, scores, previews, and the best voice."""

import pytest

from server.errors import NotFound
from server.results.evaluations import EvaluationQueries
from server.storage.local import StoredFile


def checkpoints(shop, job_id):
    return EvaluationQueries(shop.engine).checkpoints(shop.job(job_id))


def previews(shop, job_id):
    return EvaluationQueries(shop.engine).previews(shop.job(job_id))


def content(shop, stored: StoredFile) -> bytes:
    return shop.storage.resolve(stored.path).read_bytes()


def run(shop, script) -> str:
    job_id = shop.submit([*script, *shop.MAKE_VOICE])
    with shop.worker():
        assert shop.wait_for(job_id, "succeeded", "failed").status == "succeeded"
    return job_id


def test_evaluations_become_events_metrics_and_checkpoints_of_which_one_is_the_best(shop):
    script = [["evaluated", 10, 30.0, True], ["evaluated", 20, 25.0, True], ["evaluated", 30, 27.0, False]]
    job_id = run(shop, script)

    reported = [event for event in shop.events(job_id) if event.type == "evaluated"]
    assert [(event.data["step"], event.data["is_best"]) for event in reported] == [(10, True), (20, True), (30, False)]
    assert "held-out clips: mel 25.00" in reported[1].message
    found = checkpoints(shop, job_id)
    assert [(save.step, save.scores["eval/mel"], save.is_best) for save in found] == [
        (10, 30.0, False),
        (20, 25.0, True),
        (30, 27.0, False),
    ]
    assert shop.job(job_id).losses["eval/mel"] == 27.0


def test_previews_are_stored_and_told_of_with_their_addresses(shop):
    job_id = run(shop, [["evaluated", 10, 30.0, True], ["preview", 10, "first"], ["preview", 20, "second"]])

    reported = [event for event in shop.events(job_id) if event.type == "preview_ready"]
    assert [event.data["audio"] for event in reported] == [
        f"/v1/jobs/{job_id}/previews/e10_s10_1.flac",
        f"/v1/jobs/{job_id}/previews/e20_s20_1.flac",
    ]
    first, second = previews(shop, job_id)
    assert (first.step, first.is_best, second.is_best) == (10, True, False)
    assert first.recording.sha256 == second.recording.sha256
    saves, job = EvaluationQueries(shop.engine), shop.job(job_id)
    assert content(shop, saves.preview_file(job, "e10_s10_1.flac")) == b"audio first"
    assert content(shop, saves.preview_file(job, "e20_s20_1.png")) == b"picture second"
    assert content(shop, saves.preview_file(job, "recording_1.flac")) == b"recording"
    for name in ("e10_s20_1.flac", "e10_s10_2.flac", "recording_1.png", "../job.log"):
        with pytest.raises(NotFound):
            saves.preview_file(job, name)


def test_a_run_that_went_back_leaves_nothing_of_the_line_it_left(shop):
    script = [
        *(["evaluated", 10, 30.0, True], ["preview", 10, "kept"]),
        *(["evaluated", 20, 20.0, True], ["preview", 20, "left"]),
        *(["evaluated", 30, 25.0, False], ["preview", 30, "left"]),
        *(["evaluated", 20, 22.0, False], ["preview", 20, "again"]),
    ]
    job_id = run(shop, script)
    assert [(save.step, save.scores["eval/mel"]) for save in checkpoints(shop, job_id)] == [(10, 30.0), (20, 22.0)]
    assert [preview.step for preview in previews(shop, job_id)] == [10, 20]
    assert (
        content(shop, EvaluationQueries(shop.engine).preview_file(shop.job(job_id), "e20_s20_1.flac")) == b"audio again"
    )


def test_a_preview_that_cannot_be_stored_is_a_warning_and_no_failure(shop):
    job_id = run(shop, [["lost_preview", 10]])
    [warning] = [event.message for event in shop.events(job_id) if event.type == "warning"]
    assert "preview of step 10" in warning
    assert previews(shop, job_id) == []


def test_the_best_voice_is_an_artifact_of_its_own_without_which_a_job_succeeds_too(shop):
    job_id = run(shop, [["artifact", "best", 6400]])
    kinds = {artifact.kind: artifact.name for artifact in shop.artifacts(job_id)}
    assert kinds == {"voice": "anna.pth", "index": "anna.index", "best": "anna_best.pth"}
