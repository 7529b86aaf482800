"""The migrated schema is the schema of the tables, however many processes migrate at once."""

import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from server.database.engine import SCHEMA_VERSION, create_engine, migrate, present_version
from server.database.migrate import alembic_config
from server.database.tables import Job, metadata
from server.errors import SettingsRefused


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
        text = connection.execute(sa.text("SELECT sql FROM sqlite_master WHERE type = 'trigger'")).scalar_one()
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


def test_a_database_of_a_newer_program_is_refused_in_a_sentence(engine):
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SettingsRefused, match="install the newer version again"):
        migrate(engine)
