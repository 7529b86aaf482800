"""Leadership: of several servers on one PostgreSQL exactly one leads, and another one when it is gone."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from server.admin import leadership
from server.admin.leadership import Leadership, exclusive
from server.errors import SettingsRefused


@pytest.fixture
def url(postgres: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(leadership, "CHECK_SECONDS", 0.05)
    return str(postgres.new_database())


@pytest.fixture
def servers(url: str) -> Iterator[list[Leadership]]:
    made = [Leadership(url) for _ in range(2)]
    for server in made:
        server.start()
    yield made
    for server in made:
        server.stop()


def leader(servers: list[Leadership]) -> Leadership | None:
    leading = [server for server in servers if server.is_leading()]
    assert len(leading) <= 1, "two servers lead"
    return leading[0] if leading else None


def break_connections(url: str) -> None:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    holders = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
    with engine.connect() as connection:
        connection.execute(sa.text(holders))


def test_one_of_two_servers_leads_and_the_other_one_when_it_stops(
    servers: list[Leadership], eventually: Callable[..., None]
) -> None:
    eventually(lambda: leader(servers) is not None)
    first = leader(servers)
    assert first is not None
    first.stop()
    assert not first.is_leading()
    eventually(lambda: leader(servers) not in {None, first})


def test_a_leader_whose_connection_breaks_leads_no_more_and_one_of_the_two_leads_again(
    servers: list[Leadership], url: str, eventually: Callable[..., None]
) -> None:
    eventually(lambda: leader(servers) is not None)
    first = leader(servers)
    assert first is not None
    losses: list[bool] = []
    break_connections(url)
    eventually(lambda: losses.append(first.is_leading()) or not losses[-1])
    eventually(lambda: leader(servers) is not None)


def test_a_leader_that_cannot_check_its_lock_does_not_count_itself_as_one(
    servers: list[Leadership], monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., None]
) -> None:
    """As one whose network is gone, or that was frozen and goes on."""
    eventually(lambda: leader(servers) is not None)
    first = leader(servers)
    assert first is not None
    confirmed_at = first._confirmed_at
    assert confirmed_at is not None
    later = confirmed_at + leadership.VALID_SECONDS
    monkeypatch.setattr(leadership.time, "monotonic", lambda: later + 1)
    first._confirmed_at = confirmed_at
    assert not first.is_leading()


def test_a_frozen_leaders_connection_is_closed_by_postgresql(
    url: str, monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., None]
) -> None:
    monkeypatch.setattr(leadership, "_TIMEOUTS", leadership._TIMEOUTS | {"idle_session_timeout": "200ms"})
    monkeypatch.setattr(leadership, "CHECK_SECONDS", 1.5)
    frozen = Leadership(url)
    frozen.start()
    eventually(frozen.is_leading)

    def is_free() -> bool:
        try:
            with exclusive(url):
                return True
        except SettingsRefused:
            return False

    eventually(is_free)
    eventually(lambda: not frozen.is_leading())
    frozen.stop()


def test_the_administrators_commands_are_refused_while_a_server_leads(
    servers: list[Leadership], url: str, eventually: Callable[..., None]
) -> None:
    eventually(lambda: leader(servers) is not None)
    with pytest.raises(SettingsRefused, match="a server uses the database"), exclusive(url):
        pass
    for server in servers:
        server.stop()
    with exclusive(url):
        pass


def test_the_one_server_on_sqlite_always_leads() -> None:
    server = Leadership("sqlite:///anywhere.db")
    assert server.is_leading()
    server.start()
    server.stop()
    assert server.is_leading()
    with exclusive("sqlite:///anywhere.db"):
        assert time.monotonic()
