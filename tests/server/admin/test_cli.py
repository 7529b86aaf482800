import json
import os
import sqlite3
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.admin.backup import back_up
from server.database.engine import checkpoint_wal, create_engine
from server.errors import Refused
from server.storage.local import Storage
from tests.programs import run_program


def admin(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"RVC_TRAIN_DATA_FOLDER": str(folder)} | more
    return run_program("server.admin", *arguments, environment=environment, seconds=120)


@pytest.mark.sqlite
def test_a_backup_made_while_the_server_works_starts_as_a_server_of_its_own(
    live: Any, http: httpx.Client, finished: Callable[..., str], serve: Callable[..., Any], tmp_path: Path
) -> None:
    job_id = finished(b"the voice" * 1000)
    live.context.storage.job_log(job_id).write_text("the log")
    target = tmp_path / "backup"
    is_over = threading.Event()

    def write_on() -> None:
        while not is_over.is_set():
            live.bench.job(name="meanwhile")

    writer = threading.Thread(target=write_on)
    writer.start()
    try:
        ran = admin(live.context.storage.root, "backup", str(target), "--json")
    finally:
        is_over.set()
        writer.join()
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["has_database"]
    assert json.loads((target / "backup.json").read_text())["num_files"] >= 2
    with serve(target) as restored, restored.client() as other:
        assert other.get(f"/v1/jobs/{job_id}").json()["status"] == "succeeded"
        assert other.get(f"/v1/jobs/{job_id}/artifacts/anna.pth").content == b"the voice" * 1000
        assert other.get(f"/v1/jobs/{job_id}/logs").text == "the log"


@pytest.mark.sqlite
def test_the_log_can_be_folded_between_the_steps_of_a_backup(
    bench: Any, storage: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.database.engine.LARGE_WAL", 1)
    monkeypatch.setattr("server.database.copies.STEP_PAGES", 20)
    engine, sizes = bench.jobs.engine, []

    def fold(*_: object) -> None:
        checkpoint_wal(engine)
        sizes.append(Path(f"{engine.url.database}-wal").stat().st_size)

    monkeypatch.setattr("server.database.copies._Restarts.check", fold)
    jobs = [bench.job() for _ in range(10)]
    result = back_up(engine, storage, tmp_path / "backup")
    assert result.has_database
    assert sizes[0] == 0
    copy = create_engine(f"sqlite:///{tmp_path / 'backup' / 'rvc-train.db'}")
    with copy.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM jobs").scalar() == len(jobs)
    copy.dispose()


def test_what_happens_after_a_backup_does_not_reach_it(live: Any, finished: Callable[..., str], tmp_path: Path) -> None:
    job_id = finished(b"voice")
    log = live.context.storage.job_log(job_id)
    log.write_text("before")
    back_up(live.context.engine, live.context.storage, tmp_path / "backup")
    with log.open("a") as file:
        file.write(" and after")
    live.context.storage.delete_job(job_id)
    copy = tmp_path / "backup" / log.relative_to(live.context.storage.root)
    assert copy.read_text() == "before"


def test_a_backup_overwrites_nothing_and_leaves_no_half(live: Any, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(Refused, match="already exists"):
        back_up(live.context.engine, live.context.storage, tmp_path / "there")
    with pytest.raises(Refused, match="is in the data folder"):
        back_up(live.context.engine, live.context.storage, live.context.storage.root / "backup")
    broken = tmp_path / "broken"
    broken.mkdir()
    with sqlite3.connect(broken / "rvc-train.db") as connection:
        connection.execute("CREATE TABLE a (b)")
        connection.executemany("INSERT INTO a VALUES (?)", [("x" * 3000,)] * 50)
    content = bytearray((broken / "rvc-train.db").read_bytes())
    content[30_000:60_000] = os.urandom(30_000)
    (broken / "rvc-train.db").write_bytes(content)
    engine = create_engine(f"sqlite:///{broken / 'rvc-train.db'}")
    with pytest.raises((Refused, sqlite3.DatabaseError)):
        back_up(engine, Storage(broken), tmp_path / "of the broken")
    engine.dispose()
    assert not (tmp_path / "of the broken").exists()
    assert not list(tmp_path.glob(".of*"))


@pytest.mark.sqlite
def test_the_administrator_ends_a_stuck_job(live: Any) -> None:
    job = live.bench.job(name="stuck", priority=100)
    live.bench.claim()
    ran = admin(live.context.storage.root, "force-fail", job.id, "--message", "the GPU was taken out")
    assert ran.returncode == 0, ran.stderr
    job = live.context.jobs.get(job.id)
    assert (job.status, job.error_message) == ("failed", "the GPU was taken out")
    again = admin(live.context.storage.root, "force-fail", job.id)
    assert (again.returncode, again.stderr) == (1, "error: the job is failed; it cannot become failed\n")


@pytest.mark.sqlite
def test_an_administrator_without_a_token_creates_one(live: Any) -> None:
    root = live.context.storage.root
    ran = admin(root, "token", "create", "anna", "--scope", "read")
    assert ran.returncode == 0, ran.stderr
    secret = ran.stdout.strip().rpartition("=")[2]
    with live.client(Authorization=f"Bearer {secret}") as http:
        me = http.get("/v1/me").json()
    assert (me["owner"], me["scopes"]) == ("anna", ["read"])
    wrong = admin(root, "token", "create", "Anna B")
    assert (wrong.returncode, "Traceback" in wrong.stderr) == (2, False)
    (listed,) = json.loads(admin(root, "token", "list", "--json").stdout)
    assert secret not in str(listed)
    assert secret.startswith(listed["begins"])
    assert admin(root, "token", "revoke", listed["id"]).returncode == 0
    with live.client(Authorization=f"Bearer {secret}") as http:
        assert http.get("/v1/me").status_code == 401
    trail = http_of_administrator(live, "/v1/audit?target=" + listed["id"])
    assert [(each["action"], each["address"]) for each in trail] == [
        ("token.revoked", "rvc-train admin"),
        ("token.created", "rvc-train admin"),
    ]
    assert "revoked" in admin(root, "token", "list").stdout


def http_of_administrator(live: Any, path: str) -> list[dict[str, Any]]:
    with live.client() as http:
        return list(http.get(path).json()["data"])


@pytest.mark.sqlite
def test_gc_lists_removals_before_it_deletes(live: Any, http: httpx.Client) -> None:
    job = live.bench.job(name="old")
    http.post(f"/v1/jobs/{job.id}/cancel")
    http.put("/v1/retention", json={"keep_last": 0})
    root = live.context.storage.root
    assert job.id in admin(root, "gc", "--dry-run").stdout
    assert http.get(f"/v1/jobs/{job.id}").status_code == 200
    assert "were deleted" in admin(root, "gc").stdout
    assert http.get(f"/v1/jobs/{job.id}").status_code == 404
    http.put("/v1/retention", json={})


@pytest.mark.sqlite
def test_the_doctor_reports_each_check_and_what_to_do(live: Any, tmp_path: Path) -> None:
    root = live.context.storage.root
    ran = admin(root, "doctor", "--json")
    found = {finding["what"]: finding for finding in json.loads(ran.stdout)}
    assert (ran.returncode, found["engine"]["state"], found["database"]["state"]) == (0, "ok", "ok")
    assert "torch" in found["engine"]["text"]
    assert ("Landlock" in found["sandbox"]["text"]) or found["sandbox"]["state"] == "note"
    assert "rvc-engine weights fetch hubert" in found["weights"]["text"]
    exposed = admin(root, "doctor", RVC_TRAIN_HOST="0.0.0.0", PATH="")  # noqa: S104
    assert exposed.returncode == 1
    assert "FAULT  exposure" in exposed.stdout


def test_the_doctor_notices_a_clock_that_went_back(live: Any, bench: Any, tmp_path: Path) -> None:
    from server.admin.doctor import _clock
    from server.settings import ServerSettings

    bench.clock.advance(400 * 86_400)  # this bench's database is in tmp_path
    bench.job()
    findings = list(_clock(ServerSettings(database_url=str(bench.jobs.engine.url))))
    assert [finding.state for finding in findings] == ["fault"]
    assert "set the clock" in findings[0].text


@pytest.mark.parametrize("command", [["gc"], ["migrate"], ["backup", "x"], ["force-fail", "job_x"]])
def test_a_folder_without_a_database_is_an_error(tmp_path: Path, command: list[str]) -> None:
    ran = admin(tmp_path, *command)
    assert ran.returncode == 1
    assert ran.stderr == (
        f"error: {tmp_path} has no rvc-train.db; set RVC_TRAIN_DATA_FOLDER to the server's data folder\n"
    )
