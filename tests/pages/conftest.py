"""The page as people meet it: a real server and worker, and Chromium, which is to find nothing wrong on the way.

Whatever a test does, its browser fails it at the end for an error on the console, an exception, or a request that
leaves this machine.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Playwright, expect, sync_playwright

TOKEN = "the-first-token-of-the-page"
HERE = Path(__file__).parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
NO_BROWSER = (
    "the tests of the page need a browser: install Chromium (on Debian: apt-get install chromium), or set CHROMIUM to "
    "the path of one"
)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--host-resolver-rules=MAP elsewhere.test 127.0.0.1",
)
DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}
SECONDS = 15
"""How long a page may take to show what it is to show, on a busy machine."""


def chromium() -> str:
    """The browser's path. There is no passing without one."""
    for name in (os.environ.get("CHROMIUM", ""), *BROWSERS):
        if found := shutil.which(name):
            return found
    pytest.fail(NO_BROWSER, pytrace=False)


class _Browsers:
    """The browser of this folder's tests. One that ended is followed by another."""

    def __init__(self) -> None:
        self._playwright: Playwright | None = None
        self._browser: Browser | None = None

    def get(self, downloads: Path) -> Browser:
        if self._browser is None or not self._browser.is_connected():
            self.close()
            path = chromium()
            expect.set_options(timeout=SECONDS * 1000)
            self._playwright = sync_playwright().start()
            self._browser = self._playwright.chromium.launch(
                executable_path=path, args=list(FLAGS), downloads_path=downloads
            )
        return self._browser

    def close(self) -> None:
        if self._browser is not None and self._browser.is_connected():
            self._browser.close()
        if self._playwright is not None:
            self._playwright.stop()
        self._playwright = self._browser = None


BROWSERS_OF_TESTS = _Browsers()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> None:
    """Close the browser after the last test here: Playwright holds the event loop that tests elsewhere want."""
    if nextitem is None or HERE not in nextitem.path.parents:
        BROWSERS_OF_TESTS.close()


@pytest.fixture
def browser(tmp_path_factory: pytest.TempPathFactory) -> Browser:
    """One for all tests here: starting it and Playwright's own program takes seconds."""
    return BROWSERS_OF_TESTS.get(tmp_path_factory.mktemp("downloads"))


@dataclass
class Visitor:
    """Someone at a browser: a window of their own, cookies of their own."""

    page: Page
    context: BrowserContext
    url: str
    complaints: list[str] = field(default_factory=list)
    """What went wrong in the browser."""
    forgiven: list[str] = field(default_factory=list)
    """Patterns of complaints that a test brings about on purpose."""

    def open(self, path: str) -> None:
        self.page.goto(self.url + path)

    def sign_in(self, token: str = TOKEN) -> None:
        """Past the page, where signing in is not what a test is about."""
        answer = self.context.request.post(
            f"{self.url}/v1/session", data={"token": token}, headers={"Origin": self.url}
        )
        assert answer.status == 204, answer.text()

    def forgive(self, pattern: str) -> None:
        """Complaints like this are part of the test."""
        self.forgiven.append(pattern)

    def check(self) -> None:
        """Fail for whatever went wrong."""
        wrong = [each for each in self.complaints if not any(re.search(pattern, each) for pattern in self.forgiven)]
        assert not wrong, "\n".join(wrong)

    def faults(self, scheme: str = "light") -> list[str]:
        """What axe-core finds on the screen, of those faults that keep people out; in the dark, of colours alone."""
        self.page.emulate_media(color_scheme=scheme)
        session = self.context.new_cdp_session(self.page)
        if not self.page.evaluate("() => 'axe' in window"):
            session.send("Runtime.evaluate", {"expression": (HERE / "axe" / "axe.min.js").read_text()})
        # Without its look at style sheets, for which it would add styles of its own that the page's policy refuses.
        options = {"preload": False} | ({} if scheme == "light" else {"runOnly": ["color-contrast"]})
        found = self.page.evaluate("async (options) => (await axe.run(document, options)).violations", options)
        session.detach()
        return [
            f"{fault['impact']}: {fault['id']} ({fault['help']}) at {node['target']}: {node['failureSummary']}"
            for fault in found
            if fault["impact"] in {"serious", "critical"}
            for node in fault["nodes"]
        ]

    def check_accessible(self, screen: str) -> None:
        """No serious and no critical fault, in the light and in the dark."""
        for scheme in ("light", "dark"):
            faults = self.faults(scheme)
            assert not faults, f"{screen}, {scheme}:\n" + "\n".join(faults)
        self.page.emulate_media(color_scheme="light")


def _listen(visitor: Visitor) -> None:
    def on_console(message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            visitor.complaints.append(f"console: {message.text} ({message.location.get('url', '')})")

    def on_request(request: Any) -> None:
        address = urlsplit(request.url)
        if address.scheme not in {"data", "blob", "about"} and address.hostname != "127.0.0.1":
            visitor.complaints.append(f"a request that leaves this machine: {request.url}")

    visitor.context.on("console", on_console)
    visitor.context.on("weberror", lambda error: visitor.complaints.append(f"exception: {error.error}"))
    visitor.context.on("request", on_request)


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Visitor]]:
    """`visit(station)`: someone comes to its page, signed in unless told otherwise; what went wrong fails the test."""
    visitors: list[Visitor] = []

    def come(station: Any, *, signed_in: bool = True, **options: Any) -> Visitor:
        context = browser.new_context(
            **({"viewport": DESKTOP, "locale": "en-US", "reduced_motion": "reduce"} | options)
        )
        context.set_default_timeout(SECONDS * 1000)
        visitor = Visitor(context.new_page(), context, station.url)
        _listen(visitor)
        visitors.append(visitor)
        if signed_in:
            visitor.sign_in()
        return visitor

    yield come
    for visitor in visitors:
        visitor.context.close()
    for visitor in visitors:
        visitor.check()


@pytest.fixture(scope="session")
def token() -> str:
    """The first token of stations here."""
    return TOKEN


@pytest.fixture(scope="module")
def open_house(open_station: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A station that asks for a token, with its server and one worker whose engines follow a script, for a file."""
    station = open_station(tmp_path_factory.mktemp("station"), TOKEN)
    station.follow_script(["train", 10, 0.05, 5], *station.MAKE_VOICE)
    station.server = station.start_server()
    station.start_worker()
    yield station
    station.close()
