"""Commands of datasets with a server that examines them: all that is not used is named, with the reason."""

import sys

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from rvc_train.cli.main import app
from tests.systems import links

RATE = 16_000
pytestmark = links


@pytest.fixture
def command(serve, tmp_path, authorized):
    """command(*words): the result of `rvc-train dataset WORDS` at a server that takes 4 files."""
    report = [sys.executable, "-m", "rvc_engine", "report"]
    token = authorized["Authorization"].removeprefix("Bearer ")
    with serve(tmp_path / "data", report_command=report, max_files=4) as server:
        where = ["--server", server.url, "--token", token]
        yield lambda *words: CliRunner().invoke(app, ["dataset", *map(str, words), *where])


@pytest.fixture
def voice(tmp_path):
    """A folder with 3 recordings, one of them behind a link, and much else."""
    folder, far = tmp_path / "voice", tmp_path / "far"
    tone = 0.4 * np.sin(2 * np.pi * 200 * np.arange(2 * RATE) / RATE)
    for path, seconds in ((folder / "...and so.flac", 2), (far / "take.wav.bak", 2), (folder / "crumb", 0.3)):
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, tone[: int(seconds * RATE)], RATE, format="FLAC")
    (folder / "part2").symlink_to(far)
    (folder / "broken.wav").symlink_to(tmp_path / "nowhere")
    for name in ("a.txt", "b.png", "c.json", "d.7z", "e.mid"):
        (folder / name).write_bytes(b"x")
    return folder


def test_all_that_is_left_out_or_not_used_is_named(command, voice, eventually):
    sent = command("upload", voice)
    assert sent.exit_code == 0, sent.output
    assert (
        "left out: 'a.txt' (a text, a document or subtitles), 'b.png' (an image), 'broken.wav' (a link to"
        in sent.output
    )
    assert "and 1 more; --verbose names all" in sent.output
    every = command("upload", voice, "--verbose")
    assert "left out: 'e.mid' (a score without sound)" in every.output

    def is_examined():
        return "usable" in command("report", "voice").output

    eventually(is_examined, 60)
    shown = command("show", "voice").output
    assert "used      4 s\n" in shown
    assert "not used  0.3 s too short" in shown
    report = command("report", "voice").output
    rows = {line.split("  ")[0]: line for line in report.splitlines()}
    assert "0.3 s too short" in rows["crumb"]
    assert "part2/take.wav.bak" in rows
    assert "2 of 3 files, 4 s; usable" in report


def test_more_recordings_than_the_server_takes_are_refused_before_they_are_sent(command, voice, tmp_path):
    for number in range(2):
        (voice / f"{number}.wav").touch()
    refused = command("upload", voice)
    assert refused.exit_code != 0
    assert "5 recordings are more than the 4 that the server takes at once (RVC_TRAIN_MAX_FILES)" in refused.output
    assert not list((tmp_path / "data" / "uploads").glob("upl_*"))
