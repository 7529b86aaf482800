"""A job that trained for long: 100,000 numbers and 50,000 lines of log, and the page still answers at once.

Rows and lines are written straight into the book: making them takes an hour otherwise.
"""

import random
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from playwright.sync_api import Page, expect

from server.database.engine import create_engine, write_session
from server.database.tables import Job, Metric

KEYS = ("loss/mel", "loss/kl", "loss/fm", "loss/gen", "loss/disc", "grad_norm/g", "grad_norm/d", "learning_rate")
STEPS = 12_500
LINES = 50_000
NEEDLE = 31_416
AssertQuick = Callable[[str, Callable[[], list[float]]], None]

OBSERVE = """() => {
  window.presses = [];
  new PerformanceObserver((list) => window.presses.push(...list.getEntries().map((one) => [one.name, one.duration])))
    .observe({ type: "event", durationThreshold: 16 });
}"""
SCROLL = """async ([selector, places]) => {
  const frame = () => new Promise((resolve) => requestAnimationFrame(resolve));
  const place = selector ? document.querySelector(selector) : document.scrollingElement;
  const times = [];
  for (let n = 0; n < places; n += 1) {
    await frame();
    const begun = performance.now();
    place.scrollTop = ((n * 37) % places) / places * place.scrollHeight;
    await frame(); // drawn for the new place
    await frame(); // and that frame is over
    times.push(performance.now() - begun);
  }
  return times;
}"""


@pytest.fixture(scope="module")
def long_job(open_house: Any) -> str:
    """Its id."""
    open_house.follow_script(["train", 5, 0.01, 5], *open_house.MAKE_VOICE)
    job = open_house.submit(open_house.upload(open_house.samples / "vm-review.flac"), name="long")
    open_house.wait_for(job, "succeeded")
    dice = random.Random(1)
    engine = create_engine(f"sqlite:///{open_house.folder / 'data' / 'rvc-train.db'}")
    with write_session(engine) as session:
        number = session.scalar(sa.select(Job.number).where(Job.id == job.id))
        session.execute(sa.delete(Metric).where(Metric.job_number == number))
        rows = (
            {"job_number": number, "key": key, "step": step, "value": 20 + 500 / step + dice.random()}
            for key in KEYS
            for step in range(1, STEPS + 1)
        )
        session.execute(sa.insert(Metric), list(rows))
    engine.dispose()
    log = open_house.folder / "data" / "jobs" / job.id / "job.log"
    with log.open("a") as file:
        file.writelines(
            f"2026-11-22T22:31:37.839Z info epoch {n} of {LINES}: mel 17.3, kl 1.2, fm 8.9, about as before\n"
            for n in range(1, LINES + 1)
        )
    return job.id


@pytest.fixture
def page(open_house: Any, visit: Any, long_job: str) -> Page:
    visitor = visit(open_house)
    visitor.open(f"/jobs/{long_job}")
    expect(visitor.page.locator("#curves canvas")).to_have_count(len(KEYS))
    expect(visitor.page.locator("#log")).to_contain_text(f"epoch {LINES}")
    visitor.page.wait_for_load_state("networkidle")
    return visitor.page


def slow(times: list[float]) -> float:
    """The slowest but one in ten."""
    return sorted(times)[int(len(times) * 0.9)]


@pytest.fixture(
    params=[pytest.param(500, id="beside other tests"), pytest.param(100, id="alone", marks=pytest.mark.long)]
)
def assert_quick(request: pytest.FixtureRequest) -> AssertQuick:
    """Within so many ms what one did is to be seen: 100 where the page has the machine to itself, else 500.

    Above 500 ms an answer counts as poor (web.dev/inp). What other programs of the machine took is not the page's
    fault: it may show what it can do six times.
    """

    def check(what: str, measure: Callable[[], list[float]]) -> None:
        tries = []
        for _ in range(6):
            tries.append(measure())
            if slow(tries[-1]) < request.param:
                return
        pytest.fail(f"{what} took too long, in ms: {tries}")

    return check


def test_its_page_and_its_log_scroll_at_once(page: Page, assert_quick: AssertQuick) -> None:
    assert_quick("scrolling the page", lambda: page.evaluate(SCROLL, [None, 25]))
    assert_quick("scrolling the log", lambda: page.evaluate(SCROLL, ["#log", 25]))


def test_its_curves_are_zoomed_at_once_all_together_and_back(page: Page, assert_quick: AssertQuick) -> None:
    curve = page.locator("#curves .u-over").first
    curve.scroll_into_view_if_needed()
    box = curve.bounding_box()
    assert box is not None
    page.evaluate(OBSERVE)
    left, width, middle = box["x"], box["width"], box["y"] + box["height"] / 2

    def zoom() -> list[float]:
        page.evaluate("() => { window.presses = []; }")
        for begin, end in ((0.2, 0.8), (0.3, 0.7), (0.4, 0.6)):
            page.mouse.move(left + begin * width, middle)
            page.mouse.down()
            page.mouse.move(left + end * width, middle, steps=5)
            page.mouse.up()
            expect(page.locator("#zoom-out")).to_be_visible()
            page.wait_for_timeout(50)
        page.locator("#zoom-out").click()
        expect(page.locator("#zoom-out")).to_be_hidden()
        return presses(page)

    assert_quick("zooming", zoom)


def test_what_is_sought_in_its_log_is_found_and_no_key_waits_for_it(page: Page, assert_quick: AssertQuick) -> None:
    page.evaluate(OBSERVE)

    def seek() -> list[float]:
        page.locator("#log-search").fill("")
        page.evaluate("() => { window.presses = []; }")
        page.locator("#log-search").press_sequentially(f"epoch {NEEDLE} ", delay=20)
        expect(page.locator("#log .present")).to_contain_text(f"epoch {NEEDLE} of")
        return presses(page)

    assert_quick("typing", seek)


def presses(page: Page) -> list[float]:
    """Milliseconds from each press to the next picture; those that took under 16 are not told, so 0 stands for them."""
    page.wait_for_timeout(100)
    return [0.0, *page.evaluate("() => window.presses.map(([, duration]) => duration)")]


def test_a_log_that_is_scrolled_up_is_no_longer_followed(page: Page) -> None:
    expect(page.locator("#log-follow")).to_be_checked()
    page.locator("#log").hover()
    page.mouse.wheel(0, -400)
    expect(page.locator("#log-follow")).not_to_be_checked()
