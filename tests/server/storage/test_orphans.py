"""Orphans: kept at a start, moved to the trash an hour later, deleted after the trash's days."""

import json
import os
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import ValidationError
from sqlmodel import col
from typer.testing import CliRunner

import server.admin.cli
import server.app
import server.storage.orphans
from rvc_engine.checkpoints.manifest import CheckpointEntry, write_entries
from server.admin.doctor import _instance
from server.database.clock import utc_now
from server.database.result_tables import StoredFileRow
from server.results.checkpoints import StoredCheckpoints
from server.settings import ServerSettings
from server.storage.instance_files import INSTANCE_FILE
from server.storage.instances import open_instance
from server.storage.local import Storage
from server.storage.orphans import KINDS, Orphans
from server.storage.sizes import JobSizes
from server.storage.trash import Trash
from tests.systems import IS_WINE

NAMES = {
    "datasets": "ds_" + "0" * 32,
    "consents": "ds_" + "0" * 32,
    "fetched": "ds_" + "0" * 32,
    "cache": "ds_" + "0" * 32,
    "jobs": "job_" + "0" * 32,
    "base-weights": "bw_" + "0" * 32,
    "conversions": "cnv_" + "0" * 32,
    "uploads": "upl_" + "0" * 32,
    "incoming": "0" * 32,
}
ORPHANS = [f"{kind}/{NAMES[kind]}" for kind in KINDS]


def make_orphans(root: Path) -> None:
    for name in ORPHANS:
        path = root / name
        path.parent.mkdir(exist_ok=True)
        if name.startswith("uploads"):
            path.write_bytes(b"half")
        else:
            (path / "recordings").mkdir(parents=True)
            (path / "recordings" / "000001.wav").write_bytes(b"precious")


def those_in(root: Path) -> list[str]:
    return [f"{kind}/{path.name}" for kind in KINDS for path in sorted((root / kind).glob("*"))]


def trash_of(root: Path) -> list[str]:
    return sorted("/".join(path.parts[-2:]) for path in root.glob("trash/*/*/*"))


@pytest.fixture
def joined(engine: sa.Engine, tmp_path: Path) -> Storage:
    """A data folder that belongs to the database."""
    storage = Storage(tmp_path / "data")
    open_instance(engine, storage)
    return storage


@pytest.fixture
def later(engine: sa.Engine, joined: Storage) -> Callable[..., Orphans]:
    """`later(hours)`: the orphans, as so many hours from now."""

    def at(hours: float = 0.0) -> Orphans:
        return Orphans(engine, joined, 7, 1800, lambda: utc_now() + timedelta(hours=hours))

    return at


def test_a_start_leaves_everything_where_it_is(serve: Callable[..., Any], tmp_path: Path) -> None:
    with serve(tmp_path):
        pass
    make_orphans(tmp_path)
    with serve(tmp_path):
        assert those_in(tmp_path) == ORPHANS
    assert those_in(tmp_path) == ORPHANS
    assert not (tmp_path / "trash").exists()


def test_a_server_that_runs_moves_them_to_the_trash_by_itself(
    serve: Callable[..., Any], eventually: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.app, "SCAN_SECONDS", 0.05)
    monkeypatch.setattr(server.storage.orphans, "SECONDS_UNTOUCHED", 0.2)
    with serve(tmp_path, report_timeout_seconds=0.1) as live, live.client() as http:
        dataset_id = http.put("/v1/datasets/a/content", content=b"RIFF").json()["id"]
        make_orphans(tmp_path)
        # On a slow machine also what the report works on, which has longer elsewhere.
        eventually(lambda: set(trash_of(tmp_path)) >= set(ORPHANS))
        eventually(lambda: those_in(tmp_path) == [f"datasets/{dataset_id}"])  # when its report is written


@pytest.mark.skipif(IS_WINE, reason="Wine keeps no time of a file's creation")
def test_they_go_when_nothing_in_them_has_changed_for_an_hour(later: Callable[..., Orphans], joined: Storage) -> None:
    make_orphans(joined.root)
    assert [f"{each.kind}/{each.path.name}" for each in later().find()] == ORPHANS
    assert later(0.9).collect() == []
    old = utc_now().timestamp() - 30 * 86_400
    for path in joined.root.rglob("*"):  # as a copy that keeps the times of the files does
        os.utime(path, (old, old))
    assert later(0.9).collect() == []
    assert those_in(joined.root) == ORPHANS
    assert [each.kind for each in later(1.1).collect()] == [kind for kind in KINDS if kind != "incoming"]
    later(1.6).collect()
    assert (those_in(joined.root), trash_of(joined.root)) == ([], sorted(ORPHANS))


def test_one_whose_innermost_file_changed_is_left_alone(later: Callable[..., Orphans], joined: Storage) -> None:
    make_orphans(joined.root)
    written = joined.root / "jobs" / NAMES["jobs"] / "recordings" / "000001.wav"
    soon = utc_now().timestamp() + 3600
    os.utime(written, (soon, soon))
    moved = {each.kind for each in later(1.6).collect()}
    assert moved == set(KINDS) - {"jobs"}


def test_a_report_that_may_take_hours_keeps_what_it_works_on(engine: sa.Engine, joined: Storage) -> None:
    make_orphans(joined.root)
    orphans = Orphans(engine, joined, 7, 3 * 3600, lambda: utc_now() + timedelta(hours=3.9))
    assert "incoming" not in {each.kind for each in orphans.collect()}


def test_what_has_a_row_and_what_has_no_name_of_ours_is_never_moved(
    later: Callable[..., Orphans], joined: Storage, bench: Any
) -> None:
    job = bench.job()
    kept = [f"datasets/{job.dataset_id}", f"cache/{job.dataset_id}", f"jobs/{job.id}"]
    foreign = ["datasets/lost+found", "jobs/.snapshots", "uploads/notes.txt", "incoming/mine", "cache/ds_short"]
    for name in (*kept, *foreign):
        (joined.root / name).mkdir(parents=True)
    assert later(1000).collect() == []
    assert set(those_in(joined.root)) == {*kept, *foreign}


def test_a_dataset_that_comes_between_the_looks_at_files_and_rows_is_no_orphan(
    later: Callable[..., Orphans], joined: Storage, bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    orphans = later()
    known = orphans._ids_with_rows

    def and_then_one_comes() -> Any:
        found = known()
        joined.dataset_home(bench.dataset()).mkdir(parents=True)
        return found

    monkeypatch.setattr(orphans, "_ids_with_rows", and_then_one_comes)
    assert orphans.find() == []


def test_nothing_is_moved_when_the_disk_or_the_database_is_another_one_meanwhile(
    later: Callable[..., Orphans], joined: Storage
) -> None:
    make_orphans(joined.root)
    shutil.move(joined.root / INSTANCE_FILE, joined.root / "away")
    assert later(100).collect() == []
    (joined.root / INSTANCE_FILE).write_text('{"id": "ins_of_another", "created_at": "2026-01-01T00:00:00Z"}')
    assert later(100).collect() == []
    assert those_in(joined.root) == ORPHANS
    shutil.move(joined.root / "away", joined.root / INSTANCE_FILE)
    assert later(100).collect() != []


def test_the_trash_is_emptied_by_the_time_of_arrival_and_what_lies_there_can_be_moved_back(
    later: Callable[..., Orphans], joined: Storage
) -> None:
    make_orphans(joined.root)
    later(1.6).collect()
    (back,) = joined.root.glob(f"trash/*/{ORPHANS[0]}")
    back.rename(joined.root / ORPHANS[0])
    (joined.root / "trash" / "of a person").mkdir()
    later(7 * 24 + 1.5).collect()  # it takes what was moved back again
    assert len(trash_of(joined.root)) == len(ORPHANS)
    later(7 * 24 + 1.7).collect()
    assert trash_of(joined.root) == [ORPHANS[0]]
    later(14 * 24 + 1.7).collect()
    assert [path.name for path in (joined.root / "trash").iterdir()] == ["of a person"]


def test_what_cannot_be_moved_stays_and_holds_nothing_else_up(tmp_path: Path) -> None:
    trash = Trash(tmp_path)
    assert not trash.add(tmp_path / "gone", "jobs")
    (tmp_path / "there").mkdir()
    assert trash.add(tmp_path / "there", "jobs")


def test_a_trash_that_keeps_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="trash_days"):
        ServerSettings(trash_days=0)


def test_the_doctor_and_a_dry_run_list_them_and_gc_moves_them(
    engine: sa.Engine, joined: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_orphans(joined.root)
    url = engine.url.render_as_string(hide_password=False)
    settings = ServerSettings(data_folder=joined.root, database_url=url)

    def finding(what: str) -> str:
        return " ".join(each.text for each in _instance(settings) if each.what == what)

    def gc(*options: str) -> str:
        environment = {"RVC_TRAIN_DATA_FOLDER": str(joined.root), "RVC_TRAIN_DATABASE_URL": url}
        done = CliRunner().invoke(server.admin.cli.app, ["gc", *options], env=environment)
        assert done.exit_code == 0, done.output
        return done.stdout

    assert all(name in finding("orphans") for name in NAMES.values())
    assert "the server moves them to the trash" in finding("orphans")
    assert f"orphan  {ORPHANS[0]}  0.0 MB  kept" in gc()
    assert those_in(joined.root) == ORPHANS
    monkeypatch.setattr(server.storage.orphans, "SECONDS_UNTOUCHED", -1)
    monkeypatch.setenv("RVC_TRAIN_REPORT_TIMEOUT_SECONDS", "0.1")
    assert f"orphan  {ORPHANS[2]}  0.0 MB  would be moved to the trash" in gc("--dry-run")
    found = json.loads(gc("--dry-run", "--json"))
    assert [(each["name"], each["is_due"]) for each in found["orphans"]] == [(name, True) for name in ORPHANS]
    assert those_in(joined.root) == ORPHANS
    gc()
    assert (those_in(joined.root), trash_of(joined.root)) == ([], sorted(ORPHANS))
    assert (finding("orphans"), f"{len(ORPHANS)} items in" in finding("trash")) == ("", True)
    (batch,) = (joined.root / "trash").iterdir()
    batch.rename(batch.with_name("20200101T000000Z"))
    assert f"trash  trash/20200101T000000Z/{ORPHANS[0]}  would be deleted permanently" in gc("--dry-run")
    assert trash_of(joined.root) == sorted(ORPHANS)
    gc()
    assert trash_of(joined.root) == []


# Files of attempts that have ended


def put(path: Path, content: bytes = b"x") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path.name


def checkpoint(folder: Path, step: int) -> None:
    name = put(folder / f"step_{step:09d}.pt")
    write_entries(folder, [CheckpointEntry(name, step, 1, 1, "")])


@pytest.fixture
def attempts(bench: Any, joined: Storage) -> tuple[str, list[str]]:
    """A job with files of three attempts, of which two have ended and one runs; and those that nothing keeps."""
    job = bench.job()
    first = bench.claim()
    kept = joined.attempt_folder(job.id, 1) / "artifacts" / "kept"
    put(kept)
    bench.jobs.publish_artifact(first, "voice", "a.pth", kept.relative_to(joined.root).as_posix(), 1, "kept")
    for _ in range(2):
        (lease,) = bench.jobs.active_leases()
        bench.jobs.requeue_lost(lease)
        bench.claim()
    for token in (1, 2, 3):
        folder = joined.attempt_folder(job.id, token)
        for name in ("artifacts/unused", "artifacts/.half.tmp", "checkpoints/.step.tmp", "events.spool", "config.json"):
            put(folder / name)
        if token != 3:
            checkpoint(joined.checkpoints(job.id, token), token)
    put(joined.checkpoints(job.id, 2) / "step_000000009.pt")  # not in the manifest
    left = ["artifacts/.half.tmp", "artifacts/unused", "checkpoints/.step.tmp", "events.spool"]
    unused = [f"attempts/00000{token}/{name}" for token in (1, 2) for name in left]
    unused += [f"attempts/000001/checkpoints/{name}" for name in ("manifest.json", "step_000000001.pt")]
    unused += ["attempts/000002/checkpoints/step_000000009.pt"]
    return job.id, sorted(unused)


def test_files_of_ended_attempts_that_nothing_refers_to_are_orphans(
    later: Callable[..., Orphans], joined: Storage, attempts: tuple[str, list[str]]
) -> None:
    job_id, unused = attempts
    home = joined.job_home(job_id)
    before = {path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file()}
    found = later().find()
    assert sorted(each.path.relative_to(home).as_posix() for each in found) == unused
    assert all(f"{each.kind}/{each.path.name}" == each.path.relative_to(joined.root).as_posix() for each in found)
    assert later(0.9).collect() == []
    later(1.1).collect()
    assert {path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file()} == before - set(unused)
    trashed = [path for path in joined.root.glob(f"trash/*/jobs/{job_id}/**/*") if path.is_file()]
    assert sorted("/".join(path.relative_to(joined.root).parts[4:]) for path in trashed) == unused
    assert later(1.1).find() == []


def test_a_job_that_lost_orphans_is_measured_again(
    engine: sa.Engine, later: Callable[..., Orphans], joined: Storage, bench: Any, attempts: tuple[str, list[str]]
) -> None:
    sizes = JobSizes(engine, joined, utc_now)

    def charged() -> int:
        sizes.measure()
        with engine.connect() as connection:
            return connection.scalar(sa.select(sa.func.sum(col(StoredFileRow.bytes)))) or 0

    bench.jobs.force_fail(attempts[0], "stuck")
    before = charged()
    later(1.1).collect()
    on_disk = sum(path.stat().st_size for path in joined.job_home(attempts[0]).rglob("*") if path.is_file())
    assert charged() == on_disk < before


def test_files_in_the_places_of_earlier_versions_stay_readable_and_go_with_their_job(
    later: Callable[..., Orphans], joined: Storage, bench: Any
) -> None:
    job = bench.job()
    lease = bench.claim()
    old = joined.job_home(job.id) / "artifacts"
    put(old / "voice")
    put(old / "replaced")
    checkpoint(joined.job_home(job.id) / "checkpoints" / "000001", 7)
    bench.jobs.publish_artifact(lease, "voice", "a.pth", f"jobs/{job.id}/artifacts/voice", 1, "voice")
    bench.jobs.succeed(lease)
    stored = StoredCheckpoints(joined, job.id).latest()
    assert stored is not None
    assert (stored.token, stored.newest.step) == (1, 7)
    assert [each.path.name for each in later().find()] == ["replaced"]
    later(1.1).collect()
    assert joined.resolve(f"jobs/{job.id}/artifacts/voice").is_file()
    joined.delete_workspace(job.id)
    assert StoredCheckpoints(joined, job.id).latest() is None
    bench.jobs.delete(job.id)
    joined.delete_job(job.id)
    assert (list((joined.root / "jobs").iterdir()), later().find()) == ([], [])
