"""The consent of a speaker from the command line into the card of the voice that the real engine makes."""

import json

import pytest

SMALL = ("--width", "24", "--content", "whisper-tiny", "--pretrained", "none", "--pitch", "dio", "--total-epochs", "1")


@pytest.mark.timeout(800)  # a training
def test_a_consent_is_recorded_asked_for_and_in_the_card_of_the_voice(station, tmp_path):
    form = tmp_path / "signed.pdf"
    form.write_bytes(b"%PDF a signed form")
    station.environment["RVC_TRAIN_REQUIRE_CONSENT"] = "true"
    station.start_server()
    station.start_worker()
    dataset = station.upload(station.samples / "ss-noservice.flac", name="anna")
    refused = station.cli("submit", "anna", "--name", "anna", *SMALL)
    assert refused.returncode != 0
    assert "has no consent of its speaker" in " ".join(refused.stderr.split())
    assert "rvc-train dataset consent" in " ".join(station.cli("dataset", "consent", "anna").stdout.split())
    half = station.cli("dataset", "consent", "anna", "--consent-speaker", "Anna Ito")
    assert half.returncode != 0
    assert "--consent-statement" in half.stderr
    words = ["--consent-speaker", "Anna Ito", "--consent-statement", "For the *guide*.", "--consent-date", "2026-11-28"]
    done = station.cli("dataset", "consent", "anna", *words, "--consent-file", str(form))
    assert done.returncode == 0, done.stderr
    assert "Anna Ito, 2026-11-28, document signed.pdf: For the *guide*." in done.stdout
    copy = tmp_path / "copy.pdf"
    assert station.cli("dataset", "consent", "anna", "--document", str(copy)).returncode == 0
    assert copy.read_bytes() == form.read_bytes()

    done = station.cli("submit", "anna", "--name", "anna", *SMALL, "--watch")
    assert done.returncode == 0, done.stderr
    assert "consent    Anna Ito, 2026-11-28" in station.cli("show", "last").stdout
    kept = station.cli("dataset", "consent", "anna", "--remove")
    assert kept.returncode != 0
    assert "was submitted under this consent" in " ".join(kept.stderr.split())
    assert station.cli("download", "last", "-o", str(tmp_path / "voices")).returncode == 0
    (tmp_path / "voices" / "card.md").write_text("the card of another voice")
    assert station.cli("download", "last", "-o", str(tmp_path / "voices")).returncode == 0
    names = {path.name for path in (tmp_path / "voices").iterdir()}
    assert {"anna.pth", "anna.index", "card.md", "card (2).md", "card (2).json"} <= names
    assert "anna (2).pth" not in names, "a card of another voice renames no voice"
    job = station.client.find_job("last")
    card = json.loads((tmp_path / "voices" / "card.json").read_text(encoding="utf-8"))
    assert (card["job_id"], card["data"]["dataset"], card["data"]["upload_sha256"]) == (job.id, "anna", dataset.sha256)
    assert card["consent"] == job.consent.model_dump()
    assert card["consent"]["document"]["name"] == "signed.pdf"
    assert card["data"]["recordings"] == 1
    hashes = {file.name: file.sha256 for file in station.client.artifacts(job.id) if file.kind != "card"}
    assert {file["name"]: file["sha256"] for file in card["files"]} == hashes
    page = (tmp_path / "voices" / "card (2).md").read_text(encoding="utf-8")
    assert "> For the \\*guide\\*." in page
