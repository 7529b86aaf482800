"""What a new voice starts from: base weights of one's own, brought to the server page, and saves of earlier voices."""

import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from playwright.sync_api import Locator, Page, expect

from rvc_engine.config import TrainingConfig
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.models.discriminators import Discriminators
from rvc_engine.models.synthesizer import Synthesizer

SMALL = {"width": 24, "pretrained": "none"}
SLOW = 180_000
"""Milliseconds for a check of weights, on a busy machine."""


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small G_ and D_ file, and one that is neither."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("pair")
    hparams = Hyperparameters.from_config(TrainingConfig.model_validate(SMALL))
    for name, model in (("G.pth", Synthesizer(hparams, True)), ("D.pth", Discriminators("v2", 24 / 192))):
        torch.save({"model": model.state_dict(), "iteration": 1, "optimizer": {}, "learning_rate": 1e-4}, folder / name)
    (folder / "song.pth").write_bytes(b"ID3 and then a song " * 5000)
    return folder


@pytest.fixture(scope="module")
def address(pair: Path) -> Iterator[str]:
    """Where the files can be downloaded."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(pair)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def house(open_station: Callable[..., Any], token: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    station = open_station(tmp_path_factory.mktemp("house"), token)
    station.environment |= {"RVC_TRAIN_OUTBOUND_NETWORKS": "127.0.0.1"}
    station.follow_script(["train", 10, 0.01, 5], *station.MAKE_VOICE)
    station.start_server()
    station.start_worker()
    station.dataset = station.upload(station.samples / "vm-review.flac", name="anna")
    yield station
    station.close()


def add(page: Page, name: str, **sources: Any) -> Locator:
    """Fill the form for base weights, and send it."""
    form = page.locator("#base_weights-form")
    form.get_by_label("Name").fill(name)
    for role, source in sources.items():
        if isinstance(source, Path):
            form.locator(f"[name={role}]").set_input_files(source)
        else:
            form.locator(f"[name={role}_url]").fill(source)
    form.get_by_role("button", name="Add").click()
    return form


def test_base_weights_come_by_upload_and_by_address_and_faults_are_said_in_place(
    house: Any, visit: Any, pair: Path, address: str
) -> None:
    visitor = visit(house)
    visitor.forgive("409|422")
    page = visitor.page
    visitor.open("/server#base_weights")
    form = add(page, "mine", generator=pair / "song.pth")
    expect(form.locator(".fault:visible")).to_contain_text("the generator's file is not", timeout=SLOW)
    kept = house.http.get("/v1/me").json()["usage"]["bytes"]
    add(page, "mine", generator=pair / "G.pth", discriminator=pair / "D.pth")
    item = page.locator("#base_weights-list > li").filter(has_text="mine")
    expect(item).to_contain_text("G: v2 · 40k · with pitch · width 24", timeout=SLOW)
    expect(item).to_contain_text("D: v2 · width 24")
    expect(form.locator(".fault:visible")).to_have_count(0)
    expect(form.get_by_label("Name")).to_have_value("")
    sizes = sum((pair / name).stat().st_size for name in ("G.pth", "D.pth"))
    assert house.http.get("/v1/me").json()["usage"]["bytes"] - kept == sizes, "what is no weights is not kept"

    add(page, "mine", generator=pair / "G.pth")
    expect(form.locator("[data-field=name] .fault")).to_contain_text("You have base weights of this name")
    form.locator("[name=generator]").set_input_files([])
    add(page, "fetched", generator=f"{address}/none.pth")
    expect(form.locator("[data-field=generator] .fault")).to_contain_text("404", timeout=SLOW)
    add(page, "fetched", generator=f"{address}/G.pth")
    fetched = page.locator("#base_weights-list > li").filter(has_text="fetched")
    expect(fetched).to_contain_text("G: v2 · 40k", timeout=SLOW)
    visitor.check_accessible("base weights")

    config = SMALL | {"content": "whisper-tiny", "pretrained": "fetched"}
    house.follow_script(["train", 5000, 0.5, 50])
    job = house.submit(house.dataset, config=config)

    def delete() -> None:
        fetched.get_by_role("button", name="Delete").click()
        page.get_by_role("dialog").get_by_role("button", name="Delete").click()

    delete()
    expect(fetched.locator(".fault")).to_contain_text(job.id)
    house.client.cancel(job.id)
    house.wait_for(job, "cancelled")
    delete()
    expect(fetched).to_have_count(0)


def choose(page: Page, way: str) -> None:
    page.locator(f"input[name=start][value={way}]").check()


def test_a_voice_starts_from_a_save_of_another_or_from_base_weights_that_fit(
    house: Any, visit: Any, pair: Path
) -> None:
    house.follow_script(["train", 10, 0.01, 5], ["evaluated", 10, 20, True], *house.MAKE_VOICE)
    first = house.wait_for(house.submit(house.dataset, name="first"), "succeeded", "failed")
    house.client.base_weights.add("own", generator=pair / "G.pth")
    workspace = house.folder / "data" / "jobs" / first.id / "workspace"
    for letter in ("G", "D"):
        (workspace / f"{letter}_10.pth").write_bytes((pair / f"{letter}.pth").read_bytes())
    visitor = visit(house)
    visitor.forgive("422")
    page = visitor.page
    visitor.open(f"/new?dataset={house.dataset.id}")
    expect(page.locator("#report-state")).to_have_text("Usable", timeout=SLOW)
    expect(page.locator("input[name=start][value=published]")).to_be_checked()
    page.locator("input[name=where][value=here]").check()
    expect(page.locator("input[name=start][value=nothing]")).to_be_checked()
    page.locator("input[name=where][value=everywhere]").check()
    expect(page.locator("input[name=start][value=published]")).to_be_checked()

    choose(page, "own")
    mine = page.locator("#start-list li").filter(has=page.get_by_text("own", exact=True))
    expect(mine.get_by_role("radio")).to_be_disabled()
    expect(mine).to_contain_text("Model width: 24, chosen is 192")
    expect(page.locator("#submit")).to_be_disabled()
    expect(page.locator("#submit-help")).to_have_text("Choose what training starts from.")
    mine.get_by_role("button").click()
    expect(mine.get_by_role("radio")).to_be_checked()
    expect(page.locator("#differing")).to_contain_text("Base weights: own")
    expect(page.locator("#submit")).to_be_enabled()
    page.reload()
    expect(mine.get_by_role("radio")).to_be_checked()
    visitor.check_accessible("starts from")

    choose(page, "voice")
    voice = page.locator("#start-list li").filter(has_text="first")
    voice.get_by_role("button").click()
    expect(voice.get_by_role("radio")).to_be_checked()
    expect(page.locator("input[name=where][value=here]")).to_be_checked()
    page.locator("#start-save").select_option("best")
    expect(page.locator("#start-fault")).to_contain_text("no pair of G_ and D_ files")  # it is not in the list of saves
    page.locator("#start-save").select_option("10")
    expect(page.locator("#start-fault")).to_be_hidden()
    page.get_by_label("Name of the voice").fill("second")
    page.get_by_role("link", name="Server").click()
    page.go_back()
    expect(voice.get_by_role("radio")).to_be_checked()
    expect(page.locator("#start-save")).to_have_value("10")
    expect(page.locator("#submit")).to_be_enabled()
    page.locator("#submit").click()
    page.wait_for_url("**/jobs/job_*")
    job = house.client.job(page.url.rsplit("/", 1)[1])
    assert (job.start_from.job_id, job.start_from.save) == (first.id, 10)

    visitor.open(f"/new?start={first.id}")
    expect(page.locator("#about")).to_contain_text("starts from the last save of first")
    expect(voice.get_by_role("radio")).to_be_checked()
    page.locator("#known summary").click()
    page.locator("#known-list li").first.get_by_role("button", name="Use").click()
    expect(page.locator("#same-name")).to_contain_text("this makes version 2 of it", timeout=SLOW)
    for letter in ("G", "D"):
        (workspace / f"{letter}_10.pth").unlink()
    page.get_by_label("Name of the voice").fill("first again")
    expect(page.locator("#start-fault")).to_contain_text(first.id)
    visitor.open(f"/new?retry={job.id}")
    expect(page.locator("#choice-start")).to_be_hidden()  # training goes on from its checkpoint
