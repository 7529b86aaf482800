"""`rvc_train.synchronous` is what `make synchronous` generates from `rvc_train.asynchronous`."""

import inspect

import pytest

from rvc_train.client import AsyncClient, Client
from tests.synchronous import SOURCES, synchronous, target


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_the_synchronous_client_is_the_one_generated_from_the_asynchronous(source):
    assert target(source).read_text() == synchronous(source), "run `make synchronous`"


def test_no_module_is_left_of_one_that_has_gone():
    rooms = {path.name for path in target(SOURCES[0]).parent.glob("*.py")} - {"__init__.py"}
    assert rooms == {source.name for source in SOURCES}


def test_both_clients_have_the_same_methods_with_the_same_parameters():
    names = {name for name in dir(Client) if not name.startswith("_")} - {"close"}
    assert names == {name for name in dir(AsyncClient) if not name.startswith("_")} - {"aclose"}
    for name in names:
        one, other = inspect.signature(getattr(Client, name)), inspect.signature(getattr(AsyncClient, name))
        assert list(one.parameters.values()) == list(other.parameters.values()), name
