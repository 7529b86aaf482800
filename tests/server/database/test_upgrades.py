"""From every schema that the project has ever had, with data in it, to the present one: nothing is lost."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from rvc_train.schemas.jobs import JobCreate
from server.database.base import UtcDateTime
from server.database.engine import SCHEMA_VERSION, create_engine, migrate, present_version
from server.database.migrate import alembic_config
from server.database.tables import metadata
from server.jobs.service import JobService

pytestmark = pytest.mark.sqlite
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
REVISIONS = [script.revision for script in ScriptDirectory.from_config(alembic_config()).walk_revisions()][::-1]


def job(number: int, status: str, **more: Any) -> dict[str, Any]:
    row = {"number": number, "id": f"job_{number}", "owner": "local", "name": "Анна", "dataset_id": "ds_1"}
    row |= {
        "status": status,
        "config": {"width": 24, "pretrained": "none"},
        "priority": 0,
        "labels": {"a": "b"},
        "max_attempts": 2,
    }
    row |= {"token": 0, "heartbeat": 0, "not_before": NOW, "claims": 0, "failures": 0, "recoveries": 0}
    return row | {"progress": 0.0, "losses": {}, "num_warnings": 0, "last_seq": 1, "created_at": NOW} | more


ROWS: dict[str, list[dict[str, Any]]] = {
    "datasets": [
        {"id": "ds_1", "owner": "local", "name": "Анна", "status": "ready", "sha256": "0" * 64, "size": 5}
        | {"num_files": 1, "notes": ["a note"], "report": {"usable": True}, "created_at": NOW}
    ],
    "workers": [
        {"id": "wrk_1", "name": "w", "pid": 1, "host": "h", "device": "cpu", "is_draining": False}
        | {"registered_at": NOW, "last_seen_at": NOW}
    ],
    "jobs": [
        job(1, "succeeded", finished_at=NOW, progress=1.0, token=1, claims=1),
        job(2, "running", worker_id="wrk_1", token=3, claims=1, started_at=NOW),
        job(3, "queued", queued_at=NOW),
        job(4, "failed", finished_at=NOW, error_code="diverged", error_message="it diverged"),
    ],
    "attempts": [
        {"id": 1, "job_number": 1, "attempt": 1, "token": 1, "worker_id": "wrk_1", "started_at": NOW, "ended_at": NOW}
    ],
    "events": [
        {"job_number": 1, "seq": 1, "type": "created", "level": "info", "message": "é", "data": {"x": 1}}
        | {"attempt": 0, "created_at": NOW}
    ],
    "metrics": [{"job_number": 1, "key": "loss/mel", "step": 7, "value": 0.5}],
    "artifacts": [
        {"id": "art_1", "job_number": 1, "kind": "voice", "name": "Анна.pth", "path": "jobs/x", "size": 9}
        | {"sha256": "1" * 64, "created_at": NOW}
    ],
    "uploads": [
        {"id": "upl_1", "owner": "local", "length": 7, "tus_metadata": "", "created_at": NOW, "expires_at": NOW}
        | {"state": "receiving", "is_resumable": True, "received": 0}
    ],
    "webhooks": [
        {"id": "whk_1", "owner": "local", "url": "https://a", "secret": "whsec_x", "events": ["job.failed"]}
        | {"is_enabled": True, "created_at": NOW}
    ],
    "deliveries": [
        {"id": "msg_1", "webhook_id": "whk_1", "event": "job.failed", "body": "{}", "status": "pending"}
        | {"num_tries": 0, "next_try_at": NOW, "created_at": NOW}
    ],
    "policies": [{"name": "retention", "value": {"keep_days": 3}, "changed_at": NOW}],
    "tokens": [
        {"id": "tok_1", "owner": "local", "name": "", "begins": "rvct_abcd", "sha256": "2" * 64, "scopes": ["read"]}
        | {"created_at": NOW}
    ],
    "quotas": [{"owner": "local", "max_jobs": 3}],
    "instance": [{"number": 1, "id": "ins_1", "created_at": NOW}],
    "job_sizes": [{"job_number": 1, "bytes": 99, "measured_at": NOW}],
    "previews": [
        {"job_number": 1, "step": 5, "clip": 1, "epoch": 1, "seconds": 2.0, "scores": {}, "created_at": NOW}
        | {"audio_path": "jobs/y", "audio_size": 7, "audio_sha256": "3" * 64}
        | {"picture_path": "jobs/z", "picture_size": 8, "picture_sha256": "4" * 64}
        | {"recording_path": "jobs/x", "recording_size": 9, "recording_sha256": "1" * 64}
    ],
    "spent_hours": [{"owner": "local", "month": "2026-01", "hours": 1.5}],
    "audit": [
        {"number": 1, "created_at": NOW, "actor": "local", "address": "", "request_id": "", "action": "a"}
        | {"target": "t", "detail": {}}
    ],
}


def at_revision(path: Path, revision: str) -> sa.Engine:
    """A database as that version left it, with a row or more in each table that it had."""
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        connection.connection.dbapi_connection.execute("PRAGMA foreign_keys=OFF")
        with connection.begin():
            command.upgrade(alembic_config(connection), revision)
            then = sa.MetaData()
            then.reflect(connection)
            for name, rows in ROWS.items():
                if name in then.tables:
                    known = {column.name for column in then.tables[name].columns}
                    typed = sa.Table(name, sa.MetaData(), *(_typed(name, each) for each in known))
                    for row in rows:
                        given = {key: value for key, value in row.items() if key in known}
                        connection.execute(sa.insert(typed).values(**given))
        connection.connection.dbapi_connection.execute("PRAGMA foreign_keys=ON")
    return engine


def _typed(table: str, column: str) -> sa.Column[Any]:
    """A column with our type for it, because reflection reports JSON as text."""
    if table not in metadata.tables:  # job_sizes
        return sa.Column(column, UtcDateTime() if column.endswith("_at") else sa.Integer())
    return sa.Column(column, metadata.tables[table].columns[column].type)


def found(engine: sa.Engine, table: str) -> list[dict[str, Any]]:
    with engine.connect() as connection:
        return [dict(row._mapping) for row in connection.execute(sa.select(metadata.tables[table]))]


@pytest.mark.parametrize("revision", REVISIONS[:-1])
def test_every_earlier_schema_comes_to_the_present_with_all_its_data(tmp_path: Path, revision: str) -> None:
    engine = at_revision(tmp_path / "old.db", revision)
    with engine.connect() as connection:
        had = set(sa.inspect(connection).get_table_names())
    migrate(engine)
    assert present_version(engine) == SCHEMA_VERSION
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        assert connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall() == []
    for name in set(ROWS) & had & set(metadata.tables):
        rows = found(engine, name)
        assert len(rows) == len(ROWS[name]), name
        for row, before in zip(rows, ROWS[name], strict=True):
            # Before 0018 a worker would claim without a look at the schema.
            drained = {"is_draining": True} if name == "workers" and revision < "0018" else {}
            assert {key: row[key] for key in before} == before | drained, name
    sizes = {row["path"]: (row["owner"], row["bytes"], row["sha256"]) for row in found(engine, "stored_files")}
    # From 0018 on the program adds a job's row when it is submitted, which these jobs were not.
    assert sizes == (stored_files_of(had) if revision < "0018" else {})
    job_service = JobService(engine)
    assert {each.id for each in job_service.list()[0]} == {"job_1", "job_2", "job_3", "job_4"}
    new = job_service.submit(JobCreate(name="new", dataset_id="ds_1"))
    assert job_service.get(new.job_id).number == 5
    claimed = job_service.claim(job_service.register_worker("w", 1, "h", "cpu"))
    assert claimed is not None
    assert claimed.job_id == "job_3"
    with pytest.raises(sa.exc.DBAPIError, match="a finished job does not change"), engine.begin() as connection:
        connection.execute(sa.text("UPDATE jobs SET progress = 0.5 WHERE number = 1"))
    engine.dispose()


def stored_files_of(tables: set[str]) -> dict[str, tuple[str, int, str | None]]:
    """The stored files of a database that had these tables: each path once."""
    files: dict[str, tuple[str, int, str | None]] = {f"jobs/job_{number}": ("local", 0, None) for number in (1, 2)}
    if "stored_files" in tables:
        return files  # the other rows here refer to none
    files["jobs/x"] = ("local", 9, "1" * 64)
    if "previews" in tables:
        files |= {"jobs/y": ("local", 7, "3" * 64), "jobs/z": ("local", 8, "4" * 64)}
    return files | ({"jobs/job_1": ("local", 99, None)} if "job_sizes" in tables else {})


def test_the_rows_tried_cover_every_table_that_there_was(tmp_path: Path) -> None:
    lately = {"sessions", "evaluations", "idempotency_keys"}  # short-lived, or tried with the saves
    # No older database has any.
    lately |= {"base_weights", "conversions", "voices", "deleted_versions", "imported_versions", "voice_links"}
    lately |= {"job_consents", "event_counter", "owner_shares"}
    derived = {"job_labels", "count_changes", "unthinned_jobs"}  # filled from the others by a migration
    assert set(metadata.tables) - lately - derived == set(ROWS) - {"job_sizes"} | {"stored_files"}
