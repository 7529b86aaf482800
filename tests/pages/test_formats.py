"""How the page writes sizes, lists and lengths, in each language."""

from typing import Any

import pytest

FORMATS = """async () => {
  const words = await import(new URL("./words.js", document.querySelector("script[type=module]").src));
  return {
    sizes: [0, 1, 782, 9_400_000].map(words.size),
    lists: [["ContentVec"], ["ContentVec", "RMVPE", "FCPE"], ["RMVPE", "底模 v2"]].map(words.list),
    steps: [0.08341, 158.94].map(words.stepTime),
    lengths: [0.34, 5.4995, 5.5, 75].map(words.lengthOf),
  };
}"""
WRITTEN = {
    "en-US": {
        "sizes": ["0 bytes", "1 byte", "782 bytes", "9.4 MB"],
        "lists": ["ContentVec", "ContentVec, RMVPE and FCPE", "RMVPE and 底模 v2"],
        "steps": ["0.08341 sec", "158.9 sec"],
        "lengths": ["0.3 sec", "5.5 sec", "5.5 sec", "1 min 15 sec"],
    },
    "zh-CN": {
        "sizes": ["0字节", "1字节", "782字节", "9.4 MB"],
        "lists": ["ContentVec", "ContentVec、RMVPE 和 FCPE", "RMVPE 和底模 v2"],
        "steps": ["0.08341秒", "158.9秒"],
        "lengths": ["0.3秒", "5.5秒", "5.5秒", "1分钟 15秒"],
    },
}


@pytest.mark.parametrize("locale", WRITTEN)
def test_sizes_lists_and_lengths_are_written_as_people_write_them(open_house: Any, visit: Any, locale: str) -> None:
    visitor = visit(open_house, locale=locale)
    visitor.open("/")
    assert visitor.page.evaluate(FORMATS) == WRITTEN[locale]
