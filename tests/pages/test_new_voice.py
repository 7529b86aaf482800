"""Recordings brought to the page "New voice", and what it says of them and of wrong choices."""

import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from playwright.sync_api import Page, expect

from tests.raw_zips import raw_zip

FORGIVEN = r"409|422|net::ERR_(FAILED|CONNECTION|EMPTY|NETWORK|SOCKET|INCOMPLETE)"
"""What the tests bring about: an option that is wrong, pieces that another tab sent, and a server that goes away."""
SLOW = 60_000


@pytest.fixture
def new_voice(open_house: Any, visit: Any) -> Page:
    visitor = visit(open_house)
    visitor.forgive(FORGIVEN)
    page: Page = visitor.page
    _open(page, open_house.url)
    return page


def _open(page: Page, url: str) -> None:
    page.goto(f"{url}/new")
    expect(page.locator("#settings [data-name=width]")).to_be_attached()


def _folder(path: Path) -> Path:
    """Two takes and a file that is none, one take in a folder of its own. Noise, so that no zip makes it smaller."""
    rng = np.random.default_rng(7)
    for name in ("one.wav", "deeper/two.wav"):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        # Bursts and pauses, 20 s at 48 kHz in 24 bit: both together are more than one piece of an upload.
        swell = np.repeat(rng.uniform(0.02, 0.5, 40), 24_000)
        soundfile.write(path / name, swell * rng.uniform(-1, 1, len(swell)), 48_000, subtype="PCM_24")
    (path / "broken.flac").write_bytes(b"fLaC and then nothing that anybody could play" * 20)
    return path


def test_a_folder_with_a_bad_file_in_it_becomes_a_submitted_voice(
    open_house: Any, new_voice: Page, tmp_path: Path
) -> None:
    page = new_voice
    page.locator("#choose-folder").set_input_files(_folder(tmp_path / "choir"))
    expect(page.locator("#report-state")).to_have_text("Usable", timeout=SLOW)
    expect(page.locator("#measures")).to_contain_text("2 / 3")
    expect(page.locator("#findings")).to_contain_text("Files that can't be read: 1.")
    expect(page.locator("#findings")).to_contain_text("broken.flac")
    expect(page.locator("#files-list tr", has_text="deeper/two.wav")).to_have_count(1)
    expect(page.locator("[name=name]")).to_have_value("choir")

    page.locator("#all-settings > summary").click()
    epochs = page.locator("#settings [data-name=total_epochs]")
    epochs.locator("input").fill("0")
    epochs.locator("input").blur()
    expect(epochs.locator(".fault")).to_contain_text("1")
    epochs.locator("input").fill("3")
    epochs.locator("input").blur()
    expect(epochs.locator(".fault")).to_be_hidden()
    expect(page.locator("#estimate")).to_contain_text("Disk")
    expect(page.locator("#estimate-basis")).to_contain_text("Training ends after this time")
    expect(page.locator("#findings")).to_contain_text("minutes of speech")
    expect(page.locator("#warnings")).not_to_contain_text("minutes of speech")
    expect(page.locator("#submit")).to_be_in_viewport()
    page.locator("input[name=effort][value=best]").check()
    expect(epochs.locator("input")).to_have_value("500")
    epochs.locator("input").fill("3")
    epochs.locator("input").blur()
    page.locator("#submit").click()
    page.wait_for_url("**/jobs/job_*")
    job = open_house.client.job(page.url.rsplit("/", 1)[1])
    assert (job.name, job.config["total_epochs"], job.config["keep_saves"]) == ("choir", 3, "best"), "what was set last"


def test_several_zips_beside_a_file_are_taken_each_with_its_names(new_voice: Page, tmp_path: Path) -> None:
    page, folder = new_voice, _folder(tmp_path / "takes")
    sound = (folder / "one.wav").read_bytes()
    (tmp_path / "chinese.zip").write_bytes(raw_zip([("张三/录音.wav".encode("gbk"), sound)]))
    (tmp_path / "hebrew.zip").write_bytes(raw_zip([("משה/דוד.wav".encode("cp1255"), sound)]))
    files = [tmp_path / "chinese.zip", tmp_path / "hebrew.zip", folder / "one.wav"]
    page.locator("#choose-files").set_input_files(files)
    expect(page.locator("#report-state")).to_have_text("Usable", timeout=SLOW)
    expect(page.locator("#files-list tr", has_text="chinese/张三/录音.wav")).to_have_count(1)
    expect(page.locator("#findings")).to_contain_text("names in 'chinese' were read as GBK")

    page.locator("summary", has_text="File names from a zip").click()
    page.locator("#zip-names").select_option("cp1255")
    page.locator("#choose-files").set_input_files([tmp_path / "hebrew.zip"])
    expect(page.locator("#files-list tr", has_text="משה/דוד.wav")).to_have_count(1, timeout=SLOW)
    expect(page.locator("#files-list tr", has_text="hebrew")).to_have_count(0)


def test_what_is_no_recording_is_named_and_not_sent_and_any_other_name_is_taken(
    open_house: Any, new_voice: Page, tmp_path: Path
) -> None:
    page, folder = new_voice, tmp_path / "lines"
    rng = np.random.default_rng(8)
    for name in ("...and then she said.flac", "old.wav.bak", "no ending"):
        folder.mkdir(exist_ok=True)
        soundfile.write(folder / name, rng.uniform(-0.3, 0.3, 96_000), 48_000, format="FLAC")
    for name in ("notes.txt", ".DS_Store", "cover.PNG", ".git/a.wav"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    page.locator("#choose-folder").set_input_files(folder)
    expect(page.locator("#left-out-title")).to_have_text("Left out, as they are not recordings: 4")
    expect(page.locator("#left-out-list")).to_contain_text("lines/notes.txt: a text, a document or subtitles")
    expect(page.locator("#left-out-list")).to_contain_text("lines/.git/: a hidden folder")
    expect(page.locator("#report-state")).to_have_text("Usable", timeout=SLOW)
    expect(page.locator("#measures")).to_contain_text("3 / 3")
    expect(page.locator("#measures")).to_contain_text("Used for training")
    page.locator("#choose-files").set_input_files(folder / "notes.txt")
    expect(page.get_by_text("None of these files is a recording")).to_be_visible()


def test_an_upload_goes_on_after_a_restart_and_a_reload_and_is_not_sent_twice(
    open_house: Any, new_voice: Page, tmp_path: Path
) -> None:
    page, folder = new_voice, _folder(tmp_path / "duo")
    page.route(
        "**/v1/uploads/*",
        lambda route: (
            route.continue_() if route.request.method != "PATCH" or _offset(route.request) == 0 else route.abort()
        ),
    )
    page.locator("#choose-folder").set_input_files(folder)
    page.wait_for_function("() => document.getElementById('sending-bar').value > 0.5")

    page.on("dialog", lambda dialog: dialog.accept())
    _open(page, open_house.url)
    page.unroute_all(behavior="ignoreErrors")
    sent: list[int] = []
    page.on("request", lambda request: sent.append(_offset(request)) if request.method == "PATCH" else None)
    expect(page.locator("#unfinished")).to_contain_text("was interrupted")
    page.evaluate(
        """() => {
          const bar = document.getElementById("sending-bar");
          window.shares = [];
          new MutationObserver(() => shares.push(bar.value)).observe(bar, { attributes: true });
        }"""
    )
    open_house.server.kill()
    open_house.server.wait()
    page.locator("#choose-folder").set_input_files(folder)
    expect(page.locator("#sending-state")).to_have_text("The server does not answer. Trying again…")
    open_house.server = open_house.start_server()
    expect(page.locator("#report-state")).to_have_text("Usable", timeout=SLOW)
    assert page.evaluate("() => Object.keys(JSON.parse(localStorage['rvc-uploads'])).length") == 0
    assert sent
    assert min(sent) >= 4 << 20, "the first piece came before"
    assert page.evaluate("() => shares.find((share) => share > 0)") > 0.5, "the bar begins at what is there"

    sent.clear()
    _open(page, open_house.url)
    page.locator("#choose-folder").set_input_files(folder)
    expect(page.locator("#report-state")).to_have_text("Usable")
    assert sent == [], "the very same bytes are there"


def test_a_slow_upload_shows_its_speed_and_a_second_tab_waits_for_it(
    open_house: Any, new_voice: Page, tmp_path: Path
) -> None:
    page, folder = new_voice, _folder(tmp_path / "slow")
    line = page.context.new_cdp_session(page)
    slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 300_000}
    line.send("Network.enable")
    line.send("Network.emulateNetworkConditions", slow)
    page.locator("#choose-folder").set_input_files(folder)
    page.wait_for_function(
        "() => { const { value } = document.getElementById('sending-bar'); return value > 0.02 && value < 0.5; }"
    )
    expect(page.locator("#sending-state")).to_have_text(re.compile(r"\d.*B · \d+% · [\d.]+ .B/s · about "))

    other = page.context.new_page()
    _open(other, open_house.url)
    other.locator("#choose-folder").set_input_files(folder)
    expect(other.locator("#sending-state")).to_contain_text("being sent in another tab")
    line.send("Network.emulateNetworkConditions", slow | {"uploadThroughput": -1})
    for tab in (page, other):
        expect(tab.locator("#report-state")).to_have_text("Usable", timeout=SLOW)


def _offset(request: Any) -> int:
    """Where a piece belongs."""
    return int(request.headers["upload-offset"])


def test_a_zip_is_taken_and_what_is_no_recording_is_refused_in_words(new_voice: Page, tmp_path: Path) -> None:
    page = new_voice
    text = tmp_path / "words.wav"
    text.write_text("these are words, and no sound " * 50)
    page.locator("#choose-files").set_input_files(text)
    expect(page.locator("#report-state")).to_have_text("Not usable", timeout=SLOW)
    expect(page.locator("#findings .bad")).not_to_be_empty()
    expect(page.locator("#submit")).to_be_disabled()
    with zipfile.ZipFile(tmp_path / "take.zip", "w") as packed:
        packed.write(_folder(tmp_path / "takes") / "one.wav", "one.wav")
    page.locator("#choose-files").set_input_files(tmp_path / "take.zip")
    expect(page.locator("#report-state")).to_have_text("Usable", timeout=SLOW)
    expect(page.locator("#submit")).to_be_enabled()


def test_recordings_are_played_and_copies_and_bad_ones_left_out_and_put_back(
    open_house: Any, new_voice: Page, tmp_path: Path
) -> None:
    page, samples = new_voice, open_house.samples
    folder = tmp_path / "lena"
    folder.mkdir()
    for name, source in {"a.flac": "vm-review", "copy of a.flac": "vm-review", "b.flac": "vm-newuser"}.items():
        shutil.copy(samples / f"{source}.flac", folder / name)
    soundfile.write(folder / "c.aiff", soundfile.read(samples / "vm-intro.flac")[0], 16_000)
    page.locator("#choose-folder").set_input_files(folder)
    expect(page.locator("#report-state")).to_have_text("Usable", timeout=SLOW)

    copies = page.locator("#findings li", has_text="Duplicate recordings")
    copies.get_by_role("button", name="lena/a.flac", exact=True).click()
    playing = (
        "() => { const audio = document.getElementById('player-audio'); return !audio.paused && audio.currentTime; }"
    )
    page.wait_for_function(playing)
    expect(page.locator("#player-name")).to_have_text("lena/a.flac")
    page.locator("#files > summary").click()
    button = page.get_by_role("button", name="Play lena/a.flac")
    expect(button).to_have_attribute("aria-pressed", "true")
    button.click()
    expect(button).to_have_attribute("aria-pressed", "false")
    page.get_by_role("button", name="Play lena/c.aiff").click()
    expect(page.locator("#player-fault")).to_contain_text("can't play")
    box = page.locator("#overview canvas").bounding_box()
    page.locator("#overview canvas").click(position={"x": box["width"] - 8, "y": 20})
    expect(page.locator("#player-name")).to_have_text("lena/copy of a.flac")
    page.wait_for_function("() => document.getElementById('player-audio').currentTime > 1")

    copies.get_by_role("button", name="Leave out the duplicate").click()
    expect(page.locator("#measures")).to_contain_text("3 / 3", timeout=SLOW)
    expect(page.locator("#findings")).not_to_contain_text("Duplicate recordings")
    expect(page.locator("#files-list tr", has_text="copy of a.flac")).to_contain_text("left out by you")
    page.get_by_role("checkbox", name="Leave out lena/c.aiff").check()
    expect(page.locator("#submit")).to_be_disabled()  # it would be trained on
    expect(page.locator("#submit-help")).to_contain_text("1 recording or part is marked but still in")
    page.get_by_role("button", name="Leave out 1 recording").click()
    expect(page.locator("#measures")).to_contain_text("2 / 2", timeout=SLOW)
    expect(page.locator("#submit")).to_be_enabled()
    expect(page).to_have_url(re.compile("dataset=ds_"))
    page.get_by_role("button", name="Put back").click()
    expect(page.locator("#measures")).to_contain_text("3 / 3")
    page.get_by_role("button", name="Put back").click()
    expect(page.locator("#measures")).to_contain_text("4 / 4")
    expect(page.get_by_role("button", name="Put back")).to_be_hidden()


def test_parts_are_marked_by_dragging_and_by_keys_played_taken_back_and_left_out(
    open_house: Any, new_voice: Page, tmp_path: Path
) -> None:
    page = new_voice
    source = open_house.samples / "vm-review.flac"
    shutil.copy(source, tmp_path / "take.flac")
    seconds = soundfile.info(source).duration
    page.locator("#choose-files").set_input_files(tmp_path / "take.flac")
    expect(page.locator("#report-state")).to_have_text("Usable", timeout=SLOW)
    page.locator("#files > summary").click()
    page.get_by_role("button", name="Play take").click()
    wave = page.locator("#player-wave")
    expect(wave).to_have_attribute("data-state", "ready", timeout=SLOW)
    page.locator("#player-audio").evaluate("audio => audio.pause()")
    wave.scroll_into_view_if_needed()

    box = wave.bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 0.25 * box["width"], middle)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.4 * box["width"], middle, steps=5)
    page.mouse.up()
    parts = page.locator("#parts-list li")
    expect(parts).to_have_count(1)
    start, end = (float(parts.get_by_label(label).input_value()) for label in ("From, s", "To, s"))
    assert (start, end) == (pytest.approx(0.25 * seconds, abs=0.1), pytest.approx(0.4 * seconds, abs=0.1))
    expect(page.locator("#submit")).to_be_disabled()
    parts.get_by_role("button", name="Play").click()
    audio = "document.getElementById('player-audio')"
    page.wait_for_function(f"end => {audio}.paused && {audio}.currentTime >= end", arg=end)
    assert page.locator("#player-audio").evaluate("audio => audio.currentTime") < end + 1

    page.locator("#player-audio").evaluate("audio => { audio.currentTime = 0.5; }")
    page.get_by_role("button", name="A part to leave out begins here").focus()
    page.keyboard.press("Enter")
    page.locator("#player-audio").evaluate("audio => { audio.currentTime = 1.25; }")
    page.keyboard.press("Enter")
    expect(parts.nth(1).get_by_label("From, s")).to_have_value("0.5")
    expect(parts.nth(1).get_by_label("To, s")).to_have_value("1.25")
    parts.nth(0).get_by_role("button", name="Keep it").press("Enter")
    expect(parts).to_have_count(1)
    parts.get_by_label("To, s").fill("1.5")
    parts.get_by_label("To, s").press("Tab")
    page.get_by_role("button", name="Leave out 1 part").click()
    expect(page.locator("#measures")).to_contain_text("1 s left out by you", timeout=SLOW)
    expect(page.locator("#files-list")).to_contain_text("1 s left out by you")
    report = open_house.client.dataset_report(re.search(r"ds_\w+", page.url)[0])
    assert [(part.from_seconds, part.to_seconds) for part in report.files[0].without_parts] == [(0.5, 1.5)]
    expect(page.locator("#submit")).to_be_enabled(timeout=SLOW)
    page.get_by_role("button", name="Put back").click()
    expect(page.locator("#measures")).not_to_contain_text("left out by you")
