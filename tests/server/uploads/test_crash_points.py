"""A server that is killed between any two steps of a file and a row: after the next start nothing is lost or left over.

The client goes on as clients do: it repeats what had no answer. All points are visited in the long form.
"""

import contextlib
import copy
import io
import itertools
import json
import shutil
import sqlite3
import sys
import time
import zipfile
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest

from tests.crash_points import CrashPoints

TUS = {"Tus-Resumable": "1.0.0"}
FAKE_REPORT = Path(__file__).parents[1] / "fake_report.py"
PERIODIC = "Thread-"
"""Threads of periodic tasks: their steps have no fixed number."""
SHORT_TRASH = {"RVC_TRAIN_TRASH_DAYS": "0.0000001"}
SHORT_REPORTS = {"RVC_TRAIN_REPORT_TIMEOUT_SECONDS": "3"}
"""A killed server leaves the folder of a report, which is an orphan once no report can still be running in it."""
SOON: dict[str, object] = {
    "server.admin.scheduler:EXPIRY_SECONDS": 0.2,
    "server.app:SCAN_SECONDS": 0.2,
    "server.storage.orphans:SECONDS_UNTOUCHED": 0,
}


def zip_of(name: str, size: int = 3000) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number in range(2):
            archive.writestr(f"{name} {number}.wav", b"RIFF" + bytes(size))
    return buffer.getvalue()


class Client:
    """What a client asks of the server; a request without an answer raises httpx.TransportError."""

    def __init__(self, http: httpx.Client) -> None:
        self.http = http

    def create(self, length: int) -> str:
        return self._checked(self.http.post("/v1/uploads", headers=TUS | {"Upload-Length": str(length)})).headers[
            "location"
        ]

    def send(self, address: str, content: bytes) -> None:
        """Send what is missing, in two chunks."""
        offset = int(self._checked(self.http.head(address, headers=TUS)).headers["upload-offset"])
        for end in (len(content) // 2, len(content)):
            if offset < end:
                headers = TUS | {"Content-Type": "application/offset+octet-stream", "Upload-Offset": str(offset)}
                self._checked(self.http.patch(address, content=content[offset:end], headers=headers))
                offset = end

    def admit(self, address: str, name: str) -> str:
        body = {"name": name, "upload_id": address.rpartition("/")[2]}
        return str(self._checked(self.http.post("/v1/datasets", json=body)).json()["id"])

    def put(self, content: bytes, name: str) -> str:
        return str(self._checked(self.http.put(f"/v1/datasets/{name}/content", content=content)).json()["id"])

    def delete(self, path: str) -> None:
        answer = self.http.delete(path, headers=TUS)
        assert answer.status_code in {204, 404}, answer.text

    def datasets(self) -> list[tuple[str, str]]:
        """Name and status of each dataset; a repeated request may have made a second one of the same name."""
        return [(each["name"], each["status"]) for each in self._checked(self.http.get("/v1/datasets")).json()["data"]]

    @staticmethod
    def _checked(answer: httpx.Response) -> httpx.Response:
        assert answer.is_success, answer.text
        return answer


def let_uploads_expire(data: Path) -> int:
    """As if days had passed; the number of uploads that are not deleted yet."""
    with contextlib.closing(sqlite3.connect(data / "rvc-train.db", timeout=30)) as database, database:
        return database.execute("UPDATE uploads SET expires_at = '2020-01-01 00:00:00'").rowcount


class Case:
    """What is done while the server dies, and what must be there in the end."""

    environment: ClassVar[dict[str, str]] = {}
    """Of the server that is killed."""
    constants: ClassVar[dict[str, object]] = {}
    ignored_threads = PERIODIC
    steps = ""
    in_start = False
    """Whether steps count from its start on."""
    min_points = 3

    def prepare(self, client: Client, data: Path) -> None:
        """Before any step counts. With a dataset that must never be touched."""
        client.put(zip_of("kept"), "kept")

    def act(self, client: Client) -> None:
        """What the client does, as often as it must."""

    def wanted(self) -> set[str]:
        """Names of the datasets that are there in the end."""
        return {"kept"}


class ResumableUpload(Case):
    address: str | None = None
    content = zip_of("anna")

    def act(self, client: Client) -> None:
        self.address = self.address or client.create(len(self.content))
        client.send(self.address, self.content)
        client.admit(self.address, "anna")

    def wanted(self) -> set[str]:
        return {"kept", "anna"}


class SingleRecording(ResumableUpload):
    content = b"RIFF" + bytes(range(256)) * 20


class SingleRequest(Case):
    def act(self, client: Client) -> None:
        client.put(zip_of("bob"), "bob")

    def wanted(self) -> set[str]:
        return {"kept", "bob"}


class SameBytes(Case):
    """Linked, not unpacked."""

    def act(self, client: Client) -> None:
        client.put(zip_of("kept"), "again")

    def wanted(self) -> set[str]:
        return {"kept", "again"}


class DeletedUpload(Case):
    def prepare(self, client: Client, data: Path) -> None:
        super().prepare(client, data)
        self.address = client.create(100)
        client.send(self.address, bytes(100))

    def act(self, client: Client) -> None:
        client.delete(self.address)


class DeletedDataset(Case):
    def prepare(self, client: Client, data: Path) -> None:
        super().prepare(client, data)
        self.dataset_id = client.put(zip_of("gone"), "gone")
        (data / "cache" / self.dataset_id).mkdir(parents=True)
        (data / "cache" / self.dataset_id / "clips").write_bytes(bytes(100))

    def act(self, client: Client) -> None:
        client.delete(f"/v1/datasets/{self.dataset_id}")


class ExpiredUpload(Case):
    in_start = True

    def prepare(self, client: Client, data: Path) -> None:
        super().prepare(client, data)
        for _ in range(2):
            client.send(client.create(100), bytes(100))
        let_uploads_expire(data)


class Orphans(Case):
    """Files without a row: to the trash, then gone."""

    environment: ClassVar[dict[str, str]] = SHORT_TRASH
    constants: ClassVar[dict[str, object]] = SOON
    ignored_threads = ""
    in_start = True  # the search for orphans begins with it
    steps = "trash|datasets/|uploads/"

    def prepare(self, client: Client, data: Path) -> None:
        super().prepare(client, data)
        self.data = data
        folder = data / "datasets" / f"ds_{'0' * 32}" / "recordings"
        folder.mkdir(parents=True)
        (folder / "000001.wav").write_bytes(b"RIFF")
        (data / "uploads" / f"upl_{'0' * 32}").write_bytes(b"RIFF")

    def act(self, client: Client) -> None:
        is_gone = lambda: not files_in(self.data / "trash") and len(list((self.data / "datasets").iterdir())) == 1  # noqa: E731
        deadline = time.monotonic() + 30
        while not is_gone():
            client.datasets()  # fails when the server is killed
            assert time.monotonic() < deadline
            time.sleep(0.05)


CASES = [
    ResumableUpload, SingleRecording, SingleRequest, SameBytes, DeletedUpload, DeletedDataset, ExpiredUpload, Orphans
]  # fmt: skip


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def check(client: Client, data: Path, case: Case) -> None:
    """Nothing is lost, nothing is left over, and the owner is charged with what is on the disk."""
    assert {name for name, _ in client.datasets()} == case.wanted()
    folders = {path.name for path in (data / "datasets").iterdir()}
    rows = client.http.get("/v1/datasets").json()["data"]
    assert folders == {each["id"] for each in rows}
    for each in rows:
        home = data / "datasets" / each["id"]
        assert [path.name for path in home.iterdir()] == ["recordings"]
        manifest = json.loads((home / "recordings" / "recordings.json").read_text())["files"]
        assert {path.name for path in (home / "recordings").iterdir()} == {row["path"] for row in manifest} | {
            "recordings.json"
        }
        assert len(manifest) == each["num_files"]
    for kind in ("uploads", "incoming", "cache", "trash"):
        assert not files_in(data / kind), kind
    # The same recordings under two names count twice.
    charged = client.http.get("/v1/me").json()["usage"]["bytes"]
    assert charged == sum(path.stat().st_size for path in files_in(data / "datasets"))


class Scene:
    """A data folder as it is before a case, to be copied for each of its points."""

    def __init__(self, station: Any, case: Case) -> None:
        self.station, self.case = station, case
        self.data: Path = station.folder / "data"
        self.client = Client(station.http)
        station.environment["RVC_TRAIN_REPORT_COMMAND"] = json.dumps([sys.executable, str(FAKE_REPORT)])
        self.usual = station.environment
        server = station.start_server()
        case.prepare(self.client, self.data)
        self.wait_until_ready()
        stop(server)
        self.before = self.data.rename(station.folder / "before")

    def wait_until_ready(self) -> None:
        self.station.wait_until(lambda: {status for _, status in self.client.datasets()} == {"ready"}, "the datasets")

    def points(self, constants: dict[str, object] | None = None) -> CrashPoints:
        folder = self.station.folder / f"points-{next(NUMBERS)}"
        return CrashPoints(folder, self.data, self.case.constants | (constants or {}))

    def dies(self, at: int, steps: str | None = None) -> bool:
        """Have the server killed before step `at`, and the next one finish; whether there is such a step.

        `steps`: a regular expression that steps must contain to count; None: the case's.
        """
        shutil.rmtree(self.data, ignore_errors=True)
        shutil.copytree(self.before, self.data)
        case, station, points = copy.copy(self.case), self.station, self.points()
        chosen = {"steps": case.steps if steps is None else steps, "ignored_threads": case.ignored_threads}
        station.environment = self.usual | case.environment
        if case.in_start:
            points.arm(at, **chosen)
            server = station.start("server", points)
            station.wait_until(lambda: server.poll() is not None or station.client.is_ready(), "the start")
        else:
            server = station.start_server(points)
            points.arm(at, **chosen)
        try:
            case.act(self.client)
            self.wait_until_ready()
        except httpx.TransportError:
            server.wait(20)
        has_ended = server.poll() is not None
        stop(server)
        was_killed = points.was_killed()
        assert was_killed or not has_ended, station.words()
        self.recover(case, f"killed at {at}: {points.steps()}")
        return was_killed

    def recover(self, case: Case, what: str) -> None:
        """The next server: the client goes on, and a day passes."""
        self.station.environment = self.usual | case.environment | SHORT_TRASH | SHORT_REPORTS
        server = self.station.start_server(self.points(SOON))
        try:
            case.act(self.client)
            self.wait_until_ready()
            self.station.wait_until(lambda: let_uploads_expire(self.data) == 0, "the expiry")
            self.station.wait_until(lambda: not files_in(self.data / "incoming"), "the orphans of killed reports")
            self.station.wait_until(lambda: not files_in(self.data / "trash"), "the trash")
            check(self.client, self.data, case)
        except BaseException as error:
            error.add_note(what)
            raise
        finally:
            stop(server)


def stop(server: Any) -> None:
    server.kill() if server.poll() is None else None
    server.wait(20)


NUMBERS = itertools.count()


@pytest.mark.sqlite
def test_a_server_that_is_killed_while_an_upload_becomes_a_dataset_loses_nothing_and_leaves_nothing_over(
    station: Any,
) -> None:
    scene = Scene(station, ResumableUpload())
    for step in ("rename datasets", "remove uploads"):
        assert scene.dies(0, step)
    scene.case = SingleRequest()
    assert scene.dies(1, "committed")


@pytest.mark.sqlite
@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", CASES)
def test_a_server_that_is_killed_at_any_point_loses_nothing_and_leaves_nothing_over(
    station: Any, kind: type[Case]
) -> None:
    scene = Scene(station, kind())
    at = next(number for number in itertools.count() if not scene.dies(number))
    print(f"{kind.__name__}: {at} points")
    assert at >= kind.min_points
