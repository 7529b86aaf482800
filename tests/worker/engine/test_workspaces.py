"""Scratch folder of a worker: its owner, and what is deleted from it and when."""

import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from rvc_train.schemas.jobs import JobStatus
from server.database.tables import new_id
from server.errors import SettingsRefused
from server.storage.instance_files import INSTANCE_FILE, read_instance_id, write_instance_id
from tests.programs import run_program
from worker.engine.workspaces import Workspaces
from worker.gateway.types import Folders

UNKNOWN = "job_" + "0" * 32


def files_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def put(scratch: Path, job_id: str) -> Path:
    file = scratch / job_id / "workspace" / "G_1.pth"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"a checkpoint")
    return file


def start_worker(shop: Any, scratch: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """A worker process that is expected to refuse."""
    environment = os.environ | {
        "RVC_TRAIN_DATA_FOLDER": str(shop.folder),
        "RVC_TRAIN_SCRATCH_FOLDER": str(scratch),
        "RVC_TRAIN_DEVICE": "cpu",
        **more,
    }
    return run_program("worker", environment=environment)


@pytest.mark.parametrize("is_marked", [True, False], ids=["with its id", "from before there were ids"])
def test_a_worker_refuses_the_scratch_folder_of_another_installation_and_deletes_nothing(
    shop: Any, tmp_path_factory: pytest.TempPathFactory, is_marked: bool
) -> None:
    scratch = tmp_path_factory.mktemp("scratch")
    put(scratch, UNKNOWN)
    if is_marked:
        write_instance_id(scratch / INSTANCE_FILE, "ins_of_another")
    before = files_in(scratch)
    done = start_worker(shop, scratch)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert f"the scratch folder {scratch} belongs to" in done.stderr
    assert read_instance_id(shop.folder / INSTANCE_FILE) in done.stderr
    assert "RVC_TRAIN_SCRATCH_FOLDER" in done.stderr
    assert files_in(scratch) == before


@pytest.mark.parametrize("which", ["a folder on a disk that is not mounted", "the database of another installation"])
def test_a_worker_refuses_a_folder_and_a_database_that_do_not_belong_together(
    shop: Any, tmp_path_factory: pytest.TempPathFactory, which: str
) -> None:
    scratch, other = tmp_path_factory.mktemp("scratch"), tmp_path_factory.mktemp("other")
    put(scratch, UNKNOWN)
    put(shop.storage.root / "jobs", UNKNOWN)
    before = (files_in(scratch), files_in(shop.folder / "jobs"))
    changed = (
        {"RVC_TRAIN_DATA_FOLDER": str(other), "RVC_TRAIN_DATABASE_URL": shop.url}
        if "mounted" in which
        else {"RVC_TRAIN_DATABASE_URL": f"sqlite:///{other}/new/rvc-train.db"}
    )
    done = start_worker(shop, scratch, **changed)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert "do not belong together, and nothing was changed" in done.stderr
    assert (files_in(scratch), files_in(shop.folder / "jobs")) == before
    assert not list(other.iterdir())


def test_several_workers_share_a_scratch_folder_and_take_over_one_from_before_there_were_ids(
    shop: Any, tmp_path: Path
) -> None:
    scratch = tmp_path / "scratch"
    job_id = shop.submit([["succeed"]])
    put(scratch, job_id)
    put(scratch, UNKNOWN)
    instance_id = read_instance_id(shop.folder / INSTANCE_FILE)
    for _ in range(2):
        gateway = shop.gateway()
        Workspaces(gateway.folders, scratch).claim_scratch(instance_id, gateway.statuses)
    assert read_instance_id(scratch / INSTANCE_FILE) == instance_id


def test_a_scratch_folder_among_the_jobs_is_refused(shop: Any) -> None:
    """It would be swept, and voices with it."""
    with pytest.raises(SettingsRefused, match="where voices are kept"):
        Workspaces(shop.gateway().folders, shop.folder / "jobs").claim_scratch("ins_1", lambda _: {})


def test_a_start_deletes_no_scratch_folder_and_the_end_of_a_job_only_those_of_jobs_that_are_over(
    shop: Any, tmp_path: Path
) -> None:
    scratch = tmp_path / "scratch"
    over, paused = shop.submit([["succeed"]]), shop.submit([["succeed"]])
    shop.jobs.cancel(over)
    shop.jobs.pause(paused)
    for job_id in (over, paused, UNKNOWN):
        put(scratch, job_id)
    with shop.worker(scratch_folder=scratch):
        shop.wait_until(lambda: read_instance_id(scratch / INSTANCE_FILE) is not None, "its mark")
        assert len(list(scratch.glob("job_*"))) == 3
        shop.wait_for(shop.submit(list(shop.MAKE_VOICE)), "succeeded")
        shop.wait_until(lambda: not (scratch / over).exists(), "the folder of the job that is over to go")
        shop.wait_until(lambda: len(list(scratch.glob("job_*"))) == 2, "the new job's folder to go")
    assert sorted(path.name for path in scratch.glob("job_*")) == [UNKNOWN, paused]


def test_jobs_that_the_database_does_not_have_go_to_the_trash_an_hour_later_and_are_deleted_after_its_days(
    tmp_path: Path,
) -> None:
    scratch, known = tmp_path / "scratch", new_id("job")
    put(scratch, UNKNOWN)
    put(scratch, known)
    write_instance_id(scratch / INSTANCE_FILE, "ins_1")

    data = tmp_path / "data"
    folders = Folders(data, data / "jobs", data / "weights")

    def sweep(hours: float, instance_id: str = "ins_1") -> list[str]:
        now = datetime.now(UTC) + timedelta(hours=hours)
        workspaces = Workspaces(folders, scratch, lambda: now)
        workspaces.sweep(instance_id, lambda _: {known: JobStatus.PAUSED}, trash_days=7)
        return [name.split("/", 2)[-1] for name in files_in(scratch) if name.startswith("trash")]

    kept = f"jobs/{UNKNOWN}/workspace/G_1.pth"
    assert sweep(0.9) == []
    assert sweep(1.1, "ins_2") == []
    assert sweep(1.1) == [kept]
    assert sweep(7 * 24) == [kept]
    assert sweep(7 * 24 + 2) == []
    assert sorted(path.name for path in scratch.iterdir() if path.is_dir()) == [known, "trash"]
