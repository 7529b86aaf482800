"""Proxies named in the environment, each of them a real one on this machine."""

import asyncio
import contextlib
import gc
import os
import socket
import socketserver
import threading
from collections.abc import Iterator

import httpx
import pytest

from rvc_engine.environment.proxies import proxy_for
from rvc_engine.weights.catalogue import published_files
from rvc_engine.weights.download import unreachable_reason
from rvc_train.client import AsyncClient, Client, connect, connect_async
from rvc_train.errors import ApiError, ConnectionFailed, UsageError

pytestmark = pytest.mark.usefixtures("no_proxies")


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)


class SocksProxy(socketserver.ThreadingTCPServer):
    """SOCKS5 proxy that connects to one port of this machine, whatever address is asked for."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int) -> None:
        self.port, self.asked = port, list[str]()
        super().__init__(("127.0.0.1", 0), _SocksRequest)


class _SocksRequest(socketserver.BaseRequestHandler):
    server: SocksProxy

    def handle(self) -> None:
        _version, num_methods = self.request.recv(2)
        self.request.recv(num_methods)
        self.request.sendall(b"\5\0")
        _version, _command, _reserved, kind = self.request.recv(4)
        length = {1: 4, 4: 16}.get(kind) or self.request.recv(1)[0]
        self.server.asked.append(self.request.recv(length).decode("latin-1"))
        self.request.recv(2)
        self.request.sendall(b"\5\0\0\1" + bytes(6))
        with socket.create_connection(("127.0.0.1", self.server.port)) as other:
            threading.Thread(target=_copy, args=(other, self.request), daemon=True).start()
            _copy(self.request, other)


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65_536):
            target.sendall(data)
    except OSError:
        pass


@pytest.fixture
def socks(server) -> Iterator[SocksProxy]:
    with SocksProxy(server.server_address[1]) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield proxy
        proxy.shutdown()
        thread.join()


@pytest.mark.parametrize("scheme", ["socks5", "socks5h", "socks"])
def test_a_server_elsewhere_is_reached_through_a_socks_proxy(server, socks, monkeypatch, scheme):
    monkeypatch.setenv("ALL_PROXY", f"{scheme}://127.0.0.1:{socks.server_address[1]}")
    server.answer = lambda request: request.send_json({"running": [], "queued": [], "total": 0})
    with connect("http://voices.example", "") as http:
        assert http.get("/v1/queue").status_code == 200
    assert socks.asked == ["voices.example"]  # the proxy resolves the name


def test_the_client_on_asyncio_uses_the_same_proxy_and_waits_no_longer_for_it(server, socks, monkeypatch):
    async def status() -> int:
        async with connect_async("http://voices.example", "") as http:
            return (await http.get("/v1/queue")).status_code

    async def fails() -> None:
        async with connect_async("http://voices.example", "") as http:
            await AsyncClient(http).queue()

    server.answer = lambda request: request.send_json({"running": [], "queued": [], "total": 0})
    monkeypatch.setenv("ALL_PROXY", f"socks5://127.0.0.1:{socks.server_address[1]}")
    assert asyncio.run(status()) == 200
    assert socks.asked == ["voices.example"]
    monkeypatch.setattr("rvc_engine.environment.proxies.GREETING_SECONDS", 0.1)
    monkeypatch.setattr("rvc_train.retry._pause_async", lambda seconds: asyncio.sleep(0))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("ALL_PROXY", f"socks5://127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(ConnectionFailed, match=r"(?i)of ALL_PROXY"):
            asyncio.run(fails())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # httpcore leaves the socket open
def test_a_program_that_is_no_socks_proxy_is_named(server, monkeypatch):
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(100)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    monkeypatch.setenv("all_proxy", f"socks5://127.0.0.1:{listener.getsockname()[1]}")
    with connect("http://voices.example", "") as http, pytest.raises(ConnectionFailed, match=r"(?i)of all_proxy"):
        Client(http).queue()
    with contextlib.suppress(OSError):  # as Windows raises where nothing is connected
        listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    gc.collect()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_socks_proxy_that_is_silent_is_not_waited_for_without_end(monkeypatch):
    monkeypatch.setattr("rvc_engine.environment.proxies.GREETING_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("all_proxy", f"socks5://127.0.0.1:{listener.getsockname()[1]}")
        with connect("http://voices.example", "") as http, pytest.raises(ConnectionFailed, match=r"(?i)of all_proxy"):
            Client(http).queue()
    gc.collect()


def test_an_answer_of_the_proxy_names_the_proxy_its_variable_and_the_way_around_it(server, monkeypatch):
    server.answer = lambda request: request.send(502, b"<html>cannot reach the host</html>", "text/html")
    monkeypatch.setenv("http_proxy", server.url.replace("//", "//user:password@"))
    with connect("http://10.9.8.7:8000", "") as http, pytest.raises(ApiError) as refused:
        Client(http).queue()
    assert f"through the proxy {server.url} of http_proxy" in str(refused.value).replace("HTTP_PROXY", "http_proxy")
    assert "NO_PROXY=10.9.8.7" in str(refused.value)
    assert "password" not in str(refused.value)


def test_a_proxy_that_does_not_answer_is_named(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "127.0.0.1:1")
    with connect("https://voices.example", "") as http, pytest.raises(ConnectionFailed, match=r":1 of HTTPS_PROXY"):
        Client(http).queue()


@pytest.mark.parametrize(
    ("no_proxy", "excluded", "others"),
    [
        ("[::1],localhost", [], ["http://10.0.0.5:8000"]),
        ("::1, fd00::/8", ["http://[fd00::7]:8000"], ["http://[2001:db8::1]:8000"]),
        ("10.0.0.0/8 *.lan", ["http://10.0.0.5:8000", "https://nas.lan"], ["http://11.0.0.5", "http://lan.example"]),
        (".corp.example", ["http://a.corp.example", "http://corp.example"], ["http://notcorp.example"]),
        ("nas:8000, 192.168.*", ["http://nas:8000", "http://192.168.3.4"], ["http://nas:8001"]),
        ("*", ["http://10.0.0.5", "http://[2001:db8::1]"], []),
        ("10.0.0.0/99,[,:,://,*.", [], ["http://10.0.0.5"]),
    ],
)
def test_no_proxy_is_read_as_people_write_it(monkeypatch, no_proxy, excluded, others):
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert [url for url in excluded if proxy_for(httpx.URL(url))] == []
    assert [url for url in others if not proxy_for(httpx.URL(url))] == []
    for url in excluded + others:
        connect(url, "").close()


def test_this_machines_own_addresses_are_reached_without_a_proxy(server, monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.200", 9))  # sends nothing: selects the address that other machines see
        own = probe.getsockname()[0]
    for host in ("127.0.0.1", "127.0.0.2", "localhost", "a.localhost", "[::1]", socket.gethostname(), own):
        assert proxy_for(httpx.URL(f"http://{host}:8000")) is None


@pytest.mark.parametrize("proxy", ["socks4://127.0.0.1:1", "http://", "http://host:port", "ftp://host"])
def test_a_proxy_that_cannot_be_used_is_an_error_that_names_the_variable(monkeypatch, proxy):
    monkeypatch.setenv("http_proxy", proxy)
    with pytest.raises(UsageError, match=r"(?i)http_proxy"):
        connect("http://voices.example", "")
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    assert "HTTPS_PROXY" in (unreachable_reason(published_files()[0]) or "")


def test_weights_are_looked_for_through_a_socks_proxy(server, socks, monkeypatch):
    monkeypatch.setenv("all_proxy", f"socks5h://127.0.0.1:{socks.server_address[1]}")
    monkeypatch.setenv("HF_ENDPOINT", "http://mirror.example")
    server.answer = lambda request: request.send(200)
    file = next(file for file in published_files() if file.wheel is None)
    assert unreachable_reason(file) is None
    assert socks.asked == ["mirror.example"]
