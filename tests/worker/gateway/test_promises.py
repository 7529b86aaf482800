"""The promises of the worker's gateway: what a call gives, that none counts twice, and none after a lost lease."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from rvc_engine.checkpoints.manifest import CheckpointEntry, read_entries, write_entries
from rvc_engine.conversion.voice_files import VoiceFiles
from rvc_engine.errors import ArtifactInvalid, FailureCode, IncompatibleCheckpoint
from rvc_engine.events import ArtifactReady, Warned
from rvc_engine.workspace.layout import Workspace
from rvc_train.schemas.jobs import JobStatus
from rvc_train.schemas.voices.conversions import ConversionFailure
from rvc_train.schemas.workers import Drain, WorkerCommand
from server.database.tables import new_id
from server.storage.instance_files import INSTANCE_FILE
from tests.server.estimates.test_estimates import CALIBRATION
from tests.worker.conversions.conftest import Studio
from worker.gateway.errors import LeaseLost, Unavailable
from worker.gateway.interface import JobLease, RegisteredWorker, WorkerGateway
from worker.gateway.types import (
    Beat,
    ConversionResult,
    Failure,
    LocalFile,
    PreviousEngine,
    Released,
    Success,
    WorkerDescription,
    WorkerFault,
)

DESCRIPTION = WorkerDescription("w", 1, "here", "cpu", "a CPU", "1", 0, True, 0, None)


@pytest.fixture
def worker(gateway: WorkerGateway) -> RegisteredWorker:
    return gateway.register(DESCRIPTION)


def claim(worker: RegisteredWorker) -> JobLease:
    lease = worker.claim(is_repeated=False, job_id=None)
    assert lease is not None
    return lease


def lose(shop: Any) -> None:
    """Requeue the job, as of a worker that is considered lost."""
    (lease,) = shop.jobs.active_leases()
    assert shop.jobs.requeue_lost(lease) == "queued"


def artifact(path: Path, content: bytes = b"a voice") -> ArtifactReady:
    sha256 = hashlib.sha256(content).hexdigest()
    return ArtifactReady(kind="voice", name="anna.pth", path=str(path), size=len(content), sha256=sha256)


def make_checkpoint(workspace: Workspace, content: bytes = b"nets") -> CheckpointEntry:
    workspace.recovery.mkdir(parents=True, exist_ok=True)
    entry = CheckpointEntry("step_000000007.pt", 7, 1, len(content), hashlib.sha256(content).hexdigest())
    (workspace.recovery / entry.file).write_bytes(content)
    write_entries(workspace.recovery, [entry])
    return entry


def test_a_lease_brings_all_that_an_engine_reads(shop: Any, gateway: WorkerGateway, worker: RegisteredWorker) -> None:
    assert gateway.open() is not None
    job_id = shop.submit([])
    lease = claim(worker)
    assert (lease.job_id, lease.voice, lease.attempt, lease.previous_engine) == (job_id, "anna", 1, None)
    assert lease.attempt_folder.is_dir()
    inputs = lease.inputs()
    assert inputs.recordings.is_dir()
    assert json.loads(inputs.config.read_bytes()) == lease.config.model_dump(mode="json")
    assert json.loads(inputs.provenance.read_bytes())["job_id"] == job_id
    assert inputs.start is None
    with_log = lease.open_log()
    with_log.write("a line\n")
    with_log.close()
    assert "a line" in shop.log(job_id)
    gateway.close()


def test_a_numbered_batch_counts_once(shop: Any, worker: RegisteredWorker, tmp_path: Path) -> None:
    job_id = shop.submit([])
    lease = claim(worker)
    (tmp_path / "voice").write_bytes(b"a voice")
    for _ in range(2):
        lease.record([Warned(message="one", stage="train")], 1)
        lease.record([artifact(tmp_path / "voice")], 2)
    types = shop.event_types(job_id)
    assert (types.count("warning"), types.count("artifact_published")) == (1, 1)
    (row,) = shop.artifacts(job_id)
    assert shop.storage.resolve(row.path).read_bytes() == b"a voice"


def test_a_file_that_is_not_the_announced_one_is_not_published(
    shop: Any, worker: RegisteredWorker, tmp_path: Path
) -> None:
    job_id = shop.submit([])
    lease = claim(worker)
    (tmp_path / "voice").write_bytes(b"another")
    with pytest.raises(ArtifactInvalid, match="changed after the engine checked it"):
        lease.record([artifact(tmp_path / "voice")], 1)
    with pytest.raises(OSError, match="missing"):
        lease.record([artifact(tmp_path / "missing")], 1)
    assert shop.artifacts(job_id) == []


def test_a_lost_lease_changes_nothing_more_and_its_heartbeat_is_answered(
    shop: Any, gateway: WorkerGateway, worker: RegisteredWorker, tmp_path: Path
) -> None:
    job_id = shop.submit([])
    stale = claim(worker)
    lose(shop)
    successor = claim(gateway.register(DESCRIPTION))
    before = shop.job(job_id).model_dump()
    (tmp_path / "voice").write_bytes(b"a voice")
    calls: list[Callable[[], object]] = [
        stale.renew,
        lambda: stale.record([Warned(message="late", stage="train")], 1),
        lambda: stale.record([artifact(tmp_path / "voice")], 1),
        lambda: stale.record_engine(1, 1.0),
    ]
    fault = (FailureCode.ENGINE_CRASHED, "late")
    for outcome in (Success(), Released("late"), Failure(*fault), WorkerFault(*fault)):
        calls.append(lambda outcome=outcome: stale.finish(outcome))  # type: ignore[misc]
    for call in calls:
        with pytest.raises(LeaseLost):
            call()
    beat = worker.heartbeat(stale)
    assert beat.lost is not None
    assert replace(beat, lost=None) == Beat(None)
    assert (shop.job(job_id).model_dump(), shop.artifacts(job_id)) == (before, [])
    successor.renew()


def test_commands_come_with_the_answer_to_a_heartbeat(
    shop: Any, gateway: WorkerGateway, worker: RegisteredWorker
) -> None:
    job_id = shop.submit([])
    lease = claim(worker)
    assert (worker.heartbeat(None), worker.heartbeat(lease)) == (Beat(None), Beat(None))
    shop.jobs.drain_worker(worker.worker_id, Drain.HAND_BACK)
    assert worker.heartbeat(lease) == Beat(Drain.HAND_BACK, WorkerCommand.DRAIN)
    shop.jobs.cancel(job_id)
    assert worker.heartbeat(lease) == Beat(Drain.HAND_BACK, WorkerCommand.CANCEL)
    assert lease.finish(Released("cancelled")) == JobStatus.CANCELLED
    with shop.engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM attempts"))
        connection.execute(sa.text("DELETE FROM workers"))
    assert worker.heartbeat(None) == Beat(Drain.FINISH)


def test_work_of_a_dead_worker_is_handed_back_and_its_engine_named_to_the_next(
    shop: Any, gateway: WorkerGateway, worker: RegisteredWorker
) -> None:
    job_id = shop.submit([])
    claim(worker).record_engine(123, 45.5)
    assert gateway.requeue_worker(worker.worker_id) == [job_id]
    assert gateway.requeue_worker(worker.worker_id) == []
    lease = claim(worker)
    assert (lease.attempt, lease.previous_engine) == (2, PreviousEngine(123, 45.5, "here"))


def test_a_stored_checkpoint_is_restored_elsewhere_unless_it_is_damaged(
    shop: Any, worker: RegisteredWorker, tmp_path: Path
) -> None:
    shop.submit([])
    lease = claim(worker)
    assert lease.newest_checkpoint() is None
    here, elsewhere = Workspace(tmp_path / "here", "anna"), Workspace(tmp_path / "elsewhere", "anna")
    entry = make_checkpoint(here)
    for _ in range(2):
        lease.store_checkpoint(here)
    lose(shop)
    lease = claim(worker)
    stored = lease.newest_checkpoint()
    assert stored is not None
    assert (stored.token, stored.entry) == (1, entry)
    lease.restore_checkpoint(elsewhere)
    assert read_entries(elsewhere.recovery) == [entry]
    assert (elsewhere.recovery / entry.file).read_bytes() == b"nets"
    (here.recovery / entry.file).unlink()  # the stored one may be a link to it
    write_entries(here.recovery, [replace(entry, step=8, file="step_000000008.pt")])
    (here.recovery / "step_000000008.pt").write_bytes(b"more than that")
    with pytest.raises(IncompatibleCheckpoint, match="manifest"):
        lease.store_checkpoint(here)


def test_statuses_are_those_of_this_installation(shop: Any, gateway: WorkerGateway) -> None:
    job_id = shop.submit([])
    assert gateway.statuses([job_id, new_id("job")]) == {job_id: JobStatus.QUEUED}
    (shop.folder / INSTANCE_FILE).unlink()
    with pytest.raises(Unavailable):
        gateway.statuses([job_id])


def test_a_server_that_does_not_answer_is_unavailable_and_a_claim_may_be_repeated(
    shop: Any, worker: RegisteredWorker
) -> None:
    job_id = shop.submit([])
    shop.be_impatient()
    with sa.create_engine(shop.url).connect() as other:
        other.exec_driver_sql("BEGIN EXCLUSIVE")
        for call in (lambda: worker.heartbeat(None), lambda: claim(worker), worker.deregister):
            with pytest.raises(Unavailable):
                call()
        other.exec_driver_sql("ROLLBACK")
    lease = worker.claim(is_repeated=True, job_id=None)
    assert lease is not None
    assert lease.job_id == job_id
    assert "is running" in (worker.why_never_claimed(job_id) or "")


def test_a_calibration_is_stored_once(gateway: WorkerGateway) -> None:
    torch, threads = CALIBRATION.torch.partition("+")[0], CALIBRATION.num_threads
    assert gateway.lacks_calibration("a CPU", CALIBRATION.version, torch, threads)
    gateway.store_calibration("a CPU", CALIBRATION)
    assert not gateway.lacks_calibration("a CPU", CALIBRATION.version, torch, threads)


def test_a_conversion_is_claimed_with_its_files_and_its_results_are_stored(
    shop: Any, worker: RegisteredWorker, tmp_path: Path
) -> None:
    (tmp_path / "voice.pth").write_bytes(b"a voice")
    studio = Studio(shop, tmp_path / "voice.pth", [])
    assert worker.claim_conversion() is None
    first = studio.convert(b"a recording")
    lease = worker.claim_conversion()
    assert lease is not None
    assert (lease.conversion_id, lease.voice) == (first, "anna")
    assert [each.path.read_bytes() for each in lease.recordings] == [b"a recording"]
    assert lease.files.voice is not None
    assert lease.files == VoiceFiles(voice=lease.files.voice)
    assert lease.files.voice.read_bytes() == b"a voice"
    assert lease.beat(0.5) is False
    result = lease.folder / "000.wav"
    result.write_bytes(b"converted")
    file = LocalFile(result, 9, hashlib.sha256(b"converted").hexdigest())
    assert lease.finish([ConversionResult("out0.wav", file, 1.0)], "cpu", "no GPU") == "succeeded"
    assert studio.result(first).read_bytes() == b"converted"
    with pytest.raises(LeaseLost):
        lease.fail(ConversionFailure.INTERNAL, "late")

    second = studio.convert(b"another")
    for end in ("release", "cancel"):
        again = worker.claim_conversion()
        assert again is not None
        assert again.conversion_id == second
        if end == "release":
            again.release()
        else:
            studio.cancel(second)
            assert again.beat(0.1) is True
