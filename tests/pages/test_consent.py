"""The consent of the speaker on the page, with a server that asks for it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect


@pytest.fixture
def strict_house(open_station: Callable[..., Any], token: str, tmp_path: Path) -> Iterator[Any]:
    station = open_station(tmp_path, token)
    station.environment["RVC_TRAIN_REQUIRE_CONSENT"] = "true"
    station.start_server()
    yield station
    station.close()


def test_a_voice_is_submitted_once_the_speaker_consents(strict_house: Any, visit: Any, tmp_path: Path) -> None:
    visitor = visit(strict_house)
    page = visitor.page
    form = tmp_path / "signed.pdf"
    form.write_bytes(b"%PDF a signed form")
    visitor.open("/new")
    expect(page.locator("#settings [data-name=width]")).to_be_attached()
    expect(page.locator("#consent")).to_be_hidden()
    page.locator("#choose-files").set_input_files(sorted(strict_house.samples.glob("vm-*.flac"))[:2])
    expect(page.locator("#report-state")).to_have_text("Usable", timeout=60_000)
    page.get_by_label("Name of the voice").fill("anna")
    expect(page.locator("#submit-help")).to_contain_text("The consent of the speaker is required")
    expect(page.locator("#submit")).to_be_disabled()
    expect(page.locator("#consent")).to_contain_text("This server trains no voice without it.")
    fields = page.locator("#consent-form")
    fields.get_by_label("Speaker").fill("Anna Ito")
    fields.get_by_label("What they agree to").fill("For the audio guide.")
    fields.get_by_label("Date").fill("2026-11-28")
    fields.get_by_label("Document that shows it").set_input_files(form)
    page.get_by_role("button", name="Record the consent").click()
    expect(page.locator("#consent-given")).to_have_text("Anna Ito, 2026-11-28")
    expect(page.locator("#submit")).to_be_enabled()
    [dataset] = list(strict_house.client.datasets())
    assert dataset.consent is not None
    assert dataset.consent.document is not None
    assert dataset.consent.document.name == "signed.pdf"
    assert strict_house.client.consent_document(dataset.id) == form.read_bytes()
    page.reload()
    expect(page.locator("#consent-given")).to_have_text("Anna Ito, 2026-11-28")
    page.locator("#submit").click()
    page.wait_for_url("**/jobs/job_*")
    job = strict_house.client.job(page.url.rsplit("/", 1)[1])
    assert job.consent == dataset.consent
