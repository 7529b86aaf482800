"""A worker starts once data folder and database have the same instance id, made by the server, never by a worker."""

import threading
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command

from rvc_train.schemas.jobs import JobStatus
from server.database.engine import create_engine, present_version
from server.database.migrate import alembic_config
from server.errors import SettingsRefused
from server.storage.instance_files import INSTANCE_FILE
from server.storage.instances import open_instance
from server.storage.local import Storage
from worker.gateway.local import LocalGateway
from worker.loop import work


def test_a_worker_that_starts_first_makes_nothing_and_waits_for_the_servers_first_start(
    shop: Any, tmp_path: Path
) -> None:
    data = tmp_path / "new"
    url = f"sqlite:///{data / 'rvc-train.db'}"
    engine, stop = create_engine(url), threading.Event()
    settings = shop.settings(data_folder=data, database_url=url)
    thread = threading.Thread(target=work, args=(settings, LocalGateway(settings, engine), stop))
    thread.start()
    try:
        thread.join(0.3)
        assert thread.is_alive()
        assert not data.exists()
        open_instance(engine, Storage(data))
        shop.wait_until(lambda: num_workers(engine) == 1, "the worker")
    finally:
        stop.set()
        thread.join(20)
    engine.dispose()
    assert not thread.is_alive()


def num_workers(engine: Any) -> int:
    with engine.connect() as connection:
        number: int = connection.exec_driver_sql("SELECT count(*) FROM workers").scalar_one()
        return number


def test_a_worker_that_waits_can_be_stopped(shop: Any, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'new' / 'rvc-train.db'}"
    engine, stop = create_engine(url), threading.Event()
    stop.set()
    settings = shop.settings(data_folder=tmp_path / "new", database_url=url)
    work(settings, LocalGateway(settings, engine), stop)
    assert not (tmp_path / "new").exists()


def test_an_installation_from_before_waits_for_the_new_server_and_keeps_its_schema_until_then(
    shop: Any, tmp_path: Path
) -> None:
    """The database's datasets lie in the folder, so the server will give the two an id."""
    with shop.engine.connect() as connection:
        dataset = dict(connection.exec_driver_sql("SELECT * FROM datasets").mappings().one())
    shop.engine.dispose()
    (shop.folder / INSTANCE_FILE).unlink()
    for file in Path(shop.engine.url.database).parent.glob("*.db*"):
        file.unlink()
    with shop.engine.connect() as connection, connection.begin():
        command.upgrade(alembic_config(connection), "0009")
        columns = [each["name"] for each in sa.inspect(connection).get_columns("datasets")]
        connection.exec_driver_sql(
            f"INSERT INTO datasets ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})",  # noqa: S608 - names of the schema
            tuple(dataset[name] for name in columns),
        )
    stop = threading.Event()
    thread = threading.Thread(target=work, args=(shop.settings(), shop.gateway(), stop))
    thread.start()
    thread.join(0.3)
    assert (thread.is_alive(), present_version(shop.engine)) == (True, "0009")
    open_instance(shop.engine, shop.storage)
    job_id = shop.submit(list(shop.MAKE_VOICE))
    shop.wait_for(job_id, JobStatus.SUCCEEDED)
    stop.set()
    thread.join(20)


def test_a_folder_over_a_network_may_show_the_id_a_while_after_the_database_does(shop: Any, tmp_path: Path) -> None:
    data, url = tmp_path / "new", f"sqlite:///{tmp_path / 'rvc.db'}"
    engine, stop = create_engine(url), threading.Event()
    settings = shop.settings(data_folder=data, database_url=url)
    refused: list[SettingsRefused] = []

    def run() -> None:
        try:
            work(settings, LocalGateway(settings, engine), stop)
        except SettingsRefused as error:
            refused.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(0.2)
    open_instance(engine, Storage(tmp_path / "as the server sees it"))
    thread.join(0.3)
    assert thread.is_alive()
    data.mkdir()
    (tmp_path / "as the server sees it" / INSTANCE_FILE).rename(data / INSTANCE_FILE)
    shop.wait_until(lambda: num_workers(engine) == 1, "the worker")
    stop.set()
    thread.join(20)
    assert not refused

    (data / INSTANCE_FILE).unlink()
    with pytest.raises(SettingsRefused, match="do not belong together"):
        work(settings, LocalGateway(settings, engine), threading.Event())
    engine.dispose()
