"""The list of voices with many jobs: what runs first, true numbers, a filter that stays, and several at once."""

import re
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from playwright.sync_api import Page, expect

NUM_WAITING = 30


@pytest.fixture(scope="module")
def house(open_station: Callable[..., Any], token: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One job runs, 30 wait, one failed and one was cancelled."""
    station = open_station(tmp_path_factory.mktemp("house"), token)
    station.start_server()
    dataset = station.upload(station.samples / "vm-review.flac", name="anna")
    station.follow_script(["fail", "diverged", "the losses are no numbers any more"])
    station.start_worker()
    station.wait_for(station.submit(dataset, name="failed", max_attempts=1), "failed")
    station.follow_script(["train", 5000, 0.5, 50])
    station.wait_for(station.submit(dataset, name="running"), "running")
    waiting = [station.submit(dataset, name=f"w{n:02d}", labels={"film": ""}) for n in range(NUM_WAITING)]
    station.client.cancel(station.submit(dataset, name="cancelled").id)
    yield SimpleNamespace(station=station, waiting=waiting)
    station.close()


def names(page: Page) -> list[str]:
    found: list[str] = page.locator(".voice h2 a").all_inner_texts()
    return found


def test_what_runs_is_first_then_the_queue_in_its_order_and_the_numbers_are_true(house: Any, visit: Any) -> None:
    visitor = visit(house.station)
    page = visitor.page
    visitor.open("/")
    expect(page.locator(".voice")).to_have_count(25)
    assert names(page)[:3] == ["running", "w00", "w01"]
    expect(page.locator("#count-all")).to_have_text(str(NUM_WAITING + 3))
    expect(page.locator("#count-failed")).to_have_text("1")
    expect(page.locator("#count-cancelled")).to_have_text("1")
    expect(page.locator("#summary")).to_contain_text(f"1 running · {NUM_WAITING} waiting")
    page.get_by_role("button", name="Show more").click()
    expect(page.locator(".voice")).to_have_count(NUM_WAITING + 3)
    assert names(page)[-2:] == ["cancelled", "failed"]


def test_a_filter_is_in_the_address_and_kept_by_back(house: Any, visit: Any) -> None:
    visitor = visit(house.station)
    page = visitor.page
    visitor.open("/")
    page.get_by_text("Failed", exact=False).first.click()
    page.get_by_placeholder("Search by name").fill("fail")
    expect(page.locator(".voice")).to_have_count(1)
    page.get_by_role("link", name="failed").click()
    expect(page).to_have_url(re.compile("/jobs/"))
    page.go_back()
    expect(page).to_have_url(re.compile(r"\?group=failed&search=fail"))
    expect(page.locator(".voice")).to_have_count(1)
    expect(page.get_by_placeholder("Search by name")).to_have_value("fail")
    visitor.open("/?label=film&search=w1")
    expect(page.locator(".voice")).to_have_count(10)
    page.get_by_placeholder("Label").fill("two words")
    expect(page.locator("#label-fault")).to_be_visible()


def test_the_queue_is_reordered_by_drag_by_buttons_and_by_keys(house: Any, visit: Any) -> None:
    visitor = visit(house.station)
    page = visitor.page
    visitor.open("/")
    expect(page.locator(".voice")).to_have_count(25)

    def follow(*order: str) -> None:
        expect(page.locator(".voice h2 a")).to_contain_text(["running", *order])
        queued = house.station.http.get("/v1/jobs", params={"sort": "queue", "limit": len(order)}).json()["data"]
        assert [job["name"] for job in queued] == list(order)

    page.get_by_role("button", name="Next: w05").click()
    follow("w05", "w00", "w01")
    item = page.locator(".voice").filter(has=page.get_by_role("link", name="w01", exact=True))
    item.get_by_role("link").focus()
    page.keyboard.press("Alt+ArrowUp")
    follow("w05", "w01", "w00", "w02")
    item.drag_to(page.locator(".voice").filter(has=page.get_by_role("link", name="w03", exact=True)))
    follow("w05", "w00", "w02", "w03", "w01", "w04")


def test_several_are_chosen_and_paused_cancelled_and_deleted_at_once(house: Any, visit: Any) -> None:
    visitor = visit(house.station)
    page = visitor.page
    visitor.open("/?search=w2")
    expect(page.locator(".voice")).to_have_count(10)
    page.get_by_label("Choose w20").check()
    page.get_by_role("button", name="Choose all shown").click()
    expect(page.locator("#bulk-count")).to_have_text("10 chosen")
    page.locator("#bulk").get_by_role("button", name="Pause").click()
    expect(page.locator(".voice .pill.paused")).to_have_count(10)
    page.get_by_role("button", name="Choose all shown").or_(page.get_by_label("Choose w20")).first.click()
    page.get_by_role("button", name="Choose all shown").click()
    page.locator("#bulk").get_by_role("button", name="Cancel").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    expect(page.locator(".voice .pill.cancelled")).to_have_count(10)
    page.get_by_label("Choose w20").check()
    page.get_by_role("button", name="Choose all shown").click()
    page.locator("#bulk").get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.locator(".voice")).to_have_count(0)
    expect(page.locator("#count-all")).to_have_text("0", timeout=5000)  # at once: they are asked for every 10 s
