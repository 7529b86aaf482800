from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from rvc_train.schemas.administration import RetentionPolicy
from rvc_train.schemas.jobs import JobPatch
from server.admin.retention import Retention
from server.database.tables import Job
from server.storage.local import Storage
from server.storage.sizes import size_of

DAY = 86_400


@pytest.fixture
def retention(job_service: Any, storage: Storage, clock: Any) -> Retention:
    return Retention(job_service, storage, clock)


@pytest.fixture
def ended(bench: Any, storage: Storage) -> Any:
    def end(name: str = "anna", **request: object) -> str:
        job = bench.job(name=name, **request)
        bench.jobs.cancel(job.id)
        folder = storage.workspace(job.id)
        folder.mkdir(parents=True)
        (folder / "checkpoint").write_bytes(bytes(100_000))
        return job.id

    return end


def ids(plan: Any) -> list[tuple[str, str]]:
    return [(removal.kind, removal.id) for removal in plan.removals]


def test_everything_is_kept_until_someone_says_otherwise(retention: Retention, ended: Any, clock: Any) -> None:
    ended()
    clock.advance(4000 * DAY)
    assert retention.plan().removals == []


def test_old_jobs_go_with_their_files_and_a_dry_run_deletes_nothing(
    retention: Retention, ended: Any, clock: Any, storage: Storage, job_service: Any
) -> None:
    old = ended("old")
    kept = ended("kept", labels={"keep": ""})
    clock.advance(10 * DAY)
    young = ended("young")
    policy = RetentionPolicy(keep_days=5)
    plan = retention.plan(policy)
    assert ids(plan) == [("job", old)]
    assert plan.freed_bytes >= 100_000
    assert storage.job_home(old).is_dir()
    retention.set_policy(policy)
    retention.apply()
    assert not storage.job_home(old).exists()
    jobs, _ = job_service.list()
    assert [job.id for job in jobs] == [young, kept]


def test_the_last_jobs_stay_however_old(retention: Retention, ended: Any, clock: Any) -> None:
    first, second, third = ended("a"), ended("b"), ended("c")
    clock.advance(10 * DAY)
    assert ids(retention.plan(RetentionPolicy(keep_last=2))) == [("job", first)]
    assert ids(retention.plan(RetentionPolicy(keep_last=2, keep_days=20))) == []
    assert ids(retention.plan(RetentionPolicy(keep_last=0, keep_days=5))) == [
        ("job", first),
        ("job", second),
        ("job", third),
    ]


def test_a_job_that_has_not_ended_is_never_touched(retention: Retention, bench: Any, clock: Any) -> None:
    bench.job()
    lease = bench.claim()
    clock.advance(100 * DAY)
    assert retention.plan(RetentionPolicy(keep_days=0, keep_last=0, workspace_days=0)).removals == []
    assert lease.token == 1


def test_workspaces_go_before_voices_do(retention: Retention, ended: Any, clock: Any, storage: Storage) -> None:
    old = ended()
    storage.job_log(old).write_text("the log")
    clock.advance(2 * DAY)
    plan = retention.apply(retention.plan(RetentionPolicy(workspace_days=1)))
    assert ids(plan) == [("workspace", old)]
    assert not storage.workspace(old).exists()
    assert storage.job_log(old).read_text() == "the log"


def test_a_full_disk_frees_what_can_be_made_again(
    retention: Retention, ended: Any, storage: Storage, monkeypatch: pytest.MonkeyPatch, bench: Any
) -> None:
    first, second = ended("a"), ended("b")
    cache = storage.cache_folder(bench.dataset())
    cache.mkdir(parents=True)
    (cache / "slices").write_bytes(bytes(50_000))
    busy = storage.cache_folder(bench.job().dataset_id)
    busy.mkdir(parents=True)
    monkeypatch.setattr(storage, "free_bytes", lambda: 1_000_000)
    assert ids(retention.plan(RetentionPolicy(min_free_bytes=1_000_000))) == []
    assert ids(retention.plan(RetentionPolicy(min_free_bytes=1_050_000))) == [("workspace", first)]
    most = ids(retention.plan(RetentionPolicy(min_free_bytes=9_000_000)))
    assert most == [("workspace", first), ("workspace", second), ("cache", cache.name)]
    retention.apply(retention.plan(RetentionPolicy(min_free_bytes=9_000_000)))
    assert not cache.exists()
    assert busy.is_dir()


def test_what_came_into_use_since_the_plan_is_kept(
    retention: Retention, ended: Any, bench: Any, clock: Any, storage: Storage, job_service: Any
) -> None:
    old = ended("old")
    dataset = bench.dataset()
    cache = storage.cache_folder(dataset)
    cache.mkdir(parents=True)
    (cache / "slices").write_bytes(bytes(50_000))
    clock.advance(10 * DAY)
    plan = retention.plan(RetentionPolicy(keep_days=5, min_free_bytes=2**60))
    assert {("job", old), ("cache", dataset)} <= set(ids(plan))
    bench.job(dataset_id=dataset)
    job_service.update(old, JobPatch(labels={"keep": ""}))
    retention.apply(plan)
    assert cache.is_dir()
    assert storage.job_home(old).is_dir()


def test_files_linked_from_elsewhere_free_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one").write_bytes(bytes(100_000))
    (tmp_path / "a" / "two").hardlink_to(tmp_path / "a" / "one")
    assert 100_000 <= size_of(tmp_path / "a") < 200_000
    (tmp_path / "three").hardlink_to(tmp_path / "a" / "one")
    assert size_of(tmp_path / "a") == 0


def test_the_policy_is_set_and_tried_over_http(http: httpx.Client, live: Any) -> None:
    assert http.get("/v1/retention").json()["policy"]["keep_days"] is None
    job = live.bench.job(name="old")
    http.post(f"/v1/jobs/{job.id}/cancel")
    request = {"keep_days": 0}
    tried = http.put("/v1/retention", params={"dry_run": "true"}, json=request).json()
    assert job.id in {removal["id"] for removal in tried["plan"]["removals"]}
    assert http.get("/v1/retention").json()["policy"]["keep_days"] is None
    assert http.put("/v1/retention", json={"keep_days": -1}).status_code == 422
    assert http.put("/v1/retention", json=request).status_code == 200
    assert http.get(f"/v1/jobs/{job.id}").status_code == 200
    assert http.post("/v1/retention/run").json()["removals"]
    assert http.get(f"/v1/jobs/{job.id}").status_code == 404
    http.put("/v1/retention", json={})


def test_checkpoints_in_the_storage_go_with_the_workspace_and_links_between_them_count_as_freed(
    retention: Retention, ended: Any, clock: Any, storage: Storage
) -> None:
    old = ended()
    copies = storage.checkpoints(old, 1)
    copies.mkdir(parents=True)
    (copies / "checkpoint").hardlink_to(storage.workspace(old) / "checkpoint")
    clock.advance(10 * DAY)
    plan = retention.plan(RetentionPolicy(workspace_days=5))
    assert ids(plan) == [("workspace", old)]
    assert 100_000 <= plan.freed_bytes < 200_000
    retention.apply(plan)
    assert not copies.exists()
    assert not storage.workspace(old).exists()


def test_a_plan_for_many_jobs_reads_columns_and_measures_only_what_has_files(
    retention: Retention, ended: Any, clock: Any, job_service: Any, bench: Any
) -> None:
    with_files = ended("old")
    template = bench.job()
    job_service.cancel(template.id)
    columns = [column.name for column in Job.__table__.columns if column.name not in {"number", "id"}]
    with job_service.engine.begin() as connection:
        for number in range(1500):
            connection.execute(
                sa.text(
                    f"INSERT INTO jobs (id, {', '.join(columns)}) SELECT :id, {', '.join(columns)} FROM jobs "  # noqa: S608
                    "WHERE id = :template"
                ),
                {"id": f"job_{number:032x}", "template": template.id},
            )
    clock.advance(10 * DAY)
    statements: list[str] = []
    sa.event.listen(job_service.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    plan = retention.plan(RetentionPolicy(keep_days=5))
    assert (len(plan.removals), plan.num_removals, plan.removals[0].id) == (1502, 1502, with_files)
    assert plan.freed_bytes >= 100_000
    assert [statement for statement in statements if "config" in statement] == []


def test_an_answer_lists_the_first_thousand_items_and_counts_all(http: httpx.Client, live: Any) -> None:
    job = live.bench.job(name="many")
    live.context.jobs.cancel(job.id)
    columns = ", ".join(column.name for column in Job.__table__.columns if column.name not in {"number", "id"})
    with live.context.engine.begin() as connection:
        for number in range(1001):
            query = f"INSERT INTO jobs (id, {columns}) SELECT :id, {columns} FROM jobs WHERE id = :one"  # noqa: S608
            connection.execute(sa.text(query), {"id": f"job_{number:032x}", "one": job.id})
    plan = http.put("/v1/retention", params={"dry_run": "true"}, json={"keep_days": 0}).json()["plan"]
    assert len(plan["removals"]) == 1000
    assert plan["num_removals"] >= 1002
