"""Progress and metric events of an ended job are thinned, and a follower that comes later gets a consistent stream."""

from datetime import timedelta
from typing import Any

import httpx
import sqlalchemy as sa

from rvc_engine.events import CheckpointSaved, Metric, Progress, StageChanged
from rvc_train.schemas.events import EventType
from server.job_store.queries import JobQueries
from server.job_store.thinning import GRACE, thin_events
from server.jobs.service import JobService

FREQUENT = (EventType.PROGRESS, EventType.METRIC)
EPOCHS, STEPS = 3, 10


def train(jobs: JobService, lease: Any) -> None:
    """Three epochs of ten steps, each step in a batch of its own, with a save at the end of the second."""
    jobs.record_events(lease, [StageChanged(stage="train", state="started")])
    for step in range(1, EPOCHS * STEPS + 1):
        epoch = (step - 1) // STEPS + 1
        progress = Progress(stage="train", stage_progress=step / 30, progress=step / 30, step=step, epoch=epoch)
        jobs.record_events(lease, [progress, Metric(step=step, epoch=epoch, values={"loss/mel": 1 / step})])
        if step == 2 * STEPS:
            jobs.record_events(lease, [CheckpointSaved(step=step, epoch=epoch, path="G_20.pth")])


def test_after_a_while_the_last_progress_and_metric_of_each_epoch_stay_and_all_other_events(
    bench: Any, engine: sa.Engine, clock: Any
) -> None:
    bench.job()
    lease = bench.claim()
    train(bench.jobs, lease)
    queries = JobQueries(engine)
    before = queries.events(lease.job_id, 0, 1000).events
    assert thin_events(engine, clock) == 0, "it runs"
    bench.publish(lease)
    bench.jobs.succeed(lease)
    clock.advance(GRACE.total_seconds() - 1)
    assert thin_events(engine, clock) == 0, "its followers may still come back"
    clock.advance(2)
    assert thin_events(engine, clock) == 2 * EPOCHS * (STEPS - 1)
    after = queries.events(lease.job_id, 0, 1000)
    assert [
        (event.type, event.data["epoch"], event.data["step"]) for event in after.events if event.type in FREQUENT
    ] == [(kind, epoch, epoch * STEPS) for epoch in (1, 2, 3) for kind in FREQUENT]
    others = [event.seq for event in before if event.type not in FREQUENT]
    assert set(others) < {event.seq for event in after.events}
    assert after.events[-1].seq == after.last_seq == len(before) + 2
    assert queries.metrics(lease.job_id, [], 0, 1000)[0].num_points == EPOCHS * STEPS
    assert thin_events(engine, clock) == 0, "once is enough"


def test_a_stream_of_a_thinned_job_goes_on_after_a_number_that_is_gone(http: httpx.Client, live: Any) -> None:
    job = live.bench.job(priority=100)
    lease = live.bench.claim()
    assert lease.job_id == job.id
    train(live.context.jobs, lease)
    live.context.jobs.cancel(job.id)
    live.context.jobs.release(lease, "asked to")
    path = f"/v1/jobs/{job.id}/events"
    every = [event["seq"] for event in http.get(path, params={"limit": 1000}).json()["data"]]
    assert thin_events(live.context.engine, live.context.jobs.clock, grace=timedelta(seconds=-1)) > 0
    left = [event["seq"] for event in http.get(path, params={"limit": 1000}).json()["data"]]
    gone = next(seq for seq in every if seq not in left and seq > left[5])
    for start in (0, gone, left[6]):
        streamed = http.get(path, headers={"Accept": "text/event-stream", "Last-Event-ID": str(start)}).text
        seqs = [int(line[4:]) for line in streamed.splitlines() if line.startswith("id: ")]
        assert seqs == [seq for seq in left if seq > start]
        assert "event: end" in streamed
    pages, after = [], 0
    while True:
        page = http.get(path, params={"limit": 2, "after": after}).json()
        pages += [event["seq"] for event in page["data"]]
        if not page["has_more"]:
            break
        after = pages[-1]
    assert pages == left
