"""The card as a page: names of strangers are text in it, and each kind of start, encoder and score has its words."""

import html
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from markdown_it import MarkdownIt

from rvc_engine.card.card import Card
from rvc_engine.card.markdown import render

VOICE = {"name": "anna.pth", "kind": "voice", "size_bytes": 55_000_000, "sha256": "a" * 64}
INDEX = {"name": "anna.index", "kind": "index", "size_bytes": 1000, "sha256": "b" * 64}
EVIL = "<script>alert(1)</script> | [x](http://evil.example) ![y](//e) `z` **b** www.evil.example a@evil.example\n# top"


def card(**changes: Any) -> Card:
    parts: dict[str, Any] = {
        "voice": "anna",
        "job_id": None,
        "made_at": datetime(2026, 11, 30, tzinfo=UTC),
        "software": "rvc-train 0.1.0",
        "files": [VOICE, INDEX],
        "model": {
            "version": "v2",
            "sample_rate": "40k",
            "f0": True,
            "width": 192,
            "encoder": "contentvec",
            "encoder_note": None,
            "pitch_estimator": "swift",
            "speakers": {},
        },
        "data": {
            "dataset": None,
            "recordings": 12,
            "seconds": 754.0,
            "recordings_sha256": "c" * 64,
            "upload_sha256": None,
        },
        "base": {"kind": "published", "description": "published base weights"},
        "training": {"epochs": 300, "steps": 9000, "seconds": 5460, "device": "NVIDIA H200", "settings": {}},
        "evaluation": None,
        "consent": None,
    }
    for name, value in changes.items():
        parts[name] = {**parts[name], **value} if isinstance(parts[name], dict) else value  # fields of a part
    return Card.model_validate(parts)


def shown(page: str) -> tuple[str, str]:
    """HTML of a page as a reader of Markdown makes it, and its text."""
    made = MarkdownIt("commonmark").enable("table").render(page)
    return made, html.unescape(re.sub(r"<[^>]+>", "", made))


def test_names_of_strangers_are_text_and_nothing_else() -> None:
    consent = {"speaker": EVIL, "statement": EVIL, "date": "2026-11-28"}
    consent["document"] = {"name": EVIL, "size_bytes": 1, "sha256": "d" * 64}
    page = render(
        card(
            voice=EVIL,
            files=[VOICE | {"name": EVIL}],
            data={"dataset": EVIL},
            base={"description": EVIL, "files": [{"name": EVIL, "sha256": "e" * 64}]},
            consent=consent,
        )
    )
    made, text = shown(page)
    line = " ".join(EVIL.split())
    assert text.count(line) >= 7, "each is shown whole"
    for tag in ("<script", "<a ", "<img", "<strong>b", "<code>z"):
        assert tag not in made
    assert re.findall(r"<h1>(.*?)</h1>", made) == [html.escape(line)]
    assert all(row.count("<td") in {2, 3} for row in made.split("<tr>") if "<td" in row), "no cell of their own"
    assert not re.search(r"https?://|www\.|\w@\w", page), "nor an address that readers make a link of"


@pytest.mark.parametrize("line", ["===", "---", "- a", "+ a", "1. a", "12) a", "# a", "> a", "```", "    a", "***"])
def test_a_line_of_a_statement_is_text_whatever_it_begins_with(line: str) -> None:
    consent = {"speaker": "Anna", "statement": f"first\n{line}\nlast", "date": "2026-11-28"}
    made, _ = shown(render(card(consent=consent)))
    [quoted] = re.findall(r"<blockquote>\n(.*?)\n</blockquote>", made, re.DOTALL)
    assert quoted == f"<p>first\n{html.escape(line.strip())}\nlast</p>"


def test_a_card_says_what_the_voice_is_and_how_to_use_it() -> None:
    made, text = shown(render(card()))
    assert "<td>v2, 40k, with pitch</td>" in made
    for sentence in (
        "12.6 minutes in 12 files",
        "300 epochs, 9000 steps, 1 h 31 min",
        "RVC WebUI: anna.pth into assets/weights/, anna.index into logs/",
        "Applio: both into a folder anna in logs/.",
        "rvc-engine convert IN OUT --voice FILE.pth --index FILE.index",
        "None was recorded. Ask the speaker",
        "No save was evaluated.",
        "55,000,000 bytes",
    ):
        assert sentence in text, sentence
    assert "converts correctly" not in text


def test_a_voice_of_another_encoder_says_where_it_converts_correctly() -> None:
    note = "RVC and Applio load it, but it converts correctly only with `rvc-engine convert`"
    _, text = shown(render(card(model={"encoder": "whisper-tiny.en-l2l3", "encoder_note": note})))
    assert text.count("it converts correctly only with rvc-engine convert") == 2
    assert "logs/" not in text  # no steps for programs that would convert wrongly


def test_a_voice_of_an_encoder_that_applio_has_names_it() -> None:
    _, text = shown(render(card(model={"encoder": "spin-v2", "encoder_note": "converts correctly in Applio"})))
    assert "Embedder model: spin-v2." in text
    assert "assets/weights/" not in text


@pytest.mark.parametrize("is_held_out", [True, False])
def test_scores_have_the_words_of_the_page(is_held_out: bool) -> None:
    best = {"step": 20, "epoch": 2, "values": {"eval/mel": 17.345, "eval/f0_cents": 23.4, "eval/voicing": 0.04}}
    last = {"step": 30, "epoch": 3, "values": {"eval/mel": 18.0, "eval/similarity": 0.9123}}
    _, text = shown(render(card(evaluation={"held_out": is_held_out, "best": best, "last": last})))
    for words in ("epoch 2, step 20", "17.34", "Pitch error, cents (100 = a semitone)", "23", "4%", "0.912"):
        assert words in text, words
    assert ("look better than they are" in text) is not is_held_out
