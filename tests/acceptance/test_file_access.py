"""Files of server and workers are for their own user alone; what a person makes is as the person's umask says."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def usual_umask():
    """As most systems have it: whatever is made can be read by everyone."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def open_to_others(folder: Path) -> list[str]:
    paths = [folder, *folder.rglob("*")]
    return [f"{mode_of(path):o} {path.relative_to(folder)}" for path in paths if mode_of(path) & 0o077]


def test_everything_in_the_data_folder_is_its_users_alone_and_a_download_is_as_the_person_wants_it(
    station, recording, tmp_path
):
    station.follow_script(["train", 4, 0.01, 2], *station.MAKE_VOICE)
    station.environment["RVC_TRAIN_SCRATCH_FOLDER"] = str(tmp_path / "scratch")
    station.start_server()
    station.start_worker()
    upload = station.http.post(
        "/v1/uploads", headers={"Tus-Resumable": "1.0.0", "Upload-Length": "9", "Upload-Metadata": "filename YS53YXY="}
    )
    assert upload.status_code == 201
    chunk = {"Tus-Resumable": "1.0.0", "Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
    assert station.http.patch(upload.headers["Location"], content=b"RIFF", headers=chunk).status_code == 204
    job = station.wait_for(station.submit(station.upload(recording)), "succeeded", "failed")
    assert job.status == "succeeded", job.error
    data = tmp_path / "data"
    kinds = {path.relative_to(data).parts[0] for path in data.rglob("*") if path.is_file()}
    assert {"datasets", "jobs", "uploads", "rvc-train.db", "rvc-train.db-wal", "server.lock"} <= kinds
    assert open_to_others(data) == []
    assert open_to_others(tmp_path / "scratch") == []

    done = station.cli("download", job.id, "-o", str(tmp_path / "voices"))
    assert done.returncode == 0, done.stderr
    assert (mode_of(tmp_path / "voices"), mode_of(tmp_path / "voices" / "anna.pth")) == (0o755, 0o644)
    assert station.cli("admin", "backup", str(tmp_path / "backup")).returncode == 0
    assert open_to_others(tmp_path / "backup") == []


def test_an_engine_that_a_person_starts_keeps_the_persons_umask(recording, tmp_path):
    (tmp_path / "recordings").mkdir()
    (tmp_path / "recordings" / "a.flac").write_bytes(recording.read_bytes())
    command = [sys.executable, "-m", "rvc_engine", "report", "recordings", "--output", "report.json"]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert mode_of(tmp_path / "report.json") == 0o644


def test_a_folder_from_before_is_closed_at_the_next_start_and_the_log_says_so(station, tmp_path):
    data = tmp_path / "data"
    for name in ("datasets/ds_1/recordings", "weights"):
        (data / name).mkdir(parents=True)
    (data / "datasets" / "ds_1" / "recordings" / "000001.wav").write_bytes(b"RIFF")
    assert mode_of(data) == 0o755
    station.start_server()
    assert (mode_of(data), mode_of(data / "datasets")) == (0o700, 0o700)
    log = (tmp_path / "server.log").read_text()
    assert f"{data} was open to other users of this machine: its mode was 755, and is 700 now" in log
    station.processes[-1].terminate()
    station.processes[-1].wait(20)
    (tmp_path / "server.log").unlink()
    station.start_server()
    assert "open to other users" not in (tmp_path / "server.log").read_text()
