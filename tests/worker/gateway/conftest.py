"""The gateways under test: each keeps the promises of the interface, on a server with a real store."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pytest
import sqlalchemy as sa

from rvc_train.schemas.access import Scope, TokenCreate
from tests.server.conftest import Running, running, settings_for
from worker.gateway.connection import Connection
from worker.gateway.interface import WorkerGateway
from worker.gateway.remote import HttpGateway


@contextmanager
def serving(shop: Any) -> Iterator[Running]:
    """A server on the shop's data folder and database."""
    with running(settings_for(shop.folder, database_url=shop.url)) as server:
        yield server


def work_token(server: Running) -> str:
    """A new token that workers use."""
    return server.context.tokens.create(TokenCreate(owner="machines", scopes=[Scope.WORK]))[1]


def gateway_to(server: Running, shop: Any, token: str | None = None, **changed: object) -> HttpGateway:
    """The gateway of a worker on another machine."""
    folder = shop.folder.parent / f"{shop.folder.name}-elsewhere"
    settings = shop.settings(**{"data_folder": folder, "scratch_folder": folder, "claim_wait_seconds": 0} | changed)
    return HttpGateway(settings, Connection(server.url, token or work_token(server)), threading.Event())


@contextmanager
def over_http(shop: Any) -> Iterator[WorkerGateway]:
    with serving(shop) as server:
        be_impatient = shop.be_impatient

        def all_be_impatient() -> None:
            be_impatient()
            sa.event.listen(
                server.context.engine, "checkout", lambda dbapi, *_: dbapi.execute("PRAGMA busy_timeout=50")
            )

        shop.be_impatient = all_be_impatient
        gateway = gateway_to(server, shop)
        yield gateway
        gateway.close()


GATEWAYS: dict[str, Callable[[Any], AbstractContextManager[WorkerGateway]]] = {
    "local": lambda shop: nullcontext(shop.gateway()),
    "http": over_http,
}
"""Each makes a gateway to the server of a shop."""


@pytest.fixture(params=GATEWAYS)
def gateway(shop: Any, request: pytest.FixtureRequest) -> Iterator[WorkerGateway]:
    with GATEWAYS[request.param](shop) as made:
        yield made
