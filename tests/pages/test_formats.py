"""How the page writes sizes and lists, in each language."""

from typing import Any

import pytest

FORMATS = """async () => {
  const words = await import(new URL("./words.js", document.querySelector("script[type=module]").src));
  const lengths = [0.34, 5.4995, 5.5, 75].map(words.lengthOf);
  const lists = [["ContentVec"], ["ContentVec", "RMVPE", "FCPE"]];
  return [...[0, 1, 782, 9_400_000].map(words.size), ...lists.map(words.list), ...lengths];
}"""
ENGLISH = ["0.3 sec", "5.5 sec", "5.5 sec", "1 min 15 sec"]
CHINESE = ["0.3秒", "5.5秒", "5.5秒", "1分钟 15秒"]


@pytest.mark.parametrize(
    ("locale", "written"),
    [
        ("en-US", ["0 bytes", "1 byte", "782 bytes", "9.4 MB", "ContentVec", "ContentVec, RMVPE and FCPE", *ENGLISH]),
        ("zh-CN", ["0字节", "1字节", "782字节", "9.4 MB", "ContentVec", "ContentVec、RMVPE 和 FCPE", *CHINESE]),
    ],
)
def test_sizes_and_lists_are_written_as_people_write_them(
    open_house: Any, visit: Any, locale: str, written: list[str]
) -> None:
    visitor = visit(open_house, locale=locale)
    visitor.open("/")
    assert visitor.page.evaluate(FORMATS) == written
