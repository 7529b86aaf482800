"""A voice's page: what it sounds like before how it was measured, one download, other runs beside it, and its tab."""

import io
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from playwright.sync_api import expect

QUALITY = {
    "similarity": 0.712,
    "similarity/floor": 0.551,
    "similarity/ceiling": 0.874,
    "character_error_rate": 0.21,
    "character_error_rate/floor": 0.8,
    "f0_correlation": 0.93,
    "f0_correlation/floor": -0.02,
}
PREVIEW = Path(__file__).with_name("preview.png")


@pytest.fixture(scope="module")
def house(open_station: Callable[..., Any], token: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Two runs of a voice, of 8 and 9 epochs, with three saves each."""
    station = open_station(tmp_path_factory.mktemp("house"), token)
    sound = str(station.samples / "vm-review.flac")
    saves = [(2, 30, True), (4, 20, True), (8, 25, False)]
    station.follow_script(
        ["train", 8, 0.01, 4],
        *(
            [["evaluated", *save], ["true_preview", save[0], sound, str(PREVIEW), sound]][n]
            for save in saves
            for n in (0, 1)
        ),
        ["artifact", "best", 64_000],
        ["quality_scored", 8, QUALITY],
        ["quality_scored", 4, QUALITY | {"similarity": 0.734}],
        *station.MAKE_VOICE,
    )
    station.start_server()
    station.start_worker()
    dataset = station.upload(station.samples / "vm-review.flac", name="anna")
    first = station.wait_for(station.submit(dataset), "succeeded", "failed")
    second = station.wait_for(
        station.submit(dataset, name="berta", config=station.small.model_copy(update={"total_epochs": 9})),
        "succeeded",
        "failed",
    )
    assert (first.status, second.status) == ("succeeded", "succeeded"), first.error
    yield SimpleNamespace(station=station, dataset=dataset, first=first, second=second)
    station.close()


def test_one_download_has_the_best_save_and_its_index_and_each_file_says_what_it_is_for(house: Any, visit: Any) -> None:
    visitor = visit(house.station)
    page = visitor.page
    visitor.open(f"/jobs/{house.first.id}")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download the voice (zip)").click()
    with zipfile.ZipFile(io.BytesIO(Path(download.value.path()).read_bytes())) as archive:
        assert sorted(archive.namelist()) == ["anna.index", "anna_best.pth"]
    page.get_by_text("All files").click()
    rows = page.locator("#files tr")
    expect(rows.first).to_contain_text("anna_best.pth")
    expect(rows.first).to_contain_text("Best save")
    expect(rows).to_contain_text(["Best save", "Last save", "Search index"])


def test_the_best_save_is_open_above_the_charts_and_listen_plays_in_its_row(house: Any, visit: Any) -> None:
    visitor = visit(house.station)
    page = visitor.page
    visitor.open(f"/jobs/{house.first.id}")
    preview = page.locator(".preview")
    expect(preview).to_contain_text("Epoch 4")
    sections = page.locator("main > section").evaluate_all("(all) => all.map((one) => one.id)")
    assert sections.index("saves-section") < sections.index("curves-section")
    expect(page.locator("th[data-score=mel]")).to_contain_text("↓")
    expect(page.locator("th[data-score=similarity]")).to_be_hidden()
    expect(page.locator("tr.best .verdict")).to_have_text("Pitch and voicing are right")
    row = page.locator("#saves tr").filter(has_text="Epoch 8").first
    row.get_by_role("button", name="Listen").click()
    expect(preview).to_contain_text("Epoch 8")
    expect(preview.get_by_role("button", name="Pause")).to_be_visible()
    page.keyboard.press("x")
    expect(preview.get_by_role("radio", name="Recording")).to_be_checked()
    page.get_by_label("Compare with").select_option(label="Epoch 2, step 2")
    expect(preview.get_by_text("Epoch 2, step 2", exact=True)).to_be_visible()


def test_runs_are_compared_by_scores_settings_and_curves_at_an_address_that_can_be_passed_on(
    house: Any, visit: Any
) -> None:
    visitor = visit(house.station)
    page = visitor.page
    visitor.open(f"/jobs/{house.first.id}")
    page.get_by_text("Compare", exact=True).click()
    page.get_by_label("Search by name").fill("berta")
    page.get_by_role("checkbox", name="berta").check()
    table = page.locator("#compared")
    expect(table).to_contain_text("Epochs")
    expect(table.get_by_role("row").filter(has_text="Epochs")).to_contain_text("9")
    page.keyboard.press("Escape")
    expect(page.locator("#compare-list")).to_be_hidden()
    expect(page).to_have_url(re.compile(f"compare={house.second.id}"))
    page.reload()
    expect(table).to_contain_text("berta")
    expect(page.locator("#curves .value-1").first).to_be_visible()
    curve = page.locator("#curves .u-over").first
    curve.hover(position={"x": 60, "y": 60})
    values = page.locator("#curves output").first
    expect(values).to_contain_text("step")
    page.mouse.move(5, 5)
    expect(values).not_to_contain_text("step")
    page.get_by_label("Compare with").select_option(label="berta")
    expect(page.locator(".preview").get_by_text("berta", exact=True)).to_be_visible()
    page.get_by_role("button", name="Stop comparing with berta").click()
    expect(table).to_be_hidden()


def test_a_try_that_its_time_limit_ended_says_so_and_what_comes_next(house: Any, visit: Any) -> None:
    station = house.station
    station.follow_script(["progress", 2, 300], *station.MAKE_VOICE)
    config = station.small.model_copy(update={"total_epochs": 300, "max_train_seconds": 600})
    job = station.wait_for(station.submit(house.dataset, name="quick", config=config), "succeeded", "failed")
    visitor = visit(station)
    page = visitor.page
    visitor.open(f"/jobs/{job.id}")
    expect(page.locator("#timed")).to_contain_text("ended at its time limit of 10 min, after 2 epochs.")
    expect(page.locator("#facts")).not_to_contain_text("300")  # where it would have ended without the limit
    visitor.open(f"/jobs/{house.first.id}")
    expect(page.locator("#facts")).to_contain_text("8 of 8")
    expect(page.locator("#timed")).to_be_hidden()
    visitor.open(f"/new?retry={job.id}")
    expect(page.locator("#more")).to_contain_text("2 epochs are trained so far")
    expect(page.locator("#zip-names-choice")).to_be_hidden()


def test_a_training_that_ended_by_itself_says_why_and_marks_best_and_end(house: Any, visit: Any) -> None:
    station = house.station
    saves = [["evaluated", 4, 20, True], ["evaluated", 8, 25, False]]
    station.follow_script(["progress", 8, 300], *saves, ["end_by_itself", 8, 4], *station.MAKE_VOICE)
    config = station.small.model_copy(update={"total_epochs": "auto", "max_epochs": 300})
    job = station.wait_for(station.submit(house.dataset, name="auto", config=config), "succeeded", "failed")
    visitor = visit(station)
    page = visitor.page
    visitor.open(f"/jobs/{job.id}")
    expect(page.locator("#timed")).to_have_text(
        "Training ended after 8 epochs: no better save since epoch 4. The voice is that save."
    )
    expect(page.locator("#facts")).not_to_contain_text("300")
    expect(page.locator("#events")).to_contain_text("no better save since epoch 4")
    page.get_by_text("All files").click()
    expect(page.locator("#files tr").first).to_contain_text("Best save: load this one")
    chart = page.locator(".curve", has_text="Sound distance").first
    expect(chart.locator("canvas")).to_be_visible()
    expect(chart).to_have_attribute("data-marks", "best 4, end 8")
    visitor.open(f"/new?clone={job.id}")
    expect(page.locator("input[name=effort][value=before]")).to_be_checked()
    expect(page.locator("#choice-effort")).to_contain_text("until it no longer improves, at most 300 epochs")
    page.locator("input[name=effort][value=auto]").check()
    page.locator("#all-settings > summary").click()
    expect(page.locator("#settings [data-name=total_epochs] input")).to_have_value("auto")
    expect(page.locator("#settings [data-name=max_epochs] input")).to_have_value("1000")


def test_progress_is_in_the_tab_and_a_pause_is_no_attempt(house: Any, visit: Any) -> None:
    station = house.station
    station.follow_script(["train", 400, 0.2, 100])
    visitor = visit(station)
    page = visitor.page
    job = station.submit(house.dataset, name="dora")
    visitor.open(f"/jobs/{job.id}")
    expect(page).to_have_title(re.compile(r"^[\d.]+% · dora"))
    assert page.locator("link[rel=icon]").get_attribute("href").startswith("data:image/svg+xml")
    for _ in range(2):
        station.client.pause(job.id)
        expect(page.locator("#status")).to_have_text("Paused")
        station.client.resume(job.id)
        expect(page.locator("#status")).to_have_text("Running")
    expect(page.locator("#facts")).not_to_contain_text(re.compile("attempt|tried again", re.IGNORECASE))
    station.client.cancel(job.id)
    expect(page).to_have_title(re.compile("^Cancelled · dora"))


TELLING = """
window.told = [];
window.Notification = class extends Notification {
  constructor(title, options) {
    super(title, options);
    told.push(title);
  }
};
"""


def test_who_wishes_so_is_notified_at_the_end(house: Any, visit: Any) -> None:
    station = house.station
    station.follow_script(["train", 400, 0.2, 100])
    visitor = visit(station)
    page = visitor.page
    visitor.context.grant_permissions(["notifications"], origin=station.url)
    page.add_init_script(TELLING)
    job = station.submit(house.dataset, name="emil")
    visitor.open(f"/jobs/{job.id}")
    page.get_by_label("Notify me when it ends").check()
    expect(page.locator("#status")).to_have_text("Running")
    station.client.cancel(job.id)
    expect(page.locator("#status")).to_have_text("Cancelled")
    assert page.evaluate("() => told") == ["emil: Cancelled"]


def test_the_disk_of_a_voice_is_shown_and_freed_by_one_button(house: Any, visit: Any) -> None:
    station = house.station
    station.follow_script(["train", 2, 0.01, 1], *station.MAKE_VOICE)
    job = station.wait_for(station.submit(house.dataset, name="bulky"), "succeeded", "failed")
    visitor = visit(station)
    page = visitor.page
    visitor.open("/?search=bulky")
    line = page.locator(".voice")
    expect(line).to_contain_text(re.compile(r"\d.* [kM]B on disk"))
    line.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.locator(".toast")).to_contain_text(re.compile(r"bulky was deleted: .* [kM]B are free again"))
    assert station.http.get(f"/v1/jobs/{job.id}").status_code == 404


def test_without_its_recordings_a_voice_is_not_continued_and_says_why(house: Any, visit: Any) -> None:
    station = house.station
    station.follow_script(["train", 2, 0.01, 1], *station.MAKE_VOICE)
    dataset = station.upload(station.samples / "vm-review.flac", name="gone")
    job = station.wait_for(station.submit(dataset, name="gone"), "succeeded", "failed")
    visitor = visit(station)
    page = visitor.page
    visitor.open(f"/jobs/{job.id}")
    expect(page.get_by_role("button", name="Continue training")).to_be_enabled()
    station.client.delete_dataset(job.dataset_id)
    page.reload()
    button = page.get_by_role("button", name="Continue training")
    expect(button).to_be_disabled()
    expect(button).to_have_attribute("title", re.compile("recordings of this voice were deleted"))
    expect(page.locator("#recordings-deleted")).to_contain_text("other recordings")
    page.get_by_role("button", name="Copy settings").click()  # for other recordings
    expect(page.locator("#about")).to_contain_text("deleted")


def test_how_well_it_converts_stands_between_no_voice_and_the_speakers_own(house: Any, visit: Any) -> None:
    visitor = visit(house.station, viewport={"width": 390, "height": 844})
    page = visitor.page
    for path in (f"/jobs/{house.first.id}", "/voices/anna"):
        visitor.open(path)
        section = page.locator("#quality-section")
        expect(section.get_by_role("heading", name="How well it converts")).to_be_visible()
        expect(section.locator("th[scope=col]")).to_have_text(
            ["Score", "Without the voice", "Best save, epoch 4", "Last save, epoch 8", "Speaker's own"]
        )
        rows = section.locator("tbody tr")
        expect(rows.nth(0)).to_have_text("Similarity to the speaker ↑0.5510.7340.7120.874")
        expect(rows.nth(1)).to_have_text("Characters misheard ↓80%21%21%–")
        expect(rows.nth(2)).to_have_text("Intonation kept ↑-0.020.930.93–")
        expect(rows).to_have_count(3)
        # The better is always to the right, and what lies beyond the scale at its end.
        places = rows.locator(".scale").evaluate_all(
            "(bars) => bars.map((bar) => [...bar.children].map((mark) => `${mark.className} ${mark.style.left}`))"
        )
        assert places[0] == ["span 55.1%", "bound 55.1%", "bound 87.4%", "mark 73.4%", "mark 71.2%"]
        assert places[1][:2] == ["bound 20%", "mark 79%"]
        assert places[2][0] == "bound 0%"
        expect(section.get_by_text("rvc-engine weights fetch quality")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page fits a phone"
        visitor.check_accessible(path)
