"""A worker whose database another version upgraded finishes its job, and gets no other one."""

import threading
from typing import Any

import pytest
import sqlalchemy as sa
import structlog

from rvc_train.schemas.jobs import JobStatus
from server.database.clock import utc_now
from server.database.engine import SCHEMA_VERSION, read_session
from server.errors import SchemaChanged, SettingsRefused
from server.job_store.liveness import WorkerLiveness
from server.jobs.serializers import workers_public


def set_schema(engine: sa.Engine, version: str) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = :version"), {"version": version})


def test_a_worker_of_another_schema_finishes_its_job_and_gets_no_other_until_the_schema_fits(shop: Any) -> None:
    first = shop.submit([["train", 40, 0.05, 10], *shop.MAKE_VOICE])
    with structlog.testing.capture_logs() as logs, shop.worker():
        shop.wait_for(first, JobStatus.RUNNING)
        set_schema(shop.engine, "9999")
        second = shop.submit(list(shop.MAKE_VOICE))
        shop.wait_for(first, JobStatus.SUCCEEDED)
        shop.wait_until(lambda: any("takes no job" in line["event"] for line in logs), "the sentence")
        assert shop.job(second).status == JobStatus.QUEUED
        sentences = [line["event"] for line in logs if "takes no job" in line["event"]]
        assert sentences == [
            f"the database has schema 9999, and this worker reads schema {SCHEMA_VERSION}: it takes no job; start a "
            "worker of the server's version in its place"
        ]
        set_schema(shop.engine, SCHEMA_VERSION)
        shop.wait_for(second, JobStatus.SUCCEEDED)


def test_a_claim_is_refused_in_its_own_transaction_and_lists_show_the_worker_as_outdated(shop: Any) -> None:
    job_id = shop.submit([])
    worker_id = shop.jobs.register_worker("old", 1, "here", "cpu")
    with shop.engine.begin() as connection:
        connection.execute(sa.text("UPDATE workers SET schema_version = '0017'"))
    with read_session(shop.engine) as session:
        assert [each.is_outdated for each in workers_public(session, utc_now(), WorkerLiveness(60))] == [True]
    set_schema(shop.engine, "9999")
    with pytest.raises(SchemaChanged):
        shop.jobs.claim(worker_id)
    assert shop.job(job_id).status == JobStatus.QUEUED


def test_a_worker_with_too_few_heartbeats_for_the_servers_lease_does_not_start(shop: Any) -> None:
    assert shop.jobs.publish_lease(10) == []
    with pytest.raises(
        SettingsRefused, match=r"HEARTBEAT_SECONDS is 6, and the server's lease is 10 s.*set it to 5 or less"
    ):
        shop.work(threading.Event(), heartbeat_seconds=6)
    shop.jobs.register_worker("slow", 1, "here", "cpu", heartbeat_seconds=5)
    assert [sentence[:46] for sentence in shop.jobs.publish_lease(4)] == [
        "the worker slow sends a heartbeat every 5 s, a"
    ]
