"""A proxy on the server's machine, of whose callers the server sees neither address nor host, lets nobody in."""

import http.server
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from rvc_train.cli.services import free_port

TOKEN = "the-first-token-of-all"
NGINX = """
daemon off; pid {folder}/pid; error_log {folder}/error.log;
events {{}}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass {upstream}; }} }}
}}
"""


class PlainProxy(http.server.BaseHTTPRequestHandler):
    """What nginx does where there is no nginx: the request goes on with the upstream's host, and nothing else."""

    upstream = ""

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
        answer = httpx.request(self.command, self.upstream + self.path, headers=headers, content=body)
        self.send_response(answer.status_code)
        self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def proxy(tmp_path: Path, eventually: Callable[..., None]) -> Iterator[Callable[[str], str]]:
    """`proxy(url)`: the address of a proxy in front of it."""
    stops: list[Callable[[], object]] = []

    def nginx(upstream: str) -> str:
        port = free_port()
        (tmp_path / "nginx").mkdir()
        config = tmp_path / "nginx" / "nginx.conf"
        config.write_text(NGINX.format(folder=config.parent, port=port, upstream=upstream))
        child = subprocess.Popen([shutil.which("nginx") or "", "-c", str(config)], stderr=subprocess.DEVNULL)
        stops.extend([child.terminate, child.wait])
        eventually(lambda: _answers(f"http://127.0.0.1:{port}"))
        return f"http://127.0.0.1:{port}"

    def plain(upstream: str) -> str:
        handler = type("Handler", (PlainProxy,), {"upstream": upstream})
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        stops.extend([server.shutdown, server.server_close])
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield nginx if shutil.which("nginx") else plain
    for stop in stops:
        stop()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/livez").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("token", [None, TOKEN])
def test_a_caller_of_a_plain_proxy_is_nobody_without_a_token(
    serve: Callable[..., Any], proxy: Callable[[str], str], tmp_path: Path, token: str | None
) -> None:
    with serve(tmp_path / "data", token=token) as server, httpx.Client(base_url=proxy(server.url)) as stranger:
        assert stranger.get("/v1/jobs").status_code == 401
        assert stranger.get("/v1/tokens").status_code == 401
        assert stranger.post("/v1/tokens", json={"owner": "mallory", "scopes": ["admin"]}).status_code == 401
        assert stranger.get("/metrics").status_code == 401
        server.context.tokens.set_local_token("rvct_the-local-token-of-it")
        headers = {"Authorization": "Bearer rvct_the-local-token-of-it"}
        assert stranger.get("/v1/jobs", headers=headers).status_code == 200
