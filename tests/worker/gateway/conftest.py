"""The gateways under test: each keeps the promises of the interface, on a server with a real store."""

from collections.abc import Callable
from typing import Any

import pytest

from worker.gateway.interface import WorkerGateway

GATEWAYS: dict[str, Callable[[Any], WorkerGateway]] = {"local": lambda shop: shop.gateway()}
"""Each makes a gateway to the server of a shop."""


@pytest.fixture(params=GATEWAYS)
def gateway(shop: Any, request: pytest.FixtureRequest) -> WorkerGateway:
    return GATEWAYS[request.param](shop)
