"""A machine without weights: the page names what is missing and gets it, and loses nothing of what was typed."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.weights_hub import CONTENT, Hub, write_catalogue

SLOW = 60_000
PROGRAM = Path(__file__).parent / "server_with_small_weights.py"


@pytest.fixture(scope="module")
def lasting_hub() -> Iterator[Hub]:
    hub = Hub()
    yield hub
    hub.close()


@pytest.fixture(scope="module")
def lasting_house(
    open_station: Callable[..., Any], token: str, tmp_path_factory: pytest.TempPathFactory, lasting_hub: Hub
) -> Iterator[Any]:
    """A station whose server has a catalogue of small weights."""
    folder = tmp_path_factory.mktemp("station")
    station = open_station(folder, token)
    station.follow_script(["train", 10, 0.01, 5], *station.MAKE_VOICE)
    catalogue = write_catalogue(folder / "catalogue.json")
    environment = station.environment | {"HF_ENDPOINT": lasting_hub.url}
    with (folder / "server.log").open("wb") as log:
        command = [sys.executable, str(PROGRAM), str(catalogue)]
        station.processes.append(subprocess.Popen(command, env=environment, cwd=station.cwd, stdout=log, stderr=log))
    station.wait_until(station.client.is_ready, "the server", 90)
    station.start_worker()
    yield station
    station.close()


@pytest.fixture
def hub(lasting_hub: Hub) -> Hub:
    """The hub, which answers no request until a test opens it."""
    lasting_hub.is_open.clear()
    return lasting_hub


@pytest.fixture
def house(lasting_house: Any, hub: Hub) -> Any:
    """The station, without weights."""
    shutil.rmtree(lasting_house.folder / "data" / "weights", ignore_errors=True)
    return lasting_house


def bring(page: Page, house: Any) -> None:
    """Open the page, and drop recordings."""
    page.goto(f"{house.url}/new")
    expect(page.locator("#settings [data-name=width]")).to_be_attached()
    page.locator("#choose-files").set_input_files(sorted(house.samples.glob("vm-*.flac"))[:3])
    expect(page.locator("#report-state")).to_have_text("Usable", timeout=SLOW)


def test_a_newcomer_reaches_a_voice_on_a_machine_without_weights(house: Any, visit: Any, hub: Hub) -> None:
    page = visit(house).page
    bring(page, house)
    expect(page.locator("#needs")).to_contain_text("ContentVec and base voice v2 40k")
    expect(page.locator("#warnings")).not_to_contain_text("rvc-engine weights fetch")
    expect(page.locator("#estimate")).not_to_contain_text("GPU memory")
    expect(page.locator("#estimate")).to_contain_text("10 min and preparation")  # a quick try, by its time limit
    page.locator("input[name=effort][value=normal]").check()
    expect(page.locator("#estimate")).to_contain_text("can't tell yet")
    page.locator("input[name=effort][value=try]").check()
    expect(page.locator("#submit")).to_have_text("Download and start training")
    page.locator("#submit").click()
    expect(page.locator("#status")).to_have_text("Downloading what is needed")
    hub.is_open.set()
    expect(page.locator("#status")).to_have_text("Ready", timeout=SLOW)


def test_what_was_typed_and_chosen_survives_a_reload_and_back(house: Any, visit: Any) -> None:
    page = visit(house).page
    bring(page, house)
    expect(page).to_have_url(re.compile(r"/new\?dataset=ds_"))
    page.get_by_label("Name of the voice").fill("bella")
    page.locator("input[name=effort][value=best]").check()
    page.locator("#all-settings > summary").click()
    page.locator("#settings [data-name=seed] input").fill("77")
    page.locator("#settings [data-name=seed] input").blur()
    for leave in (page.reload, lambda: (page.get_by_role("link", name="Server").click(), page.go_back())):
        leave()
        expect(page.locator("#report-state")).to_have_text("Usable", timeout=SLOW)
        expect(page.get_by_label("Name of the voice")).to_have_value("bella")
        expect(page.locator("input[name=effort][value=best]")).to_be_checked()
        expect(page.locator("#settings [data-name=seed] input")).to_have_value("77")
    page.get_by_role("button", name="Start over").click()
    expect(page.get_by_label("Name of the voice")).to_have_value("")


def test_what_is_chosen_after_copying_settings_counts_and_continuing_asks_how_much_more(house: Any, visit: Any) -> None:
    dataset = house.upload(house.samples / "vm-review.flac")
    job = house.wait_for(house.submit(dataset, name="anna"), "succeeded")
    page = visit(house).page
    page.goto(f"{house.url}/new?clone={job.id}")
    expect(page.locator("#report-state")).to_have_text("Usable", timeout=SLOW)
    expect(page.locator("input[name=effort][value=before]")).to_be_checked()
    expect(page.locator("input[name=start][value=nothing]")).to_be_checked()
    expect(page.locator("#same-name")).to_contain_text("Its recordings and settings are the same.")
    page.locator("input[name=effort][value=best]").check()
    expect(page.locator("#settings [data-name=total_epochs] input")).to_have_value("500")
    expect(page.locator("#same-name")).to_contain_text("2 → 500")
    page.locator("#known > summary").click()
    page.locator("#known-list li", has_text="vm-review").get_by_role("button", name="Delete").click()
    expect(page.get_by_role("dialog")).to_contain_text("1 voice was made from them")
    page.get_by_role("dialog").get_by_role("button", name="Back").click()
    page.locator("input[name=where][value=everywhere]").check()
    expect(page.locator("#settings [data-name=width] select")).to_have_value("192")

    page.goto(f"{house.url}/new?retry={job.id}")
    expect(page.locator("#more")).to_contain_text(f"{job.epoch} epochs are trained so far")
    page.get_by_label("How many more epochs").fill("3")
    page.locator("#submit").click()
    page.wait_for_url(lambda url: "/jobs/" in url)
    made = house.client.job(page.url.rsplit("/", 1)[1])
    assert made.config["total_epochs"] == job.epoch + 3
    assert {**made.config, "total_epochs": None} == {**job.config, "total_epochs": None}


def test_a_wrong_setting_takes_the_estimate_away_and_the_button_leads_to_it(house: Any, visit: Any) -> None:
    visitor = visit(house)
    visitor.forgive("422")
    page = visitor.page
    bring(page, house)
    page.locator("#all-settings > summary").click()
    epochs = page.locator("#settings [data-name=total_epochs]")
    epochs.locator("input").fill("0")
    epochs.locator("input").blur()
    expect(epochs.locator(".fault")).to_have_text("At least 1.")
    expect(page.locator("#estimate")).to_be_empty()
    expect(page.locator("#submit")).to_be_disabled()
    page.get_by_role("button", name="Show it").click()
    expect(epochs.locator("input")).to_be_focused()
    epochs.locator("input").fill("5")
    epochs.locator("input").blur()
    expect(page.locator("#submit")).to_be_enabled()
    page.get_by_role("button", name="Use 32k").click()
    expect(page.locator("#settings [data-name=sample_rate] select")).to_have_value("32k")
    expect(page.locator("#needs")).to_contain_text("base voice v2 32k")
    expect(page.locator("#differing")).to_contain_text("Sample rate: 32k")
    page.reload()
    expect(page.locator("#findings")).to_contain_text("✓ Use 32k", timeout=SLOW)
    page.locator("input[name=where][value=here]").check()
    expect(page.locator("#warnings")).to_contain_text("only rvc-train converts correctly with it: Try it on its page")
    expect(page.locator("#warnings")).not_to_contain_text("content=contentvec")  # how command lines are told
    page.get_by_label("Name of the voice").fill("a\x07b")
    expect(page.locator("#name-fault")).to_be_visible()
    expect(page.locator("#submit")).to_be_disabled()


def test_a_failed_download_is_one_sentence_and_files_of_an_installation_help(
    house: Any, visit: Any, hub: Hub, tmp_path: Path
) -> None:
    hub.is_open.set()
    hub.lacks.add("model.bin")
    page = visit(house).page
    bring(page, house)
    page.get_by_role("button", name="Download now").click()
    expect(page.locator("#needs .fault")).to_have_text(
        re.compile(r"^The download from 127\.0\.0\.1 failed\. "), timeout=SLOW
    )
    expect(page.get_by_role("button", name="Try again")).to_be_visible()
    folder = tmp_path / "Applio"
    for key, content in CONTENT.items():
        (folder / "assets" / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / "assets" / key).write_bytes(content)
    (folder / "assets" / "other.pth").write_bytes(b"of no use")
    page.locator("#needs-files").set_input_files(folder)
    expect(page.locator("#needs")).to_be_hidden(timeout=SLOW)
    expect(page.locator("#submit")).to_have_text("Start training")


def test_the_amount_of_training_fits_a_worker_that_comes_after_the_page(
    open_station: Callable[..., Any], visit: Any, token: str, tmp_path: Path
) -> None:
    station = open_station(tmp_path, token)
    try:
        station.start_server()
        visitor = visit(station)
        page = visitor.page
        visitor.open("/new")
        expect(page.locator("#settings [data-name=width]")).to_be_attached()
        expect(page.locator("input[name=effort][value=normal]")).to_be_checked()
        station.start_worker()
        station.wait_until(lambda: bool(station.client.workers()), "a worker")
        page.locator("#choose-files").set_input_files(station.samples / "vm-review.flac")
        expect(page.locator("input[name=effort][value=try]")).to_be_checked(timeout=60_000)
        page.close()  # before its server
    finally:
        station.close()
