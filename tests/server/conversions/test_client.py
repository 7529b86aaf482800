"""`rvc-train convert` and `client.conversions` on a real server; a thread claims and finishes in a worker's place."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from rvc_train.cli.main import app
from rvc_train.client import Client, connect
from rvc_train.errors import UsageError
from rvc_train.schemas.voices.conversions import ConversionFailure, ConversionOptions
from server.conversions.queue import ResultFile
from tests.server.conftest import USUAL_TOKEN


class Worker:
    """Converts each recording into its own bytes and the options; one without a byte cannot be converted."""

    def __init__(self, shop: Any) -> None:
        self._shop, self._stopping = shop, threading.Event()
        self.num_claims = 0
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        worker_id = self._shop.worker()
        while not self._stopping.wait(0.02):
            lease = self._shop.queue.claim(worker_id)
            if lease is None:
                continue
            self.num_claims += 1
            self._shop.queue.beat(lease, 0.5)
            results = []
            for place, each in enumerate(lease.inputs):
                content = each.path.read_bytes()
                if content == b"silence":
                    results.append(ResultFile(each.output, error="the recording is silent"))
                else:
                    shift = str(lease.options.pitch_shift).encode()
                    results.append(self._shop.result(lease, place, b" ".join((content, shift))))
            self._shop.queue.finish(lease, results, "cpu", "no GPU here")

    def __enter__(self) -> "Worker":
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopping.set()
        self.thread.join()


@pytest.fixture
def worker(shop: Any) -> Iterator[Worker]:
    with Worker(shop) as working:
        yield working


def rvc_train(shop: Any, *words: object) -> Result:
    environment = {"RVC_TRAIN_SERVER": shop.server.url, "RVC_TRAIN_TOKEN": USUAL_TOKEN}
    return CliRunner().invoke(app, ["convert", *map(str, words)], env=environment)


def test_the_command_converts_a_recording_into_a_file_of_the_format_in_its_name(
    shop: Any, worker: Worker, tmp_path: Path
) -> None:
    shop.finished()
    (tmp_path / "in.wav").write_bytes(b"sound")
    done = rvc_train(shop, tmp_path / "in.wav", tmp_path / "out.flac", "--voice", "anna", "--pitch-shift", 12)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out.flac").read_bytes() == b"sound 12.0"
    assert "1 of 1 converted" in done.output
    made = shop.http.get("/v1/conversions").json()["data"][0]
    assert (made["options"]["format"], made["results"][0]["name"]) == ("flac", "in.flac")
    again = rvc_train(shop, tmp_path / "in.wav", tmp_path, "--voice", "anna", "--pitch-shift", "auto", "--json")
    assert again.exit_code == 0, again.output
    assert f'"id": "{shop.http.get("/v1/conversions").json()["data"][0]["id"]}"' in again.stdout


def test_the_command_converts_a_folder_and_says_which_recording_failed(
    shop: Any, worker: Worker, tmp_path: Path
) -> None:
    shop.finished()
    for name, content in (("a.wav", b"one"), ("a.flac", b"two"), ("sub/b.wav", b"one"), ("quiet.wav", b"silence")):
        path = tmp_path / "takes" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    done = rvc_train(shop, tmp_path / "takes", tmp_path / "out", "--voice", "anna", "--format", "mp3")
    assert done.exit_code == 4, done.output
    found = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.mp3")}
    assert found == {"a.mp3", "a (2).mp3", "sub/b.mp3"}
    assert "quiet.wav: the recording is silent" in " ".join(done.output.split())
    assert worker.num_claims == 1, "one request for all"


def test_the_command_ends_with_the_reason_of_a_conversion_that_failed(shop: Any, tmp_path: Path) -> None:
    shop.finished()
    (tmp_path / "in.wav").write_bytes(b"sound")
    worker_id = shop.worker()

    def fail() -> None:
        while (lease := shop.queue.claim(worker_id)) is None:
            time.sleep(0.02)
        shop.queue.fail(lease, ConversionFailure.MISSING_WEIGHTS, "the encoder is missing")

    with ThreadPoolExecutor(1) as pool:
        pool.submit(fail)
        done = rvc_train(shop, tmp_path / "in.wav", tmp_path / "out.wav", "--voice", "anna")
    assert done.exit_code == 4, done.output
    assert "0 of 1 converted" in done.output
    assert "error: the encoder is missing" in done.output


def test_the_command_refuses_what_cannot_be_meant_before_it_sends_anything(shop: Any, tmp_path: Path) -> None:
    (tmp_path / "in.wav").write_bytes(b"sound")
    source, target = tmp_path / "in.wav", tmp_path / "out.wav"
    for words, sentence in (
        ((source, target, "--pitch-shift", "high"), "neither auto nor a number"),
        ((source, target, "--save", "first"), "none of best, latest"),
        ((source, target, "--protect", "0.9"), "--protect"),
        ((source, tmp_path / "out.exe"), "ends with .exe"),
        ((tmp_path / "missing.wav", target), "there is no file or folder"),
    ):
        done = rvc_train(shop, *words, "--voice", "anna")
        assert (done.exit_code, sentence in " ".join(done.output.split())) == (2, True), done.output
    unknown = rvc_train(shop, source, target, "--voice", "nobody")
    assert (unknown.exit_code, "there is no finished voice 'nobody'" in " ".join(unknown.output.split())) == (1, True)
    assert not target.exists()


def test_the_client_follows_a_conversion_to_its_end_and_checks_what_it_downloads(
    shop: Any, worker: Worker, tmp_path: Path
) -> None:
    shop.finished()
    for name, content in (("a.wav", b"one"), ("quiet.wav", b"silence")):
        (tmp_path / name).write_bytes(content)
    sent: list[tuple[int, int]] = []
    with connect(shop.server.url, USUAL_TOKEN) as http:
        client = Client(http)
        paths = [tmp_path / "a.wav", tmp_path / "quiet.wav"]
        options = ConversionOptions(format="opus")
        made = client.conversions.submit("anna", paths, options, progress=lambda *done: sent.append(done))
        types = [str(event.type) for event in client.conversions.follow(made.id) if event.type != "progress"]
        ended = client.conversions.wait(made.id)
        assert types == ["created", "started", "succeeded"]
        assert (sent[0], sent[-1]) == ((0, 10), (10, 10))
        path = client.conversions.download(made.id, ended.results[0], tmp_path / "a.opus")
        assert path.read_bytes() == b"one 0.0"
        with pytest.raises(UsageError, match="the recording is silent"):
            client.conversions.download(made.id, ended.results[1], tmp_path / "quiet.opus")
        assert [each.id for each in client.conversions.list(voice="anna")] == [made.id]
        client.conversions.delete(made.id)
        assert list(client.conversions.list()) == []
