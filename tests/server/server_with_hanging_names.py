"""`python -m server` with a name server that does not answer for names that end in `.hang.example`."""

import runpy
import socket
import time
from typing import Any

_look_up = socket.getaddrinfo


def getaddrinfo(host: Any, *arguments: Any, **more: Any) -> Any:
    if str(host).endswith(".hang.example"):
        time.sleep(120)
    return _look_up(host, *arguments, **more)


socket.getaddrinfo = getaddrinfo
runpy.run_module("server", run_name="__main__", alter_sys=True)
