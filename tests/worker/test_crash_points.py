"""A worker is killed between two steps of a publication, or a server in a deletion: nothing is lost or left over."""

import hashlib
import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlmodel import col, select

from server.auth.quotas import Quotas
from server.database.clock import utc_now
from server.database.engine import read_session
from server.database.result_tables import Preview, StoredFileRow
from server.errors import NotFound
from server.settings import ServerSettings
from server.storage.orphans import Orphans
from server.storage.sizes import JobSizes
from tests.crash_points import CrashPoints
from tests.programs import start_program

SCRIPT: list[list[object]] = [
    ["evaluated", 1, 30.0, True],
    ["preview", 1, "first"],
    ["evaluated", 1, 25.0, True],
    ["preview", 1, "first"],
    ["train", 4, 0.01, 2],
    ["evaluated", 4, 20.0, True],
    ["preview", 4, "second"],
    ["artifact", "best", 640],
    ["artifact", "voice", 6400],
    ["artifact", "index", 3200],
    ["succeed"],
]
"""The second evaluation of step 1 removes its preview, as does one after a resume."""


def worker_environment(shop: Any) -> dict[str, str]:
    settings = shop.settings(device="cpu", poll_seconds=0.05).model_dump(mode="json", exclude_none=True)
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in settings.items()}
    return {f"RVC_TRAIN_{name.upper()}": text for name, text in texts.items()} | {"OMP_WAIT_POLICY": "PASSIVE"}


def run_until_killed(shop: Any, job_id: str, points: CrashPoints, at: int, steps: str) -> bool:
    """Run a worker until it is killed or the job has succeeded; whether there may be further points."""
    points.arm(at, steps=steps, ignored_threads="heartbeat|gpus")
    log = shop.folder.with_suffix(".log")
    environment = worker_environment(shop) | points.environment
    worker = start_program(*points.command("worker"), environment=environment, output=log, errors=log)
    try:
        shop.wait_until(
            lambda: worker.poll() is not None or shop.job(job_id).status == "succeeded", f"an end, see {log}", 90
        )
        return shop.job(job_id).status != "succeeded"
    finally:
        worker.kill()
        worker.wait(30)


def go_on(shop: Any, job_id: str) -> None:
    """Continue with another worker, as after the lease has ended."""
    for lease in shop.jobs.active_leases():
        shop.jobs.requeue_lost(lease)
    with shop.worker():
        shop.wait_for(job_id, "succeeded", "failed", seconds=90)


def collect_orphans(shop: Any) -> None:
    """Collect orphans of any age; none is left, and the trash is empty."""
    orphans = Orphans(shop.engine, shop.storage, 1e-9, 0, lambda: utc_now() + timedelta(hours=2))
    orphans.collect()
    assert orphans.find() == []
    shutil.rmtree(shop.storage.root / "trash", ignore_errors=True)


def check_charges(shop: Any) -> None:
    """Check that lengths of files on disk (hard links once) equal the bytes charged, and that each file has its row."""
    JobSizes(shop.engine, shop.storage, utc_now).measure()
    root = shop.storage.root
    files = [path.stat() for path in root.glob("jobs/**/*") if path.is_file()]
    settings = ServerSettings(data_folder=root, database_url=shop.url)
    of_dataset = 1
    charged = Quotas(shop.engine, settings, utc_now).of("local").usage.bytes - of_dataset
    assert charged == sum({file.st_ino: file.st_size for file in files}.values())
    with read_session(shop.engine) as session:
        rows = session.exec(select(StoredFileRow.path).where(col(StoredFileRow.sha256).is_not(None))).all()
    assert {path.relative_to(root).as_posix() for path in root.glob("jobs/*/attempts/*/artifacts/*")} == set(rows)
    assert list(root.glob("incoming/*")) == []


def check_results(shop: Any, job_id: str) -> None:
    """Check that all results of the script are there, with their bytes."""
    assert shop.job(job_id).status == "succeeded", shop.log(job_id)
    files = {row.name: (row.path, row.sha256) for row in shop.artifacts(job_id)}
    assert set(files) == {"anna.pth", "anna.index", "anna_best.pth"}
    with read_session(shop.engine) as session:
        previews = session.exec(select(Preview)).all()
    assert [row.step for row in previews] == [1, 4]
    found = [*files.values(), *((row.audio_path, row.audio_sha256) for row in previews)]
    found += [(row.recording_path, row.recording_sha256) for row in previews]
    for path, sha256 in found:
        assert hashlib.sha256(shop.storage.resolve(path).read_bytes()).hexdigest() == sha256


def try_point(shop: Any, folder: Path, at: int, steps: str) -> bool:
    """Kill a worker at a point, go on, and check; whether there may be further points."""
    job_id = shop.submit(SCRIPT)
    points = CrashPoints(folder, shop.folder)
    is_interrupted = run_until_killed(shop, job_id, points, at, steps)
    go_on(shop, job_id)
    check_results(shop, job_id)
    collect_orphans(shop)
    check_charges(shop)
    return is_interrupted


@pytest.mark.parametrize(
    ("steps", "at"),
    [
        ("rename jobs/.*/artifacts/", 1),  # a preview's first file is there, without a row
        ("remove jobs/.*/artifacts/[0-9a-f]{64}", 0),  # a replaced file, whose row is gone
        ("rename jobs/.*/checkpoints/.manifest", 0),  # a copied checkpoint without its manifest
    ],
)
def test_a_worker_killed_in_a_publication_leaves_nothing_and_its_job_succeeds(
    shop: Any, tmp_path_factory: pytest.TempPathFactory, steps: str, at: int
) -> None:
    assert try_point(shop, tmp_path_factory.mktemp("points") / "worker", at, steps)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_worker_killed_at_any_step_leaves_nothing_and_its_job_succeeds(
    open_shop: Callable[[Path], Any], tmp_path: Path
) -> None:
    for at in itertools.count():
        folder = tmp_path / f"data-{at}"
        folder.mkdir()
        with open_shop(folder) as shop:
            is_interrupted = try_point(shop, tmp_path / f"points-{at}", at, "jobs/|commit")
        shutil.rmtree(folder)
        if not is_interrupted:
            break
    assert at > 60


@pytest.fixture(scope="module")
def finished(open_shop: Callable[[Path], Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A folder of a station whose only job has succeeded, and the job's id."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "data").mkdir()
    with open_shop(folder / "data") as shop:
        job_id = shop.submit(SCRIPT)
        with shop.worker():
            shop.wait_for(job_id, "succeeded")
    return folder, job_id


def delete_at(
    at: int, steps: str, folder: Path, job_id: str, open_station: Callable[..., Any], open_shop: Callable[[Path], Any]
) -> bool:
    """Kill a server at a point of the job's deletion, and check; whether there was such a point."""
    points = CrashPoints(folder / "points", folder / "data")
    station = open_station(folder)
    try:
        server = station.start_server(points)
        points.arm(at, steps=steps, ignored_threads="^(?!AnyIO)")
        with suppress(httpx.TransportError):
            station.http.delete(f"/v1/jobs/{job_id}")
        is_killed = points.was_killed()
        server.kill()
        server.wait(30)
    finally:
        station.close()
    with open_shop(folder / "data") as shop:
        collect_orphans(shop)
        try:
            check_results(shop, job_id)
            check_charges(shop)
            shop.jobs.delete(job_id)
            shop.storage.delete_job(job_id)
        except NotFound:
            pass
        check_charges(shop)
        assert list((folder / "data" / "jobs").iterdir()) == []
    return is_killed


@pytest.mark.parametrize("steps", ["^commit$", "^rename", "^remove"])
def test_a_server_killed_in_a_deletion_keeps_the_job_or_leaves_nothing(
    finished: tuple[Path, str],
    open_station: Callable[..., Any],
    open_shop: Callable[[Path], Any],
    tmp_path: Path,
    steps: str,
) -> None:
    folder, job_id = finished
    shutil.copytree(folder, tmp_path / "copy")
    assert delete_at(0, steps, tmp_path / "copy", job_id, open_station, open_shop)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_server_killed_at_any_step_of_a_deletion_keeps_the_job_or_leaves_nothing(
    finished: tuple[Path, str], open_station: Callable[..., Any], open_shop: Callable[[Path], Any], tmp_path: Path
) -> None:
    folder, job_id = finished
    for at in itertools.count():
        shutil.copytree(folder, tmp_path / f"{at}")
        is_killed = delete_at(at, "jobs/|incoming/|commit", tmp_path / f"{at}", job_id, open_station, open_shop)
        shutil.rmtree(tmp_path / f"{at}")
        if not is_killed:
            break
    assert at > 20
