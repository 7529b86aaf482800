"""A server starts only on a data folder and a database that belong together, and a start deletes nothing.

Over processes, on SQLite and on PostgreSQL.
"""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner, Result

import server.admin.cli
from rvc_train.cli.services import free_port
from rvc_train.client import connect
from server.admin.doctor import _clock, _database, _instance
from server.database.engine import create_engine, database_name, migrate
from server.errors import SettingsRefused
from server.settings import ServerSettings
from server.storage.instance_files import INSTANCE_FILE, read_instance_id
from server.storage.instances import check_pairing, inspect_pairing, open_instance
from server.storage.local import Storage
from tests.programs import run_program, start_program
from tests.systems import IS_WINDOWS

FAKE_REPORT = Path(__file__).parents[1] / "fake_report.py"
BEFORE = Path(__file__).parent / "installation_da175a3"
MISMATCH = "do not belong together, and nothing was changed"
WORDS = b"RIFF the words"
TOKEN = "the-token-of-an-installation"


@dataclass(frozen=True)
class Installation:
    """A data folder and a database's address, and what is run on them."""

    data: Path
    address: str | None = None
    """None: SQLite in the data folder."""

    @property
    def url(self) -> str:
        return self.address or f"sqlite:///{self.data / 'rvc-train.db'}"

    @property
    def environment(self) -> dict[str, str]:
        settings = {
            "RVC_TRAIN_DATA_FOLDER": str(self.data),
            "RVC_TRAIN_DISK_RESERVE_BYTES": "0",
            "RVC_TRAIN_TOKEN": TOKEN,
            "RVC_TRAIN_REPORT_COMMAND": json.dumps([sys.executable, str(FAKE_REPORT)]),
        } | ({} if self.address is None else {"RVC_TRAIN_DATABASE_URL": self.address})
        return {key: value for key, value in os.environ.items() if not key.startswith("RVC_TRAIN_")} | settings

    def admin(self, *command: str, answer: str | None = None) -> Result:
        """`rvc-train admin`, in this process: a process each takes seconds."""
        unset = dict.fromkeys((name for name in os.environ if name.startswith("RVC_TRAIN_")), None)
        return CliRunner().invoke(server.admin.cli.app, command, env=unset | self.environment, input=answer)

    def refusal(self) -> str:
        """Error output of a server process that refuses to start."""
        done = run("server", environment=self.environment | {"RVC_TRAIN_PORT": str(free_port())})
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert len(done.stderr.splitlines()) == 1
        return done.stderr

    @contextmanager
    def serving(self) -> Iterator[httpx.Client]:
        """A server process, while the block runs."""
        port, log = free_port(), self.data.parent / "server.log"
        environment = self.environment | {"RVC_TRAIN_PORT": str(port)}
        server = start_program("server", environment=environment, output=log, errors=log)
        try:
            with connect(f"http://127.0.0.1:{port}", TOKEN) as http:
                while not _is_ready(http):
                    assert server.poll() is None, log.read_text()
                    time.sleep(0.05)
                yield http
        finally:
            server.terminate()
            server.wait(20)
        assert server.returncode == 0 or IS_WINDOWS  # where it was killed

    def num_datasets(self) -> int:
        engine = create_engine(self.url)
        with engine.connect() as connection:
            number: int = connection.execute(sa.text("SELECT count(*) FROM datasets")).scalar_one()
        engine.dispose()
        return number

    def ids(self) -> tuple[str | None, str | None]:
        found = inspect_pairing(self.data, self.url)
        return found.folder_id, found.database_id


def run(*command: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return run_program(*command, environment=environment)


def _is_ready(http: httpx.Client) -> bool:
    try:
        return http.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def everything_in(folder: Path) -> dict[str, bytes | None]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")
    }


class OnSqlite:
    """Databases as files, in folders of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def new_url(self, name: str) -> str:
        return f"sqlite:///{self.folder}/{name}/rvc-train.db"

    def is_untouched(self, url: str) -> bool:
        return not Path(url.removeprefix("sqlite:///")).parent.exists()

    def back_up(self, from_: Installation, target: Path) -> None:
        assert from_.admin("backup", str(target)).exit_code == 0

    def restore(self, backup: Path, url: str) -> None:
        target = Path(url.removeprefix("sqlite:///"))
        target.parent.mkdir()
        shutil.copy(backup / "rvc-train.db", target)


class OnPostgres:
    """Databases of a PostgreSQL server."""

    def __init__(self, postgres: Any) -> None:
        self.postgres = postgres

    def new_url(self, _name: str) -> str:
        url: str = self.postgres.new_database()
        return url

    def is_untouched(self, url: str) -> bool:
        return not self.postgres.tables(url)

    def back_up(self, from_: Installation, target: Path) -> None:
        self.postgres.dump(from_.url, target.with_suffix(".dump"))
        done = from_.admin("backup", str(target))
        assert (done.exit_code, "dump that with its own tools" in done.stdout) == (0, True)

    def restore(self, backup: Path, url: str) -> None:
        self.postgres.restore(backup.with_suffix(".dump"), url)


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def databases(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> OnSqlite | OnPostgres:
    if request.param == "sqlite":
        return OnSqlite(tmp_path_factory.mktemp("databases"))
    return OnPostgres(request.getfixturevalue("postgres"))


@dataclass(frozen=True)
class Installed:
    """An installation with a dataset, and a backup of it. Tests leave it as it is."""

    at: Installation
    dataset_id: str
    backup: Path


@pytest.fixture(scope="module")
def installed(databases: OnSqlite | OnPostgres, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """On a volume that is not quite empty: a file system's own folder, and weights that were fetched beforehand."""
    folder = tmp_path_factory.mktemp("installed")
    (folder / "data" / "lost+found").mkdir(parents=True)
    (folder / "data" / "weights").mkdir()
    (folder / "data" / "weights" / "hubert.pt").write_bytes(b"weights")
    at = Installation(folder / "data", databases.new_url("first"))
    with at.serving() as http:
        dataset_id = http.put("/v1/datasets/anna/content", content=WORDS).json()["id"]
    databases.back_up(at, folder / "backup")
    return Installed(at, dataset_id, folder / "backup")


def check_restored(installed: Installed, to: Installation) -> None:
    with to.serving() as http:
        assert http.get(f"/v1/datasets/{installed.dataset_id}").status_code == 200
    assert (to.data / "datasets" / installed.dataset_id / "recordings" / "000001.wav").read_bytes() == WORDS
    assert to.ids() == installed.at.ids()


def test_a_full_data_folder_beside_an_empty_database_is_refused_and_starts_when_the_database_is_restored_too(
    installed: Installed, databases: OnSqlite | OnPostgres, tmp_path: Path
) -> None:
    to = Installation(tmp_path / "data", databases.new_url("files first"))
    shutil.copytree(installed.backup, to.data, ignore=shutil.ignore_patterns("rvc-train.db"))
    before = everything_in(to.data)
    message = to.refusal()
    assert MISMATCH in message
    assert f"{to.data} (instance {installed.at.ids()[0]}, 1 datasets, 0 jobs, 0 uploads)" in message
    assert f"{database_name(to.url)} (no instance yet, empty)" in message
    assert "check RVC_TRAIN_DATABASE_URL, or restore the database" in message
    assert "the-password" not in message
    assert everything_in(to.data) == before
    assert databases.is_untouched(to.url)
    databases.restore(installed.backup, to.url)
    check_restored(installed, to)


def test_a_full_database_beside_an_empty_folder_is_refused_and_starts_when_the_files_are_restored_too(
    installed: Installed, databases: OnSqlite | OnPostgres, tmp_path: Path
) -> None:
    to = Installation(tmp_path / "data", databases.new_url("database first"))
    databases.restore(installed.backup, to.url)
    message = to.refusal()
    assert MISMATCH in message
    assert f"{to.data} (no instance yet, empty)" in message
    assert f"(instance {installed.at.ids()[1]}, 1 datasets, 0 jobs, 1 uploads)" in message
    assert "check RVC_TRAIN_DATA_FOLDER and that its disk is mounted, or restore the files" in message
    assert not to.data.exists()
    to.data.mkdir()  # as the place where a disk is mounted
    with pytest.raises(SettingsRefused, match="its disk is mounted"):
        check_pairing(to.data, to.url)
    shutil.copytree(installed.backup, to.data, dirs_exist_ok=True)
    check_restored(installed, to)


def test_the_database_of_another_installation_is_refused_and_both_stay_as_they_are(
    installed: Installed, databases: OnSqlite | OnPostgres, serve: Callable[..., Any], tmp_path: Path
) -> None:
    other = Installation(tmp_path / "other", databases.new_url("other"))
    with serve(other.data, database_url=other.url) as server, server.client() as http:
        assert http.put("/v1/datasets/anna/content", content=b"RIFF other words").status_code == 201
    before = (everything_in(installed.at.data), everything_in(other.data), other.num_datasets())
    message = Installation(installed.at.data, other.url).refusal()
    assert MISMATCH in message
    assert str(installed.at.ids()[0]) in message
    assert str(other.ids()[1]) in message
    assert "only after a restore, let `rvc-train admin adopt` join the two" in message
    assert (everything_in(installed.at.data), everything_in(other.data), other.num_datasets()) == before


# After a restore of things that were not backed up together


def test_adopt_joins_a_database_from_before_the_ids_to_the_folder_after_it_has_shown_what_it_found(
    serve: Callable[..., Any], tmp_path: Path
) -> None:
    at = from_before(tmp_path / "data")
    with serve(at.data, database_url=None):
        instance_id, _ = at.ids()
    restore_database_from_before(at.data / "rvc-train.db")
    orphan = at.data / "datasets" / ("ds_" + "0" * 32)
    orphan.mkdir()
    with pytest.raises(SettingsRefused, match=f"instance {instance_id}, 2 datasets, 1 jobs, 1 uploads"):
        check_pairing(at.data, at.url)
    before = everything_in(at.data)
    declined = at.admin("adopt", answer="n\n")
    assert declined.exit_code == 1
    assert "datasets:    1 in the database with files, 0 without, 1 orphaned in the folder" in declined.stdout
    assert at.admin("adopt", answer="").exit_code == 1  # no answer on standard input
    assert everything_in(at.data) == before
    done = at.admin("adopt", "--yes")
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (0, f"joined: {instance_id}")
    assert at.ids() == (instance_id, instance_id)
    assert "already belong together" in at.admin("adopt").stdout
    assert orphan.is_dir()
    with serve(at.data, database_url=None) as server, server.client() as http:
        assert len(http.get("/v1/datasets").json()["data"]) == 1
        assert http.get("/v1/audit?action=instance.adopted").json()["data"][0]["target"] == instance_id
        assert "another server uses the data folder" not in at.admin("adopt").output  # it has nothing to do


def test_adopt_refuses_two_that_have_nothing_in_common_and_a_folder_whose_server_runs(tmp_path: Path) -> None:
    at = from_before(tmp_path / "data")
    empty = Installation(at.data, f"sqlite:///{tmp_path / 'new' / 'new.db'}")
    unmounted = Installation(tmp_path / "unmounted", at.url)
    before = everything_in(tmp_path)
    for pair, remedy in ((empty, "restore the database"), (unmounted, "restore the files")):
        done = pair.admin("adopt", "--yes")
        assert done.exit_code == 1
        assert "no dataset or job in common" in done.stderr
        assert remedy in done.stderr
    assert everything_in(tmp_path) == before
    with Storage(at.data).lock(0):
        done = at.admin("adopt", "--yes")
    assert (done.exit_code, "another server uses the data folder" in done.stderr) == (1, True)
    assert at.ids() == (None, None)


def test_adopting_two_of_different_installations_gives_both_a_new_id_so_that_neither_old_partner_fits(
    tmp_path: Path,
) -> None:
    first, second = from_before(tmp_path / "first"), from_before(tmp_path / "second")
    for at in (first, second):
        engine = create_engine(at.url)
        open_instance(engine, Storage(at.data))
        engine.dispose()
    crossed = Installation(first.data, second.url)
    old = crossed.ids()
    assert crossed.admin("adopt", "--yes").exit_code == 0
    new = crossed.ids()
    assert new[0] == new[1]
    assert len({*old, new[0]}) == 3


# Installations from before, and new ones


def restore_database_from_before(target: Path) -> None:
    for path in target.parent.glob(f"{target.name}*"):
        path.unlink()
    with sqlite3.connect(target) as connection:
        connection.executescript((BEFORE / "rvc-train.sql").read_text())
        connection.execute("UPDATE uploads SET expires_at = '2999-01-01 00:00:00'")  # as if it were of today
        connection.execute("PRAGMA journal_mode=WAL")
    connection.close()


def from_before(data: Path) -> Installation:
    """An installation as the code of da175a3 left it."""
    shutil.copytree(BEFORE / "files", data)
    restore_database_from_before(data / "rvc-train.db")
    return Installation(data)


def test_an_installation_from_before_there_were_ids_gets_one_at_its_first_start_and_keeps_all_it_has(
    serve: Callable[..., Any], tmp_path: Path
) -> None:
    at = from_before(tmp_path / "data")
    files = everything_in(at.data)
    with at.serving() as http:
        check_from_before(http)
    folder_id, database_id = at.ids()
    assert folder_id is not None
    assert folder_id == database_id
    with serve(at.data, database_url=None) as server, server.client() as http:
        check_from_before(http)
    now = everything_in(at.data)
    assert {name: now[name] for name in files if name != "rvc-train.db"} == {
        name: content for name, content in files.items() if name != "rvc-train.db"
    }


def check_from_before(http: httpx.Client) -> None:
    (dataset,) = http.get("/v1/datasets").json()["data"]
    jobs = {job["name"]: job for job in http.get("/v1/jobs").json()["data"]}
    voice = http.get(f"/v1/jobs/{jobs['anna']['id']}/artifacts/anna.pth")
    assert (dataset["status"], jobs["waiting"]["status"], len(voice.content)) == ("ready", "queued", 288)


def test_of_an_installation_from_before_a_database_without_its_files_and_files_without_their_database_are_refused(
    tmp_path: Path,
) -> None:
    at = from_before(tmp_path / "data")
    away = tmp_path / "rvc-train.db"
    (at.data / "rvc-train.db").rename(away)
    with pytest.raises(SettingsRefused, match="no instance yet, 1 datasets, 1 jobs, 1 uploads"):
        check_pairing(at.data, at.url)
    with pytest.raises(SettingsRefused, match="its disk is mounted"):
        check_pairing(tmp_path / "empty", f"sqlite:///{away}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "rvc-train.db"]
    assert not (at.data / "rvc-train.db").exists()


def test_what_a_crash_interrupted_between_database_and_folder_is_finished_at_the_next_start(tmp_path: Path) -> None:
    at = from_before(tmp_path / "data")
    engine = create_engine(f"sqlite:///{at.data / 'rvc-train.db'}")
    instance_id = open_instance(engine, Storage(at.data))
    (at.data / INSTANCE_FILE).rename(at.data / "instance.json.new")  # the row was committed, and the power went
    assert open_instance(engine, Storage(at.data)) == instance_id
    assert read_instance_id(at.data / INSTANCE_FILE) == instance_id
    engine.dispose()


def test_a_crash_before_the_row_leaves_a_folder_that_starts(tmp_path: Path) -> None:
    (tmp_path / "instance.json.new").write_text('{"id": "ins_lost", "created_at": "2026-01-01T00:00:00Z"}')
    engine = create_engine(f"sqlite:///{tmp_path / 'rvc-train.db'}")
    assert open_instance(engine, Storage(tmp_path)) != "ins_lost"
    assert sorted(path.name for path in tmp_path.glob("*.json*")) == [INSTANCE_FILE]
    engine.dispose()


def test_of_two_servers_that_start_on_one_new_database_with_two_folders_one_is_refused(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'rvc-train.db'}")
    open_instance(engine, Storage(tmp_path / "one"))
    with pytest.raises(SettingsRefused, match=MISMATCH):
        open_instance(engine, Storage(tmp_path / "two"))
    engine.dispose()


def test_a_damaged_mark_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / INSTANCE_FILE).write_text("{}")
    with pytest.raises(SettingsRefused, match="is damaged: it should contain the instance id"):
        check_pairing(tmp_path, f"sqlite:///{tmp_path / 'rvc-train.db'}")


def test_up_shows_the_refusal_of_its_server_and_ends(tmp_path: Path) -> None:
    at = from_before(tmp_path / "data")
    mistyped = Installation(at.data, f"sqlite:///{tmp_path / 'new' / 'new.db'}")
    options = ("--data", str(at.data), "--port", str(free_port()), "--device", "cpu")
    done = run("rvc_train.cli.main", "up", *options, environment=mistyped.environment)
    assert done.returncode == 1
    assert MISMATCH in " ".join(done.stderr.replace("server │", "").split())
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("command", [["gc"], ["migrate"], ["backup", "x"], ["token", "create", "anna"]])
def test_the_keepers_commands_make_no_database_and_delete_nothing_beside_the_wrong_one(
    tmp_path: Path, command: list[str]
) -> None:
    at = from_before(tmp_path / "data")
    before = everything_in(tmp_path)
    done = Installation(at.data, f"sqlite:///{tmp_path}/new/new.db").admin(*command)
    assert (done.exit_code, MISMATCH in done.stderr) == (1, True)
    assert everything_in(tmp_path) == before


def test_the_doctor_finds_a_pair_that_does_not_belong_together_and_makes_no_database(tmp_path: Path) -> None:
    at = from_before(tmp_path / "data")
    settings = ServerSettings(data_folder=at.data, database_url=f"sqlite:///{tmp_path}/new/new.db")
    found = [each for look_at in (_database, _instance, _clock) for each in look_at(settings)]
    assert [(each.what, each.state) for each in found][:2] == [("database", "note"), ("instance", "fault")]
    assert MISMATCH in found[1].text
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("postgresql+psycopg://anna:secret@host:5433/rvc", "postgresql+psycopg://anna@host:5433/rvc"),
        ("postgresql+psycopg://host/rvc?user=a&password=secret", "postgresql+psycopg://host/rvc"),
        ("postgresql+psycopg://a@/rvc?host=/run/pg&sslpassword=secret", "postgresql+psycopg://a@/rvc?host=%2Frun%2Fpg"),
        ("sqlite:////srv/rvc-train/rvc-train.db", "/srv/rvc-train/rvc-train.db"),
    ],
)
def test_messages_name_a_database_without_its_password(url: str, name: str) -> None:
    assert database_name(url) == name


def test_a_start_on_a_database_without_a_row_joins_an_empty_folder(tmp_path: Path) -> None:
    """After `rvc-train admin migrate`, or in an installation without any files."""
    engine = create_engine(f"sqlite:///{tmp_path / 'elsewhere' / 'rvc-train.db'}")
    migrate(engine)
    instance_id = open_instance(engine, Storage(tmp_path / "data"))
    assert read_instance_id(tmp_path / "data" / INSTANCE_FILE) == instance_id
    engine.dispose()
