"""The migrated schema is the schema of the tables, however many processes migrate at once."""

import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from server.database.engine import SCHEMA_VERSION, create_engine, migrate, present_version, program_version
from server.database.migrate import alembic_config
from server.database.tables import Job, metadata
from server.errors import SettingsRefused
from server.storage.instances import open_instance
from server.storage.local import Storage
from tests.systems import IS_WINDOWS


def test_the_migrated_schema_is_the_one_of_the_tables(engine):
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


@pytest.mark.sqlite
def test_the_checks_of_the_migrated_schema_are_those_of_the_tables(engine):
    inspector = sa.inspect(engine)
    for table in metadata.sorted_tables:
        migrated = {
            check["name"]: " ".join(check["sqltext"].split()) for check in inspector.get_check_constraints(table.name)
        }
        wanted = {
            str(check.name): " ".join(str(check.sqltext).split())
            for check in table.constraints
            if isinstance(check, sa.CheckConstraint)
        }
        assert migrated == wanted


@pytest.mark.sqlite
def test_the_trigger_guards_every_column_of_a_job_but_the_labels(engine):
    with engine.connect() as connection:
        text = connection.execute(
            sa.text("SELECT sql FROM sqlite_master WHERE name = 'finished_jobs_are_frozen'")
        ).scalar_one()
    guarded = {word.strip() for word in text.split("UPDATE OF")[1].split("ON jobs")[0].split(",")}
    assert guarded == {column.name for column in Job.__table__.columns} - {"labels"}


def test_the_code_knows_the_newest_revision():
    assert ScriptDirectory.from_config(alembic_config()).get_current_head() == SCHEMA_VERSION


def test_an_empty_database_has_no_version_and_migrating_twice_changes_nothing(tmp_path):
    engine = create_engine(f"sqlite:///{tmp_path / 'a folder' / 'new.db'}")
    assert present_version(engine) is None
    migrate(engine)
    migrate(engine)
    assert present_version(engine) == SCHEMA_VERSION
    engine.dispose()


def test_processes_that_start_at_once_migrate_once(tmp_path):
    code = "import sys; from server.database.engine import create_engine, migrate; migrate(create_engine(sys.argv[1]))"
    command = [sys.executable, "-c", code, f"sqlite:///{tmp_path / 'new.db'}"]
    children = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(3)]
    for child in children:
        _, output = child.communicate(timeout=60)
        assert child.returncode == 0, output.decode()


@pytest.mark.sqlite
def test_connections_are_opened_as_the_design_says(engine):
    with engine.connect() as connection:
        settings = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "busy_timeout", "foreign_keys", "synchronous", "wal_autocheckpoint")
        }
    assert settings == {
        "journal_mode": "wal",
        "busy_timeout": 30_000,
        "foreign_keys": 1,
        "synchronous": 2,
        "wal_autocheckpoint": 0,
    }


def test_the_migrations_are_part_of_the_package():
    import server.database.migrations.versions

    assert list(Path(server.database.migrations.versions.__path__[0]).glob("0001_*.py"))


def test_a_database_of_a_newer_program_is_refused_with_the_version_that_reads_it(engine, tmp_path):
    open_instance(engine, Storage(tmp_path))
    with engine.begin() as connection:
        assert connection.scalar(sa.text("SELECT written_by FROM instance")) == program_version()
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
        connection.execute(sa.text("UPDATE instance SET written_by = '7.8.9'"))
    refusal = f"schema 9999 of rvc-train 7.8.9; this is rvc-train {program_version()}, .* install rvc-train 7.8.9 again"
    with pytest.raises(SettingsRefused, match=refusal):
        migrate(engine)
    with engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE instance RENAME TO instance_of_later"))
    with pytest.raises(SettingsRefused, match="schema 9999 of a newer rvc-train"):
        migrate(engine)


@pytest.mark.sqlite
def test_the_database_is_copied_before_its_schema_changes_and_only_then(tmp_path):
    path = tmp_path / "rvc-train.db"
    engine = create_engine(f"sqlite:///{path}")
    migrate(engine)
    assert not (tmp_path / "backups").exists()  # a fresh installation has nothing to lose
    engine.dispose()

    path.unlink()
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        command.upgrade(alembic_config(connection), "0010")
        connection.execute(sa.text("INSERT INTO policies (name, value, changed_at) VALUES ('a', '{}', '2026-01-01')"))
    (tmp_path / "backups").mkdir()
    for day in (3, 1, 2):
        (tmp_path / "backups" / f"before-000{day}-2025010{day}T000000000000Z.db").touch()
    migrate(engine)
    migrate(engine)
    engine.dispose()
    names = sorted(each.name for each in (tmp_path / "backups").iterdir())
    assert [name[:11] for name in names] == ["before-0002", "before-0003", f"before-{SCHEMA_VERSION}"]
    copy = tmp_path / "backups" / names[-1]
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600 or IS_WINDOWS  # which has access lists
    with closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [("0010",)]
        assert connection.execute("SELECT name FROM policies").fetchall() == [("a",)]

    path.write_bytes(copy.read_bytes())  # as docs/operations.md says: back to the version before
    restored = create_engine(f"sqlite:///{path}")
    assert present_version(restored) == "0010"
    with restored.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    copy.rename(copy.with_name("before-9999-20260101T000000000000Z.db"))
    with pytest.raises(SettingsRefused, match=r"restore .*before-9999-20260101T"):
        migrate(restored)
    restored.dispose()


@pytest.mark.sqlite
def test_a_database_that_cannot_be_copied_is_not_upgraded(tmp_path):
    engine = create_engine(f"sqlite:///{tmp_path / 'rvc-train.db'}")
    with engine.begin() as connection:
        command.upgrade(alembic_config(connection), "0010")
    (tmp_path / "backups").write_text("a file in its place")
    with pytest.raises(SettingsRefused, match=r"could not be copied to .* before its upgrade, and was not changed"):
        migrate(engine)
    assert present_version(engine) == "0010"
    engine.dispose()
