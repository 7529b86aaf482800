"""The client of a training server: `from rvc_train import Client`. Its command line is `rvc-train`.

A plain `import rvc_train`, as the server needs for the schemas, loads nothing else.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rvc_train.client import AsyncClient, Client, connect, connect_async

__all__ = ["AsyncClient", "Client", "connect", "connect_async"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rvc_train import client

    return getattr(client, name)
