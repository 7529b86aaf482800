"""Voices as things: one line each with its versions, its own page, links for others, and moving it in a bundle."""

import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

PREVIEW = Path(__file__).with_name("preview.png")
SLOW = 60_000
"""Milliseconds for the first answer about a voice, on a busy machine."""
QUALITY = {"similarity": 0.81, "similarity/floor": 0.55, "similarity/ceiling": 0.88, "naturalness": 3.1}
PLAYING = "() => document.querySelector('.listen[aria-pressed=true]') !== null"


@pytest.fixture(scope="module")
def house(open_station: Callable[..., Any], token: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A voice with two versions that are ready, the second better, and a third that runs; another voice with one."""
    station = open_station(tmp_path_factory.mktemp("house"), token)
    sound = str(station.samples / "vm-review.flac")
    station.start_server()
    dataset = station.upload(station.samples / "vm-review.flac", name="anna")
    made = []
    for name, mel in (("anna", 30), ("anna", 20), ("berta/two", 25)):
        save = [["evaluated", 4, mel, True], ["true_preview", 4, sound, str(PREVIEW), sound]]
        save.append(["quality_scored", 4, QUALITY])
        station.follow_script(["train", 8, 0.01, 4], *save, ["artifact", "best", 64_000], *station.MAKE_VOICE)
        if not made:
            station.start_worker()
        made.append(station.wait_for(station.submit(dataset, name=name), "succeeded", "failed"))
    assert [job.status for job in made] == ["succeeded"] * 3, made[0].error
    station.follow_script(["train", 5000, 0.5, 50])
    running = station.submit(dataset, name="anna")
    station.wait_for(running, "running")
    yield SimpleNamespace(station=station, dataset=dataset, made=made, running=running)
    station.close()


def line(page: Page, name: str) -> Locator:
    return page.locator(".voice").filter(has=page.get_by_role("link", name=name, exact=True))


def test_a_voice_is_one_line_that_names_its_versions_and_plays_the_current_one(house: Any, visit: Any) -> None:
    visitor = visit(house.station)
    page = visitor.page
    visitor.open("/")
    expect(page.locator(".voice")).to_have_count(2)
    expect(page.locator(".voice").first).to_contain_text("anna")  # it runs
    anna = line(page, "anna")
    for text in ("Version 3", "current: version 2", "3 versions", "Pitch and voicing are right", "in all versions"):
        expect(anna).to_contain_text(text)
    anna.get_by_role("button", name="Listen to anna").click()
    page.wait_for_function(PLAYING)
    visitor.check_accessible("voices")
    page.locator("label", has_text="Ready").click()
    expect(page.locator(".voice")).to_have_count(3)  # jobs, each a version
    page.locator("label", has_text="All").first.click()
    line(page, "berta/two").get_by_role("link").click()
    expect(page.locator("h1")).to_have_text("berta/two")
    page.go_back()
    anna.get_by_role("link", name="anna", exact=True).click()
    expect(page).to_have_url(re.compile("/voices/anna$"))
    page.get_by_role("link", name="Version 3").click(timeout=SLOW)
    expect(page).to_have_url(re.compile(house.running.id))
    page.get_by_role("navigation", name="Breadcrumb").get_by_role("link", name="anna").click()
    expect(page).to_have_url(re.compile("/voices/anna$"))


def test_another_version_is_made_current_and_notes_and_labels_are_edited_in_place(house: Any, visit: Any) -> None:
    visitor = visit(house.station)
    visitor.forgive("412")
    page = visitor.page
    visitor.open("/voices/anna")
    expect(page.locator("#current-why")).to_contain_text("has the best scores", timeout=SLOW)
    expect(page.locator("#files tr").first).to_contain_text("anna_best.pth")
    expect(page.get_by_role("heading", name="Try it")).to_be_visible()
    page.get_by_role("button", name="Make current: Version 1").click()
    expect(page.locator("#current-why")).to_contain_text("chosen by hand")
    assert house.station.http.get("/v1/voices/anna").json()["current"]["version"] == 1
    page.get_by_role("button", name="Choose by evaluation again").click()
    expect(page.locator("#current-why")).to_contain_text("has the best scores")

    page.get_by_role("button", name="Edit").click()
    page.get_by_label("Notes").fill("Close to the microphone.\nFor the book.")
    page.get_by_label("Labels").fill("film, take=2")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator("#about")).to_contain_text("For the book.")
    expect(page.locator("#labels .tag")).to_have_text(["film", "take=2"])
    page.get_by_role("button", name="Edit").click()
    page.get_by_label("Labels").fill("take=3")
    house.station.http.patch("/v1/voices/anna", json={"notes": "Changed elsewhere."})
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator("#about-form .fault")).to_be_visible()  # what others wrote is not overwritten
    page.locator("#about-form").get_by_role("button", name="Back").click()
    expect(page.locator("#notes")).to_have_text("Changed elsewhere.")
    assert house.station.http.get("/v1/voices/anna").json()["labels"] == {"film": "", "take": "2"}
    visitor.check_accessible("a voice")


def test_a_link_is_shown_once_plays_and_downloads_without_a_token_and_ends_when_revoked(house: Any, visit: Any) -> None:
    visitor = visit(house.station)
    page = visitor.page
    visitor.open("/voices/anna")
    form = page.locator("#link-form")

    def link(note: str, use: str) -> str:
        form.get_by_label("For whom").fill(note)
        form.locator("[name=downloads]").select_option(label=use)
        form.get_by_role("button", name="Make a link").click()
        expect(page.get_by_role("dialog")).to_contain_text("shown only once")
        address: str = page.locator("#secret-value").inner_text()
        page.get_by_role("dialog").get_by_role("button", name="Done").click()
        expect(page.locator("#secret-value")).to_have_text("")  # in the event after the click
        assert address not in page.content()
        return address

    whole, silent = link("For Bea", "listening and downloads"), link("For Cleo", "listening only")
    stranger = visit(house.station, signed_in=False)
    stranger.forgive("404")
    guest = stranger.page
    guest.goto(whole)
    expect(guest.locator("h1")).to_have_text("anna")
    expect(guest.locator("#facts")).to_contain_text("Pitch and voicing are right")
    expect(guest.locator("#notice")).to_contain_text("whisper-tiny")
    expect(guest.locator("#quality > div")).to_have_text(
        [
            "Sounds like the speakerclose to the speaker's own recordings 0.81 · without the voice 0.55 · the "
            "speaker's own 0.88",
            "Sounds clean and natural 3.1",
        ]
    )
    guest.evaluate("() => document.querySelectorAll('#clips audio')[1].play()")
    guest.wait_for_function("() => document.querySelectorAll('#clips audio')[1].currentTime > 0")
    with guest.expect_download() as download:
        guest.get_by_role("link", name="Download anna_best.pth").click()
    assert Path(download.value.path()).stat().st_size == 64_000
    assert [
        link.get_attribute("href")
        for link in guest.get_by_role("link").all()
        if "/shared/" not in (link.get_attribute("href") or "")
    ] == ["#main"]
    stranger.check_accessible("a link")
    guest.goto(silent)
    expect(guest.locator("#clips audio")).to_have_count(2)
    expect(guest.get_by_role("link", name=re.compile("Download"))).to_have_count(0)

    item = page.locator("#links-list > li").filter(has_text="For Bea")
    item.get_by_role("button", name="Revoke").click()
    page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    expect(item).to_have_count(0)
    guest.goto(whole)
    expect(guest.locator("#fault")).to_contain_text("Ask whoever sent it for a new one")
    chinese = visit(house.station, signed_in=False, locale="zh-CN")
    chinese.page.goto(silent)
    expect(chinese.page.locator("#clips-title")).to_have_text("试听")


def test_a_bundle_is_taken_in_and_the_whole_voice_deleted(house: Any, visit: Any, tmp_path: Path) -> None:
    visitor = visit(house.station)
    visitor.forgive("409|422")
    page = visitor.page
    visitor.open("/voices/berta%2Ftwo")
    with page.expect_download() as download:
        page.get_by_role("link", name="Bundle with its recordings").click()
    bundle = tmp_path / "berta.zip"
    download.value.save_as(bundle)
    assert zipfile.is_zipfile(bundle)
    page.get_by_role("button", name="Delete").click()
    expect(page.get_by_role("dialog")).to_contain_text(re.compile(r"\d.* [kM]B are freed"))
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.locator("h1")).to_have_text("Voices")
    expect(line(page, "anna")).to_be_visible()
    expect(line(page, "berta/two")).to_have_count(0)
    page.locator("#take-in").set_input_files(PREVIEW)
    expect(page.locator("#take-in-fault")).to_be_visible(timeout=180_000)
    page.locator("#take-in").set_input_files(bundle)
    # Its weights are bytes of a test, which no server takes in as a voice.
    expect(page.locator("#take-in-fault")).to_contain_text("in the bundle cannot be used", timeout=180_000)
    expect(page.locator("#taking-in")).to_be_hidden()
