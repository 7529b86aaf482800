"""Voices steered from the page while they are made: nothing needs a reload, and a restarting server is waited for."""

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect


def line(visitor: Any, name: str) -> Any:
    """A voice's line in the list."""
    return visitor.page.locator(".voice").filter(has=visitor.page.get_by_role("link", name=name, exact=True))


def test_a_wrong_token_is_refused_and_the_right_one_leads_to_where_one_was_going(
    open_house: Any, visit: Any, token: str
) -> None:
    visitor = visit(open_house, signed_in=False)
    visitor.forgive("401")
    page = visitor.page
    visitor.open("/server")
    expect(page).to_have_url(re.compile(r"/sign-in\?next=%2Fserver"))
    field = page.get_by_label("Token")
    field.fill("no-token-of-this-server")
    field.press("Enter")
    expect(page.get_by_role("alert")).to_be_visible()
    field.fill(token)
    field.press("Enter")
    expect(page).to_have_url(f"{open_house.url}/server")
    assert visitor.context.cookies()[0]["httpOnly"]
    assert visitor.context.cookies()[0]["sameSite"] == "Strict"
    page.get_by_role("button", name="Sign out").click()
    expect(page).to_have_url(re.compile("/sign-in"))
    visitor.open("/")
    expect(page).to_have_url(re.compile("/sign-in"))
    visitor.forgive("404")
    visitor.open("/sign-in?next=/.//192.0.2.1/x")  # whose path alone would be an address of another host
    page.get_by_label("Token").fill(token)
    page.get_by_label("Token").press("Enter")
    expect(page).to_have_url(f"{open_house.url}//192.0.2.1/x")


def test_a_running_job_is_paused_resumed_and_cancelled(open_house: Any, visit: Any, recording: Any) -> None:
    open_house.follow_script(["train", 2000, 0.05, 20], *open_house.MAKE_VOICE)
    job = open_house.submit(open_house.upload(recording), name="anna")
    visitor = visit(open_house)
    page = visitor.page
    visitor.open(f"/jobs/{job.id}")
    expect(page.locator("#status")).to_have_text("Running")
    expect(page.locator("#curves canvas").first).to_be_visible()
    page.get_by_role("button", name="Pause", exact=True).click()
    expect(page.locator("#status")).to_have_text("Paused")
    page.locator("#actions").get_by_role("button", name="Resume").click()
    expect(page.locator("#status")).to_have_text(re.compile("Queued|Running"))
    expect(page.locator("#status")).to_have_text("Running")
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Back").click()
    assert open_house.client.job(job.id).status == "running"
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel the job").click()
    expect(page.locator("#status")).to_have_text("Cancelled")
    expect(page.locator("#events")).to_contain_text("Resumed")
    assert open_house.client.job(job.id).status == "cancelled"


def test_a_failed_job_says_first_why_and_what_to_do_and_is_tried_again(
    open_house: Any, visit: Any, recording: Any
) -> None:
    open_house.follow_script(["train", 3, 0.01, 5], ["fail", "diverged", "the losses are no numbers any more"])
    job = open_house.submit(open_house.upload(recording), name="bella", max_attempts=1)
    visitor = visit(open_house)
    page = visitor.page
    visitor.open(f"/jobs/{job.id}")
    failure = page.locator("#failure")
    expect(failure).to_contain_text("the losses are no numbers any more")
    expect(failure).to_contain_text("Try a lower learning rate")
    above = page.evaluate("() => document.querySelector('#failure').getBoundingClientRect().top < innerHeight / 2")
    assert above
    visitor.open("/")
    expect(line(visitor, "bella")).to_contain_text("the losses are no longer numbers: the losses are no")
    open_house.follow_script(["train", 3, 0.01, 5], *open_house.MAKE_VOICE)
    line(visitor, "bella").get_by_role("button", name="Try again").click()
    expect(page).to_have_url(re.compile("/jobs/job_"))
    expect(page.locator("#status")).to_have_text("Ready")
    expect(page.locator("#facts")).to_contain_text("Repeats")  # it had no checkpoint
    page.locator("#facts").get_by_role("link", name="bella").click()
    expect(page).to_have_url(re.compile(job.id))
    expect(page.locator("#facts")).to_contain_text("Continued as")


def test_a_slow_start_says_so_and_weights_that_are_missing_are_a_press_away(
    open_house: Any, visit: Any, recording: Any, tmp_path: Path
) -> None:
    going = tmp_path / "going"
    open_house.follow_script(
        ["wait_for_file", str(going)], ["stage", "slice", 0.1], ["fail", "missing_weights", "no hubert/model.bin"]
    )
    job = open_house.submit(open_house.upload(recording), name="carla", max_attempts=1)
    visitor = visit(open_house)
    page = visitor.page
    visitor.open(f"/jobs/{job.id}")
    expect(page.locator("#facts")).to_contain_text("the training program is starting")
    going.touch()
    expect(page.locator("#failure")).to_contain_text("“Copy settings”")
    expect(page.locator("#facts")).not_to_contain_text("is starting")
    page.locator("#failure").get_by_role("link", name="Weights on the Server page").click()
    expect(page).to_have_url(re.compile("/server#weights"))
    expect(page.get_by_role("heading", name="Weights", exact=True)).to_be_in_viewport()


def test_two_browsers_see_each_others_deeds_and_each_owner_only_their_own(
    open_house: Any, visit: Any, recording: Any
) -> None:
    open_house.follow_script(["train", 2000, 0.05, 100])
    job = open_house.submit(open_house.upload(recording), name="carla")
    one, other = visit(open_house), visit(open_house)
    one.open("/")
    other.open(f"/jobs/{job.id}")
    expect(line(one, "carla")).to_contain_text("Running")
    line(one, "carla").get_by_role("button", name="Pause").click()
    expect(other.page.locator("#status")).to_have_text("Paused")
    other.page.get_by_role("button", name="Cancel", exact=True).click()
    other.page.get_by_role("dialog").get_by_role("button", name="Cancel the job").click()
    expect(line(one, "carla")).to_contain_text("Cancelled")
    secret = open_house.http.post("/v1/tokens", json={"owner": "stranger"}).json()["secret"]
    stranger = visit(open_house, signed_in=False)
    stranger.sign_in(secret)
    stranger.open("/")
    expect(stranger.page.locator("#empty")).to_be_visible()
    stranger.forgive("404")
    stranger.open(f"/jobs/{job.id}")
    expect(stranger.page.locator("main")).not_to_contain_text("carla")


def test_a_page_outlives_a_restart_of_the_server_and_misses_nothing(
    open_house: Any, visit: Any, recording: Any
) -> None:
    open_house.follow_script(["train", 50, 0.1, 20], ["log", "the last words"], *open_house.MAKE_VOICE)
    job = open_house.submit(open_house.upload(recording), name="dora")
    visitor = visit(open_house)
    visitor.forgive(
        "ERR_(CONNECTION_|INCOMPLETE_CHUNKED|CONTENT_LENGTH_MISMATCH|EMPTY_RESPONSE|NETWORK|SOCKET_NOT_CONNECTED)"
    )
    page = visitor.page
    visitor.open(f"/jobs/{job.id}")
    expect(page.locator("#status")).to_have_text("Running")
    server = open_house.server
    server.kill()
    server.wait()
    expect(page.locator("#connection")).to_be_visible()
    open_house.server = open_house.start_server()
    expect(page.locator("#connection")).to_be_hidden()
    expect(page.locator("#status")).to_have_text("Ready", timeout=40_000)
    expect(page.locator("#log")).to_contain_text("the last words", timeout=40_000)
    expect(page.locator("#files tr")).to_have_count(2)
    told = [event.seq for event in open_house.client.events(job.id) if event.type not in {"progress", "metric"}]
    shown = page.locator("#events li").evaluate_all("(items) => items.map((item) => item.value).reverse()")
    assert shown == told
    assert page.evaluate("() => performance.getEntriesByType('navigation')[0].type") == "navigate"


@pytest.mark.parametrize("module", ["curves.js", "uPlot.esm.js"])
def test_a_part_of_the_page_that_a_broken_connection_lost_comes_later(
    module: str, open_house: Any, visit: Any, recording: Any
) -> None:
    open_house.follow_script(["log", "the last words"], *open_house.MAKE_VOICE)
    job = open_house.submit(open_house.upload(recording), name="fred")
    open_house.wait_for(job, "succeeded")
    visitor = visit(open_house)
    visitor.forgive("ERR_FAILED|Failed to load resource")
    visitor.page.route(f"**/{module}*", lambda route: route.abort(), times=1)  # a browser never asks for it again
    visitor.open(f"/jobs/{job.id}")
    expect(visitor.page.locator("#log")).to_contain_text("the last words")
    expect(visitor.page.locator("#status")).to_have_text("Ready")
    expect(visitor.page.locator("#connection")).to_be_hidden()


def test_the_page_is_walked_by_keyboard_alone(open_house: Any, visit: Any, recording: Any) -> None:
    open_house.follow_script(["train", 2000, 0.05, 100])
    job = open_house.submit(open_house.upload(recording), name="emma")
    visitor = visit(open_house)
    page = visitor.page
    visitor.open(f"/jobs/{job.id}")
    cancel = page.get_by_role("button", name="Cancel", exact=True)
    expect(cancel).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    for _ in range(8):
        page.keyboard.press("Tab")
        if cancel.evaluate("(button) => button === document.activeElement"):
            break
    expect(cancel).to_be_focused()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("button", name="Back")).to_be_focused()
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    assert open_house.client.job(job.id).status == "running"
    cancel.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_have_text("Cancelled")


def test_a_theme_and_a_language_that_were_chosen_stay(open_house: Any, visit: Any) -> None:
    visitor = visit(open_house)
    page = visitor.page
    visitor.open("/")
    page.get_by_role("button", name="Light or dark").click()
    page.get_by_label("Language").select_option("zh")
    expect(page.locator("html")).to_have_attribute("lang", "zh")
    visitor.open("/server")
    expect(page.locator("html")).to_have_attribute("lang", "zh")
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    assert page.evaluate("() => getComputedStyle(document.body).backgroundColor") == "rgb(20, 21, 25)"


def test_seven_tabs_of_running_jobs_load_and_move_over_one_browsers_six_connections(
    open_house: Any, visit: Any, recording: Any
) -> None:
    open_house.follow_script(["train", 3000, 0.2, 1000])
    job = open_house.submit(open_house.upload(recording), name="gina")
    visitor = visit(open_house)
    open_house.wait_until(lambda: (open_house.client.job(job.id).step or 0) > 0, "a step")
    pages = [visitor.context.new_page() for _ in range(7)]
    for page in pages:
        page.goto(f"{visitor.url}/jobs/{job.id}")
        expect(page.locator("#status")).to_have_text("Running")
    steps = [page.locator("#facts").inner_text() for page in pages]
    for page, before in zip(pages, steps, strict=True):
        expect(page.locator("#facts")).not_to_have_text(before)
        expect(page.locator("#log .line").first).to_be_attached()
        open_streams = page.evaluate(
            "() => performance.getEntriesByType('resource').filter((one) => one.responseEnd === 0)"
        )
        assert open_streams == []
    open_house.client.cancel(job.id)
    expect(pages[6].locator("#status")).to_have_text("Cancelled")
