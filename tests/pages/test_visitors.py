"""The tests' own visitor sees what is wrong with a page: else none of the others would tell anything."""

import re
from types import SimpleNamespace
from typing import Any

import pytest

NOWHERE = SimpleNamespace(url="http://127.0.0.1:9")
PAGE = "<!doctype html><html lang=en><title>A page</title><main><h1>A page</h1>{}</main></html>"


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("console.error('alas')", "console: alas"),
        ("setTimeout(() => { throw new Error('broken') })", "exception: .*broken"),
        ("fetch('http://192.0.2.1/').catch(() => 0)", "leaves this machine: http://192.0.2.1/"),
    ],
)
def test_a_visitor_complains_of_errors_and_of_requests_that_leave_the_machine(
    visit: Any, script: str, complaint: str
) -> None:
    visitor = visit(NOWHERE, signed_in=False)
    visitor.page.set_content(PAGE.format(f"<script>{script}</script>"))
    visitor.page.wait_for_timeout(100)
    with pytest.raises(AssertionError, match=complaint):
        visitor.check()
    visitor.forgive(".*")


def test_a_visitor_finds_what_keeps_people_out(visit: Any) -> None:
    visitor = visit(NOWHERE, signed_in=False)
    visitor.page.set_content(PAGE.format("<button></button><p style='color:#aaa;background:#fff'>pale</p>"))
    found = " ".join(visitor.faults())
    assert re.search("critical: button-name", found)
    assert re.search("serious: color-contrast", found)
    visitor.page.set_content(PAGE.format("<button>Go</button>"))
    visitor.check_accessible("a good page")
