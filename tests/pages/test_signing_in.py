"""Signing in by a link with a code, and to two servers of one machine."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect


def test_a_link_signs_in_once_and_leaves_no_code_in_the_address(open_house: Any, visit: Any) -> None:
    visitor = visit(open_house, signed_in=False)
    page = visitor.page
    link = f"/sign-in?next=%2Fserver#code={open_house.client.access.sign_in_code().code}"
    visitor.open(link)
    expect(page).to_have_url(f"{open_house.url}/server")
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()
    page.go_back()
    assert "code" not in page.url

    visitor.forgive("401")
    visitor.context.clear_cookies()
    page.goto("about:blank")
    visitor.open(link)
    expect(page.get_by_role("alert")).to_contain_text("run `rvc-train open` for a new one")
    expect(page).to_have_url(f"{open_house.url}/sign-in?next=%2Fserver")
    for command in ("open", "token create NAME"):  # this server is not at the default port, where the command would ask
        shown = f"rvc-train {command} --server {open_house.url}"
        expect(page.get_by_text(shown, exact=True)).to_be_visible()
    page.get_by_label("Token").fill(open_house.token)
    page.get_by_role("button", name="Sign in").click()
    expect(page).to_have_url(f"{open_house.url}/server")


def test_the_token_is_typed_at_once_and_a_wrong_one_is_typed_over(open_house: Any, visit: Any) -> None:
    visitor = visit(open_house, signed_in=False)
    visitor.forgive("401")
    page = visitor.page
    visitor.open("/new")
    expect(page).to_have_url(re.compile(r"/sign-in\?next=%2Fnew"))
    expect(page.get_by_label("Token")).to_be_focused()
    expect(page.get_by_role("navigation").get_by_role("link")).to_have_count(0)
    page.keyboard.type("a token of another server")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_be_visible()
    page.keyboard.type(open_house.token)  # over the wrong one, which is selected
    page.keyboard.press("Enter")
    expect(page).to_have_url(f"{open_house.url}/new")


@pytest.fixture
def other_house(open_station: Callable[..., Any], tmp_path: Path, token: str) -> Iterator[Any]:
    station = open_station(tmp_path, token)
    station.start_server()
    yield station
    station.close()


def test_one_browser_is_signed_in_to_two_servers_on_two_ports(open_house: Any, other_house: Any, visit: Any) -> None:
    visitor = visit(open_house, signed_in=False)
    for house in (open_house, other_house):
        visitor.page.goto(f"{house.url}/sign-in#code={house.client.access.sign_in_code().code}")
        expect(visitor.page).to_have_url(f"{house.url}/")
    for house in (open_house, other_house, open_house):
        visitor.page.goto(f"{house.url}/server")
        expect(visitor.page.get_by_role("button", name="Sign out")).to_be_visible()
