"""An installation as the code of commit da175a3 left it goes on under the present code, and repeats nothing.

The old code itself makes the installation, from the history of this repository: a paused job, one whose worker and
engine were killed, half an upload, and the cache of prepared clips.
"""

import shutil
import subprocess
from pathlib import Path

import psutil
import pytest

LAST_BEFORE_THE_ROOMS = "da175a3"
TUS = {"Tus-Resumable": "1.0.0"}


@pytest.fixture
def old_code(tmp_path):
    """A folder with the packages as they were."""
    git = ["git", "-C", str(Path(__file__).parents[2])]
    if subprocess.run([*git, "cat-file", "-e", LAST_BEFORE_THE_ROOMS], capture_output=True, check=False).returncode:
        pytest.skip(f"this is no clone with the history since {LAST_BEFORE_THE_ROOMS}")
    archive = tmp_path / "old.tar"
    packages = ["client", "rvc_engine", "server", "worker"]
    subprocess.run([*git, "archive", f"--output={archive}", LAST_BEFORE_THE_ROOMS, *packages], check=True)
    (tmp_path / "old").mkdir()
    subprocess.run(["tar", "-xf", archive, "-C", tmp_path / "old"], check=True)  # tarfile's filters differ by Python
    return tmp_path / "old"


@pytest.fixture
def open_both(tmp_path, open_station, old_code):
    """Stations on one data folder: the first runs the old code, the second the present one."""
    folder = tmp_path / "station"
    folder.mkdir()
    old, new = open_station(folder, cwd=old_code), open_station(folder)
    old.environment["PYTHONPATH"] = str(old_code)
    yield old, new
    old.close()
    new.close()


def losses_by_step(station, job):
    (mel,) = [series for series in station.client.metrics(job.id).data if series.key == "loss/mel"]
    return list(zip(mel.steps, mel.values, strict=True))


def checkpointed(station, job):
    return [event.data["step"] for event in station.client.events(job.id) if event.type == "checkpoint_saved"]


def stages(station, job, after=0):
    changes = [event.data for event in station.client.events(job.id, after) if event.type == "stage_changed"]
    return {(change["stage"], change["state"]) for change in changes}


@pytest.mark.long
@pytest.mark.timeout(900)
def test_jobs_uploads_and_prepared_clips_of_the_last_version_before_the_rooms_go_on(open_both, recording):
    old, new = open_both
    config = old.small.model_copy(
        update={"total_epochs": 2, "batch_size": 1, "checkpoint_every_steps": 1, "pitch": "dio", "evaluate": "never"}
    )
    old.start_server()
    worker = old.start_worker()
    dataset = old.upload(recording)
    paused = old.submit(dataset, config=config)
    old.wait_until(lambda: len(checkpointed(old, paused)) >= 3, "three checkpoints", 300)
    old.client.pause(paused.id)
    old.wait_for(paused, "paused", seconds=120)
    interrupted = old.submit(dataset, config=config)
    old.wait_until(lambda: len(checkpointed(old, interrupted)) >= 2, "two checkpoints", 300)
    for process in [*psutil.Process(worker.pid).children(recursive=True), worker]:
        process.kill()
    upload = old.http.post("/v1/uploads", headers={**TUS, "Upload-Length": str(recording.stat().st_size)})
    piece = {**TUS, "Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
    content = recording.read_bytes()
    assert old.http.patch(upload.headers["Location"], content=content[:1000], headers=piece).status_code == 204
    seen = {job.id: [event.seq for event in old.client.events(job.id)][-1] for job in (paused, interrupted)}
    at = {job.id: checkpointed(old, job)[-1] for job in (paused, interrupted)}
    old.close()

    new.start_server()
    new.start_worker()
    new.client.resume(paused.id)
    for job in (interrupted, paused):
        done = new.wait_for(job, "succeeded", "failed", seconds=300)
        assert done.status == "succeeded", (done.error, new.client.logs(job.id, tail=30))
        assert {file.name for file in new.client.artifacts(job.id)} >= {"anna.pth", "anna.index"}
        assert ("train", "started") in stages(new, job, seen[job.id])
        for stage in ("slice", "pitch", "content"):
            assert (stage, "skipped") in stages(new, job, seen[job.id])
        saved = checkpointed(new, job)
        assert saved[saved.index(at[job.id]) + 1 :] == list(range(at[job.id] + 1, saved[-1] + 1))
        assert saved[-1] > at[job.id]
    # Both began alike, so each step of one, under whichever code, had the losses of the same step of the other.
    assert [step for step, _ in losses_by_step(new, paused)] == list(range(1, saved[-1] + 1))
    assert losses_by_step(new, paused) == losses_by_step(new, interrupted)

    shutil.rmtree(new.folder / "data" / "jobs" / paused.id / "workspace")
    other = new.submit(dataset, config=config.model_copy(update={"total_epochs": 1, "batch_size": 4}))
    assert new.wait_for(other, "succeeded", "failed", seconds=300).status == "succeeded"
    assert {("slice", "skipped"), ("pitch", "skipped"), ("content", "skipped")} <= stages(new, other)

    rest = {**piece, "Upload-Offset": new.http.head(upload.headers["Location"], headers=TUS).headers["Upload-Offset"]}
    assert rest["Upload-Offset"] == "1000"
    assert new.http.patch(upload.headers["Location"], content=content[1000:], headers=rest).status_code == 204
    made = {"name": "the same", "upload_id": upload.headers["Location"].rpartition("/")[2]}
    assert new.http.post("/v1/datasets", json=made).status_code == 201


@pytest.mark.parametrize("name", ["client", "client.api"])
def test_the_client_under_its_old_name_names_the_new_one(name):
    with pytest.raises(ImportError, match="from rvc_train import Client"):
        __import__(name)
