"""A voice is tried where it was made: files and the microphone, any save, results beside the originals."""

import hashlib
import io
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import faiss
import numpy as np
import pytest
from playwright.sync_api import Page, expect

from rvc_engine.config import TrainingConfig
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.models.synthesizer import Synthesizer
from rvc_engine.voices.export import VoiceDetails, write_voice
from rvc_train.schemas.voices.conversions import ConversionFailure
from server.conversions.queue import ConversionLease, ConversionQueue, ResultFile
from server.database.engine import create_engine
from server.storage.local import Storage, StoredFile

SECONDS_TO_CONVERT = 150
ELSEWHERE = "elsewhere.test"
"""A name that Chromium finds on this machine, and does not trust with a microphone."""


DECODE = """async (address) => {
  const bytes = await (await fetch(address)).arrayBuffer();
  const sound = await new OfflineAudioContext(1, 1, 44100).decodeAudioData(bytes);
  const loudest = sound.getChannelData(0).reduce((most, one) => Math.max(most, Math.abs(one)), 0);
  return { seconds: sound.duration, loudest };
}"""


def small_voice(folder: Path) -> list[list[str]]:
    """Steps of a script that offer a voice of a small net with random weights, and an index of random features."""
    config = TrainingConfig(content="whisper-tiny", pretrained="none", width=24)
    hparams = Hyperparameters.from_config(config)
    voice, index = folder / "small.pth", folder / "small.index"
    details = VoiceDetails("anna", 1, 1, "whisper-tiny.en-l2l3", 60.0)
    write_voice(voice, Synthesizer(hparams).state_dict(), hparams, details)
    rows = np.random.default_rng(0).standard_normal((500, 768)).astype(np.float32)
    made = faiss.index_factory(768, "IVF4,Flat")
    made.train(rows)
    made.add(rows)
    faiss.write_index(made, str(index))
    return [["true_artifact", "voice", str(voice)], ["true_artifact", "index", str(index)], ["succeed"]]


class Desk:
    """A worker's side of the queue of conversions: each is taken and ended when a test says so."""

    def __init__(self, station: Any) -> None:
        self.station = station
        self.storage = Storage(station.folder / "data")
        self.engine = create_engine(f"sqlite:///{station.folder / 'data' / 'rvc-train.db'}")
        self.queue = ConversionQueue(self.engine, self.storage, lambda: datetime.now(UTC))

    def take(self) -> ConversionLease:
        """The next conversion, once it is there."""
        worker = next(worker.id for worker in self.station.client.workers() if worker.status != "lost")
        found: list[ConversionLease] = []

        def is_there() -> bool:
            found.extend(lease for lease in [self.queue.claim(worker)] if lease)
            return bool(found)

        self.station.wait_until(is_there, "a conversion", 30)
        return found[0]

    def finish(self, lease: ConversionLease, *, faults: dict[str, str] | None = None) -> None:
        """The recordings as they came, in place of a voice's."""
        results = []
        for each in lease.inputs:
            if fault := (faults or {}).get(each.name):
                results.append(ResultFile(each.output, error=fault))
                continue
            path = lease.output_folder / each.output
            shutil.copyfile(self.station.samples / "vm-review.flac", path)
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            file = StoredFile(path.relative_to(self.storage.root).as_posix(), path.stat().st_size, digest)
            results.append(ResultFile(each.output, file, seconds=6.5, pitch_shift=7.25))
        self.queue.finish(lease, results, "cpu", "a training has the memory of the GPU")


@pytest.fixture(scope="module")
def house(open_station: Callable[..., Any], token: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A voice with two saves, and a worker that leaves conversions to the test."""
    station = open_station(tmp_path_factory.mktemp("house"), token)
    station.environment |= {"RVC_TRAIN_CONVERSIONS": "false", "RVC_TRAIN_MAX_CONVERSION_BYTES": "1000000"}
    station.follow_script(
        ["train", 2, 0.01, 1], ["evaluated", 1, 30, True], ["evaluated", 2, 35, False], *station.MAKE_VOICE
    )
    station.start_server()
    station.start_worker()
    dataset = station.upload(station.samples / "vm-review.flac", name="anna")
    config = station.small.model_copy(update={"save_every_epochs": 1, "keep_saves": "all"})
    job = station.wait_for(station.submit(dataset, config=config), "succeeded", "failed")
    assert job.status == "succeeded", job.error
    desk = Desk(station)
    (desk.storage.workspace(job.id) / "G_1.pth").write_bytes(b"a save")  # the script writes none
    yield SimpleNamespace(station=station, dataset=dataset, job=job, desk=desk)
    station.close()


@pytest.fixture(autouse=True)
def no_conversion_is_left(house: Any) -> Iterator[None]:
    """Each test begins without any."""
    yield
    for one in house.station.http.get("/v1/conversions?limit=100").json()["data"]:
        house.station.http.delete(f"/v1/conversions/{one['id']}")


def come(house: Any, visit: Any, *, forgiven: str = "$^", **options: Any) -> Page:
    """Someone at the panel, with a microphone."""
    visitor = visit(house.station, **options)
    visitor.forgive(forgiven)
    visitor.context.grant_permissions(["microphone"])
    visitor.open(f"/jobs/{house.job.id}")
    expect(visitor.page.locator("#try-section")).to_be_visible()
    page: Page = visitor.page
    return page


def choose(page: Page, *files: Path) -> None:
    page.locator("#try-section input[type=file]").set_input_files(files)
    expect(page.locator(".sources li")).to_have_count(len(files))


def convert(page: Page) -> None:
    page.get_by_role("button", name="Convert", exact=True).click()


def test_a_file_is_converted_and_heard_beside_the_original_at_the_same_position(house: Any, visit: Any) -> None:
    page = come(house, visit)
    expect(page.get_by_role("button", name="Convert", exact=True)).to_be_disabled()
    choose(page, house.station.samples / "vm-review.flac")
    expect(page.get_by_label("Which save").locator("option")).to_have_text(
        ["The finished voice", "Best save so far", "Epoch 2, step 2", "Epoch 1, step 1"]
    )
    page.get_by_label("Pitch", exact=True).select_option("12")
    page.get_by_text("More options").click()
    page.get_by_label("Format of the result").select_option("flac")
    convert(page)
    row = page.locator(".try")
    expect(row).to_contain_text("no worker that converts recordings is running")
    lease = house.desk.take()
    assert (lease.options.pitch_shift, lease.options.format, lease.save) == (12, "flac", None)
    house.desk.queue.beat(lease, 0.4)
    expect(row).to_contain_text("Converting, 40 %")
    house.desk.finish(lease)
    player = row.locator(".preview")
    expect(player).to_have_attribute("data-converted", "ready")
    expect(player).to_have_attribute("data-original", "ready")
    expect(row).to_contain_text("Ran on the CPU (a training has the memory of the GPU)")
    player.get_by_role("button", name="Play").click()
    page.wait_for_timeout(700)
    player.get_by_text("Original", exact=True).click()
    player.get_by_role("button", name="Pause").click()
    assert _position(page, 1) > 0.3, "the original goes on where the conversion was"
    with page.expect_download() as download:
        row.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename == "vm-review.flac"
    digest = hashlib.sha256(Path(download.value.path()).read_bytes()).hexdigest()
    expect(row.locator(".sha")).to_have_text(digest)
    page.reload()
    expect(page.locator(".try")).to_have_count(1)
    expect(page.get_by_label("Pitch", exact=True)).to_have_value("12")
    page.get_by_role("button", name="Use the recording again").click()
    expect(page.locator(".sources li")).to_contain_text("vm-review.flac")
    page.locator(".try").get_by_role("button", name="Delete").click()
    expect(page.locator(".try")).to_have_count(0)


def _position(page: Page, wave: int) -> float:
    """Seconds at which a side of the only player is."""
    script = """(place) => place.firstElementChild.shadowRoot.querySelector("audio")?.currentTime"""
    found = page.locator(".try .wave").nth(wave).evaluate(script)
    if found is None:  # the element is not in the tree: the cursor is
        script = """(place) => {
          const tree = place.firstElementChild.shadowRoot;
          return 6.5 * parseFloat(tree.querySelector(".cursor").style.left) / 100;
        }"""
        found = page.locator(".try .wave").nth(wave).evaluate(script)
    return float(found)


def test_the_microphone_is_recorded_heard_and_converted(house: Any, visit: Any) -> None:
    page = come(house, visit)
    page.get_by_role("button", name="Record", exact=True).click()
    expect(page.locator(".recording")).to_contain_text("of 38 sec")
    page.wait_for_function("() => document.querySelector('.recording meter').value > 0.01")
    page.wait_for_timeout(1500)
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".sources li")).to_contain_text(re.compile(r"Microphone .*\.webm"))
    chosen = page.locator(".sources-part .preview")
    expect(chosen).to_have_attribute("data-chosen", "ready")
    chosen.get_by_role("button", name="Play").click()
    expect(chosen.get_by_role("button", name="Pause")).to_be_visible()
    convert(page)
    lease = house.desk.take()
    assert lease.inputs[0].name.endswith(".webm")
    assert lease.inputs[0].path.read_bytes()[:4] == b"\x1a\x45\xdf\xa3", "EBML, of which WebM is a kind"
    assert lease.options.pitch_shift == "auto"
    house.desk.finish(lease)
    expect(page.locator(".try .preview")).to_have_attribute("data-original", "ready")
    page.reload()  # without a question: the server has the recording


def test_a_microphone_that_is_not_allowed_or_offered_is_said_in_a_sentence(house: Any, visit: Any) -> None:
    visitor = visit(house.station)
    page = visitor.page
    visitor.open(f"/jobs/{house.job.id}")
    page.get_by_role("button", name="Record", exact=True).click()
    expect(page.locator(".sources-part .fault").last).to_contain_text("does not allow the microphone")
    expect(page.get_by_role("button", name="Record", exact=True)).to_be_enabled()
    visitor.forgive(ELSEWHERE)
    address = house.station.url.replace("127.0.0.1", ELSEWHERE)
    visitor.context.add_cookies(
        [{"name": each["name"], "value": each["value"], "url": address} for each in visitor.context.cookies()]
    )
    page.goto(f"{address}/jobs/{house.job.id}")
    expect(page.locator("#try-section")).to_contain_text("Browsers offer the microphone over https, or at localhost")
    expect(page.get_by_role("button", name="Record", exact=True)).to_have_count(0)


def test_the_microphone_comes_back_in_the_voice(
    open_station: Callable[..., Any], token: str, visit: Any, tmp_path: Path
) -> None:
    """With a worker and an engine: what Chromium's fake microphone records, rendered by a small voice."""
    station = open_station(tmp_path, token)
    try:
        station.follow_script(["train", 2, 0.01, 1], *small_voice(tmp_path))
        station.start_server()
        station.start_worker()
        dataset = station.upload(station.samples / "vm-review.flac", name="anna")
        job = station.wait_for(station.submit(dataset), "succeeded", "failed")
        assert job.status == "succeeded", job.error
        visitor = visit(station)
        visitor.context.grant_permissions(["microphone"])
        page = visitor.page
        visitor.open(f"/jobs/{job.id}")
        page.get_by_role("button", name="Record", exact=True).click()
        page.wait_for_timeout(2500)
        page.get_by_role("button", name="Stop").click()
        page.get_by_label("Pitch", exact=True).select_option("0")
        convert(page)
        row = page.locator(".try")
        expect(row.locator(".pill")).to_have_text("Ready", timeout=1000 * SECONDS_TO_CONVERT)
        expect(row.locator(".preview")).to_have_attribute("data-converted", "ready")
        expect(row).to_contain_text("Ran on the CPU")
        result = page.evaluate(DECODE, row.get_by_role("link", name="Download").get_attribute("href"))
        assert 1 < result["seconds"] < 10
        assert result["loudest"] > 0
        page.close()  # before its server
    finally:
        station.close()


def test_a_file_that_cannot_be_taken_is_refused_before_it_is_sent(house: Any, visit: Any, tmp_path: Path) -> None:
    page = come(house, visit)
    expect(page.locator(".drop")).to_contain_text("up to 10 min each")
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "long.wav").write_bytes(bytes(1_100_000))
    page.locator("#try-section input[type=file]").set_input_files([tmp_path / "empty.wav", tmp_path / "long.wav"])
    expect(page.locator(".toast", has_text="empty.wav is empty")).to_be_visible()
    expect(page.locator(".toast", has_text="long.wav is larger than 1 MB")).to_be_visible()
    expect(page.locator(".sources li")).to_have_count(0)


def test_several_files_are_one_conversion_with_one_zip_and_what_failed_is_said(house: Any, visit: Any) -> None:
    files = sorted(house.station.samples.glob("vm-*.flac"))[:3]
    page = come(house, visit, forgiven="422")
    choose(page, *files)
    page.get_by_label("Which save").select_option("2")
    convert(page)
    expect(page.locator("#try-section > .fault")).to_contain_text("has no save 2; it has these numbers: 1")
    page.get_by_label("Which save").select_option("1")
    convert(page)
    lease = house.desk.take()
    assert lease.save == "1"
    house.desk.finish(lease, faults={files[1].name: "there is no sound in it"})
    row = page.locator(".try")
    expect(row).to_contain_text("3 recordings")
    expect(row).to_contain_text(f"{files[1].name}: there is no sound in it")
    expect(row.locator(".results li")).to_have_count(2)
    row.get_by_role("button", name=f"Listen to {files[2].name}").click()
    expect(row.get_by_role("button", name="Pause")).to_be_visible()
    with page.expect_download() as download:
        row.get_by_role("link", name="Download all (zip)").click()
    with zipfile.ZipFile(io.BytesIO(Path(download.value.path()).read_bytes())) as archive:
        assert len(archive.namelist()) == 2


def test_a_conversion_that_waits_is_cancelled_and_one_that_failed_says_why(house: Any, visit: Any) -> None:
    page = come(house, visit)
    choose(page, house.station.samples / "vm-review.flac")
    convert(page)
    page.locator(".try").get_by_role("button", name="Cancel").click()
    expect(page.locator(".try .pill")).to_have_text("Cancelled")
    convert(page)
    lease = house.desk.take()
    house.desk.queue.fail(lease, ConversionFailure.MISSING_WEIGHTS, "the worker lacks the pitch estimator rmvpe")
    failed = page.locator(".try").first
    expect(failed).to_contain_text("the worker lacks the pitch estimator rmvpe")
    expect(failed.get_by_role("button", name="Use the recording again")).to_be_visible()


def test_a_job_that_trains_is_tried_with_its_latest_save(house: Any, visit: Any) -> None:
    station = house.station
    station.follow_script(["train", 400, 0.2, 5])
    job = station.submit(house.dataset, name="dora")
    station.wait_until(lambda: (station.client.job(job.id).step or 0) > 0, "a step")
    visitor = visit(station)
    visitor.open(f"/jobs/{job.id}")
    panel = visitor.page.locator("#try-section")
    expect(panel).to_contain_text("The training goes on meanwhile")
    expect(panel.get_by_label("Which save").locator("option")).to_have_text(["Latest save"])
    station.client.cancel(job.id)


def test_the_panel_keeps_nobody_out_and_fits_a_phone(house: Any, visit: Any, tmp_path: Path) -> None:
    for name, viewport in (("desktop", {"width": 1280, "height": 900}), ("phone", {"width": 390, "height": 844})):
        visitor = visit(house.station, viewport=viewport)
        visitor.context.grant_permissions(["microphone"])
        page = visitor.page
        visitor.open(f"/jobs/{house.job.id}")
        choose(page, house.station.samples / "vm-review.flac")
        page.get_by_text("More options").click()
        convert(page)
        house.desk.finish(house.desk.take())
        expect(page.locator(".try .preview").first).to_have_attribute("data-original", "ready")
        page.get_by_role("button", name="Record", exact=True).click()
        expect(page.locator(".recording")).to_be_visible()
        assert page.evaluate("() => document.documentElement.scrollWidth") <= viewport["width"], name
        visitor.check_accessible(f"the panel on a {name}")
        page.get_by_role("button", name="Discard").click()
        expect(page.locator(".recording")).to_be_hidden()
