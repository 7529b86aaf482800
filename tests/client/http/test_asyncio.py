"""What only the client on asyncio does: it leaves the event loop free, and a cancelled call leaves nothing behind."""

import asyncio
import gc
import hashlib
import threading
import time
from contextlib import aclosing

import pytest

from rvc_train import AsyncClient, connect_async
from rvc_train.http.threads import entered_in_thread, in_thread


class Held:
    """Answer of a server that begins, and ends once the test lets it."""

    def __init__(self):
        self.has_begun = threading.Event()
        self.may_end = threading.Event()
        self.is_connection_closed = threading.Event()

    def wait_for_close(self, request):
        """Wait until the other side has closed its end of the connection."""
        request.connection.settimeout(60)
        while request.connection.recv(1 << 16):
            pass
        self.is_connection_closed.set()
        request.close_connection = True


async def until(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, 60)


async def cancel(task: asyncio.Task) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.fixture
def held():
    return Held()


def test_a_cancelled_download_keeps_the_part_closes_the_connection_and_goes_on_later(server, offered, held, tmp_path):
    def answer(request):
        if held.has_begun.is_set():
            offered.serve(request)
            return
        request.send_response(200)
        request.send_header("Content-Length", str(len(offered.content)))
        request.end_headers()
        request.wfile.write(offered.content[:5000])
        held.has_begun.set()
        held.wait_for_close(request)

    async def download():
        async with AsyncClient(connect_async(server.url)) as client:
            arrived = asyncio.Event()
            task = asyncio.create_task(
                client.download_artifact(offered.artifact, tmp_path, lambda done, total: arrived.set())
            )
            await asyncio.wait_for(arrived.wait(), 60)
            await cancel(task)
            await until(held.is_connection_closed)
            assert [file.name for file in tmp_path.iterdir()] == ["anna.pth.part"]
            await client.download_artifact(offered.artifact, tmp_path)

    server.answer = answer
    asyncio.run(download())
    assert server.seen[1][2]["Range"] == "bytes=5000-"
    assert (tmp_path / "anna.pth").read_bytes() == offered.content
    assert [file.name for file in tmp_path.iterdir()] == ["anna.pth"]


def test_a_cancelled_upload_closes_the_connection_and_leaves_no_zip(server, held, tmp_path, monkeypatch):
    def answer(request):
        match request.command, request.path:
            case "POST", "/v1/uploads":
                request.send(201, Location="/v1/uploads/upl_1")
            case "PATCH", _:
                request.rfile.read(1000)
                held.has_begun.set()
                held.wait_for_close(request)
            case _:
                request.send_problem(404, "not_found", "there is nothing")

    async def upload():
        async with AsyncClient(connect_async(server.url), tmp_path / "memory") as client:
            task = asyncio.create_task(client.upload_dataset([tmp_path / "anna"]))
            await until(held.has_begun)
            await cancel(task)
            await until(held.is_connection_closed)

    for folder in ("anna", "temporary"):
        (tmp_path / folder).mkdir()
    (tmp_path / "anna" / "a.wav").write_bytes(bytes(30_000_000))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    server.answer = answer
    asyncio.run(upload())
    assert list((tmp_path / "temporary").iterdir()) == []
    assert len(list((tmp_path / "memory").iterdir())) == 1, "the next call goes on with the upload"


@pytest.mark.parametrize("ends_by", ["cancel", "break", "aclosing"])
def test_a_stream_that_is_left_closes_its_connection(server, held, ends_by):
    def answer(request):
        request.send_response(200)
        request.send_header("Content-Type", "text/event-stream")
        request.end_headers()
        request.wfile.write(b"retry: 1000\n\nid: 1\ndata: the first line\n\n")
        held.wait_for_close(request)

    async def follow():
        async with AsyncClient(connect_async(server.url)) as client:
            arrived = asyncio.Event()

            async def read(stops: bool) -> None:
                async for _ in client.follow_logs("job_1"):
                    arrived.set()
                    if stops:
                        break

            if ends_by == "cancel":
                task = asyncio.create_task(read(stops=False))
                await asyncio.wait_for(arrived.wait(), 60)
                await cancel(task)
            elif ends_by == "break":
                await read(stops=True)
                gc.collect()
            else:
                async with aclosing(client.follow_logs("job_1")) as lines:
                    assert await anext(lines) == "the first line"
            await until(held.is_connection_closed)

    server.answer = answer
    asyncio.run(follow())


def test_a_time_limit_of_asyncio_ends_a_pause_before_a_retry(server):
    async def ask():
        async with AsyncClient(connect_async(server.url)) as client:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await client.queue()

    server.answer = lambda request: request.send(429, Retry_After="25")
    started_at = time.monotonic()
    asyncio.run(ask())
    assert time.monotonic() - started_at < 20


def test_many_requests_run_at_once(server):
    everyone = threading.Barrier(20, timeout=60)

    def answer(request):
        everyone.wait()
        request.send_json({"data": [], "has_more": False, "next_cursor": None})

    async def ask():
        async with AsyncClient(connect_async(server.url)) as client:
            return await asyncio.gather(*(client.artifacts(f"job_{number}") for number in range(20)))

    server.answer = answer
    assert asyncio.run(ask()) == [[]] * 20


def test_hashing_leaves_the_event_loop_free(server, tmp_path, monkeypatch):
    threads = set()
    original = hashlib.file_digest

    def file_digest(*args):
        threads.add(threading.current_thread())
        return original(*args)

    async def upload():
        async with AsyncClient(connect_async(server.url), tmp_path / "memory") as client:
            await client.upload_dataset([tmp_path / "a.wav"])

    (tmp_path / "a.wav").write_bytes(b"bytes")
    monkeypatch.setattr(hashlib, "file_digest", file_digest)
    server.answer = lambda request: request.send_problem(422, "refused", "no")
    with pytest.raises(Exception, match="no"):
        asyncio.run(upload())
    assert threads
    assert threading.main_thread() not in threads


def test_a_cancelled_call_waits_for_its_thread_and_leaves_its_context():
    log = []
    has_begun, may_end = threading.Event(), threading.Event()

    class Slow:
        def __enter__(self):
            has_begun.set()
            assert may_end.wait(60)
            log.append("entered")

        def __exit__(self, *error):
            log.append("left")

    async def use():
        async with entered_in_thread(Slow()):
            log.append("never")

    async def run():
        task = asyncio.create_task(use())
        await until(has_begun)
        asyncio.get_running_loop().call_later(0.05, may_end.set)
        await cancel(task)
        log.append("cancelled")

    asyncio.run(run())
    assert log == ["entered", "left", "cancelled"]


def test_an_error_of_a_thread_is_the_callers():
    with pytest.raises(FileNotFoundError):
        asyncio.run(in_thread(open, "/nonexistent/file"))
