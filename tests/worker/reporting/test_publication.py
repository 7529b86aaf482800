"""Publication of files under the token of their attempt: a stale worker harms neither its successor nor a deletion."""

import hashlib
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import col, select

from rvc_engine.checkpoints.manifest import CheckpointEntry, write_entries
from rvc_engine.events import ArtifactReady, Evaluated, Log, PreviewReady
from rvc_engine.workspace.layout import Workspace
from rvc_train.schemas.jobs import JobRetry
from server.auth.quotas import Quotas
from server.database.clock import utc_now
from server.database.engine import read_session
from server.database.result_tables import StoredFileRow
from server.errors import LeaseLost
from server.jobs.retry import RetryService
from server.settings import ServerSettings
from server.storage.sizes import JobSizes
from tests.systems import named_pipes
from worker.gateway.interface import JobLease
from worker.gateway.types import Success
from worker.reporting.event_reporter import EventReporter
from worker.reporting.spool import Spool


def lose(shop: Any) -> None:
    """Requeue the job of a worker that is considered lost."""
    (lease,) = shop.jobs.active_leases()
    assert shop.jobs.requeue_lost(lease) == "queued"


def reporter(shop: Any, lease: JobLease, folder: Path) -> EventReporter:
    folder.mkdir(exist_ok=True)
    return EventReporter(lease, folder, folder / "spool")


def ready(path: Path, content: bytes, name: str = "anna.pth") -> ArtifactReady:
    sha256 = hashlib.sha256(content).hexdigest()
    return ArtifactReady(kind="voice", name=name, path=str(path), size=len(content), sha256=sha256)


def artifact(folder: Path, content: bytes, name: str = "anna.pth") -> ArtifactReady:
    path = folder / name
    path.write_bytes(content)
    return ready(path, content, name)


def preview(folder: Path, step: int, recording: bytes = b"recording") -> list[Evaluated | PreviewReady]:
    """A save with a preview of new bytes."""
    contents = {"audio": os.urandom(1000), "picture": os.urandom(2000), "recording": recording}
    for kind, content in contents.items():
        (folder / kind).write_bytes(content)
    score = {"values": {"eval/mel": 1.0}, "held_out": True, "is_best": True, "num_clips": 1, "seconds": 1}
    paths = {kind: str(folder / kind) for kind in contents}
    return [
        Evaluated(step=step, epoch=1, **score),
        PreviewReady(step=step, epoch=1, clip=1, seconds=1, scores={}, **paths),
    ]


def make_checkpoint(workspace: Workspace, step: int, content: bytes) -> None:
    workspace.recovery.mkdir(parents=True, exist_ok=True)
    entry = CheckpointEntry(f"step_{step:09d}.pt", step, 1, len(content), hashlib.sha256(content).hexdigest())
    (workspace.recovery / entry.file).write_bytes(content)
    write_entries(workspace.recovery, [entry])


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@named_pipes
def test_a_stale_worker_leaves_its_successors_half_copied_voice_alone(shop: Any, tmp_path: Path) -> None:
    job_id = shop.submit([])
    stale = shop.claim()
    lose(shop)
    successor = shop.claim()
    late, present = tmp_path / "late", tmp_path / "present"
    theirs, mine = reporter(shop, stale, late), reporter(shop, successor, present)
    content = os.urandom(100_000)
    pipe = present / "anna.pth"
    os.mkfifo(pipe)  # its copy ends when the test has written all of it
    mine.add([ready(pipe, content)])
    copying = threading.Thread(target=mine.flush)
    copying.start()
    with pipe.open("wb") as writing:
        writing.write(content[:10])
        writing.flush()
        shop.wait_until(lambda: any(shop.storage.root.glob(f"jobs/{job_id}/**/.*.tmp")), "the copy's begin")
        theirs.add([artifact(late, b"a stale voice")])
        with pytest.raises(LeaseLost):
            theirs.flush()
        writing.write(content[10:])
    copying.join()
    assert (mine.rejected, mine.published) == (None, {"voice"})
    (row,) = shop.artifacts(job_id)
    assert shop.storage.resolve(row.path).read_bytes() == content


def test_nothing_of_a_deleted_job_comes_back(shop: Any, tmp_path: Path) -> None:
    job_id = shop.submit([])
    lease = shop.claim()
    folder = tmp_path / "scratch"
    late = reporter(shop, lease, folder)
    workspace = Workspace(folder / "workspace", "anna")
    make_checkpoint(workspace, 1, b"nets")
    spool = Spool(lease.attempt_folder / "events.spool", in_memory=0)
    shop.jobs.force_fail(job_id, "stuck")
    shop.jobs.delete(job_id)
    shop.storage.delete_job(job_id)
    for events in ([artifact(folder, b"a voice")], preview(folder, 1)[1:]):
        late.add(events)
        with pytest.raises(LeaseLost):
            late.flush()
        late.close()
    assert late.rejected is None
    lease.store_checkpoint(workspace)
    with pytest.raises(LeaseLost):
        lease.open_log()
    spool.add(Log(message="kept in memory"))
    assert [event.message for event in spool.front()] == ["kept in memory"]
    assert list((shop.storage.root / "jobs").iterdir()) == []


def test_what_an_engine_writes_after_its_jobs_deletion_does_not_stay(shop: Any) -> None:
    job_id = shop.submit([["train", 10_000, 0.01, 2]])
    with shop.worker():
        shop.wait_until(lambda: len(shop.steps(job_id)) >= 3, "three steps")
        shop.jobs.force_fail(job_id, "stuck")
        shop.jobs.delete(job_id)
        shop.storage.delete_job(job_id)
        next_id = shop.submit([*shop.MAKE_VOICE])
        shop.wait_for(next_id, "succeeded")
        assert [path.name for path in (shop.storage.root / "jobs").iterdir()] == [next_id]


def test_a_job_is_not_claimed_while_its_attempts_folder_cannot_be_created(shop: Any) -> None:
    obstacle = shop.storage.root / "jobs"
    obstacle.write_text("not a folder")
    job_id = shop.submit([*shop.MAKE_VOICE])
    with pytest.raises(OSError, match="jobs"):
        shop.claim()
    with shop.worker():
        obstacle.unlink()
        shop.wait_for(job_id, "succeeded")
    assert (shop.job(job_id).claims, shop.job(job_id).failures) == (1, 0)


# Bytes: all sizes are lengths of files (not blocks), a file with several hard links once.


def bytes_on_disk(shop: Any) -> int:
    """Sum of `du --apparent-size` for the files of all jobs."""
    files = [path.stat() for path in shop.storage.root.glob("jobs/**/*") if path.is_file()]
    return sum({file.st_ino: file.st_size for file in files}.values())


def bytes_charged(shop: Any) -> int:
    """Bytes charged for jobs, after a measurement."""
    JobSizes(shop.engine, shop.storage, utc_now).measure()
    return charged_now(shop)


def charged_now(shop: Any) -> int:
    settings = ServerSettings(data_folder=shop.storage.root, database_url=shop.url)
    of_dataset = 1
    return Quotas(shop.engine, settings, utc_now).of("local").usage.bytes - of_dataset


def stored_files(shop: Any) -> set[str]:
    with read_session(shop.engine) as session:
        return set(session.exec(select(StoredFileRow.path).where(col(StoredFileRow.sha256).is_not(None))).all())


def test_what_is_on_disk_is_charged_and_goes_with_its_last_reference(shop: Any, tmp_path: Path) -> None:
    job_id = shop.submit([])
    lease = shop.claim()
    folder = tmp_path / "scratch"
    events = reporter(shop, lease, folder)
    for step in (10, 20, 10):  # the last one after a resume
        for event in preview(folder, step):
            events.add([event])
            events.flush()
    root = shop.storage.root
    published = stored_files(shop)
    assert len(published) == 3
    assert charged_now(shop) == 1000 + 2000 + len(b"recording")  # without any measurement
    assert {path.relative_to(root).as_posix() for path in root.glob("jobs/**/artifacts/*")} == published
    for content in (b"the first voice", b"the second"):
        events.add([artifact(folder, content)])
        events.flush()
    assert {path.relative_to(root).as_posix() for path in root.glob("jobs/**/artifacts/*")} == stored_files(shop)
    assert len(stored_files(shop)) == 4
    assert bytes_charged(shop) == bytes_on_disk(shop)
    lease.finish(Success())
    shop.jobs.delete(job_id)
    assert charged_now(shop) == 0  # at once, before its files are deleted
    shop.storage.delete_job(job_id)
    assert (bytes_on_disk(shop), bytes_charged(shop)) == (0, 0)


def test_charges_equal_the_disk_after_losses_retries_and_deletions(shop: Any) -> None:
    def check_charges() -> None:
        charged = bytes_charged(shop)
        assert charged == pytest.approx(bytes_on_disk(shop), abs=3)  # each job's share is rounded

    def wait_for_failure(job_id: str, num_attempts: int) -> None:
        shop.wait_for(job_id, "failed")
        shop.wait_until(lambda: shop.log(job_id).count("attempt failed") == num_attempts, "the log's last line")

    def retry(job_id: str, *script: list[object]) -> str:
        shop.script.write_text(json.dumps(script))
        request = JobRetry.model_validate({"from": "checkpoint"})
        return RetryService(shop.jobs, shop.storage).retry(job_id, request, visible_owner=None).job_id

    fail = ["fail", "diverged", "no numbers"]
    first = shop.submit([["preview", 1, "x"], ["train", 4, 0.01, 2], fail])
    with shop.worker():
        wait_for_failure(first, 1)
        check_charges()
        second = retry(first, ["train", 6, 0.01, 100], ["preview", 6, "y"], fail)
        wait_for_failure(second, 1)
        check_charges()
        third = retry(second, ["preview", 1, "z"], ["train", 6, 0.01, 100], ["artifact", "voice", 64_000], ["exit", 3])
        wait_for_failure(third, 2)
    check_charges()
    for job_id in (second, first, third):
        shop.jobs.delete(job_id)
        shop.storage.delete_job(job_id)
        check_charges()
    assert (bytes_on_disk(shop), bytes_charged(shop), stored_files(shop)) == (0, 0, set())
