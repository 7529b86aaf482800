"""Text and errors are printed as they are."""

import io
import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from rvc_train.cli import output
from rvc_train.cli.browser import page_address
from rvc_train.cli.output import Output, ago, set_server_time, table
from rvc_train.cli.session import CommandContext, OutputCommand
from rvc_train.errors import ClientError
from rvc_train.schemas.jobs import Range


def test_names_in_a_table_and_in_a_line_are_shown_as_they_are(capsys):
    name = "a[/b] [red]x :cat:"
    rows = table("NAME")
    rows.add_row(name)
    output = Output(as_json=False)
    output.result({}, rows)
    output.note(name)
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()[1:]] == [name, name]


def test_control_characters_of_others_are_printed_as_marks_and_our_own_colours_stay(capsys):
    hostile = "a\x1b]52;c;ZXZpbA==\x07b\x9b2Jc\u202ed\r"
    shown = "a\ufffd]52;c;ZXZpbA==\ufffdb\ufffd2Jc\ufffdd\ufffd"
    output = Output(as_json=False)
    rows = table("NAME")
    rows.add_row(hostile)
    output.result({}, rows)
    output.note(hostile + "声音\tअ\u200dब")
    output.warning(hostile)
    output.error(hostile)
    printed = capsys.readouterr()
    for text in (printed.out, printed.err):
        assert not set(text) & set("\x1b\x07\x9b\u202e\r")
    assert shown.replace("\ufffd", "") in printed.out.replace("\ufffd", "")
    assert "声音" in printed.out
    assert "अ\u200dब" in printed.out
    output.errors = type(output.errors)(force_terminal=True, file=io.StringIO())
    output.warning("yellow")
    assert "\x1b[33myellow" in output.errors.file.getvalue()


def test_json_for_a_terminal_has_escapes_in_place_of_control_characters(capsys):
    value = {"name": "声音\x1b[2J\x9b2J\u202e\n\U0001f600"}
    Output(as_json=True).json(value)
    printed = capsys.readouterr().out
    assert json.loads(printed) == value
    assert printed.replace("\n", "").isprintable()
    assert "声音" in printed


@pytest.mark.parametrize(
    ("url", "public", "expected"),
    [
        ("http://127.0.0.1:8000", "", "http://127.0.0.1:8000"),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:9000/", "http://127.0.0.1:9000"),
        ("http://[::1]:8000", "https://voices.example", "https://voices.example"),
        ("http://elsewhere:8000", "http://127.0.0.1:9000", "http://elsewhere:8000"),
    ],
)
def test_a_link_to_a_server_in_a_container_has_the_address_outside(url, public, expected):
    assert page_address(url, {"RVC_TRAIN_PUBLIC_URL": public}) == expected


def test_the_compose_file_names_the_address_that_it_publishes():
    text = (Path(__file__).parents[3] / "docker-compose.yml").read_text()
    published = re.search(r'- "(127\.0\.0\.1:\$\{RVC_TRAIN_PORT:-8000\}):8000"', text)
    assert f"RVC_TRAIN_PUBLIC_URL: http://{published[1]}\n" in text


def run_failing(error: Exception, *arguments: str) -> Result:
    """Run a command that raises an error."""
    app = typer.Typer()

    @app.command(cls=OutputCommand)
    def fail(context: CommandContext) -> None:
        raise error

    return CliRunner().invoke(app, arguments)


def test_a_file_that_cannot_be_read_is_an_error_in_one_sentence():
    error = PermissionError(13, "Permission denied", "/root/voice.wav")
    done = run_failing(error)
    text = "no permission for /root/voice.wav (Permission denied); check its owner and mode, or use another folder"
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", f"error: {text}\n")
    done = run_failing(error, "--json")
    assert json.loads(done.stdout) == {"error": text, "exit_code": 1}


def test_a_closed_pipe_ends_the_program_silently():
    done = run_failing(BrokenPipeError(32, "Broken pipe"))
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", "")


@pytest.mark.parametrize(("as_json", "shown"), [(False, r"\u58f0 \U0001f600"), (True, r'"\u58f0 \ud83d\ude00"')])
def test_a_name_that_the_streams_encoding_lacks_ends_no_command(as_json, shown):
    code = f"from rvc_train.cli.output import Output; Output(as_json={as_json}).result({{'name': '声 😀'}}, '声 😀')"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONIOENCODING": "ascii"}, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert shown in done.stdout.decode()


def test_times_are_compared_with_the_servers_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "_clock", {"difference": timedelta()})
    there = datetime.now(UTC) - timedelta(hours=2)  # the server's clock is two hours behind
    assert ago(there).startswith("2 h")
    set_server_time(format_datetime(there, usegmt=True))
    assert ago(there) in {"0 s ago", "1 s ago"}
    set_server_time("no date")
    assert ago(there - timedelta(minutes=5, seconds=30)).startswith("5 min")


def test_debugging_shows_the_traceback_before_the_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RVC_TRAIN_LOG_LEVEL", "debug")
    done = run_failing(ClientError("there is nothing"))
    assert "Traceback (most recent call last)" in done.stderr
    assert done.stderr.endswith("error: there is nothing\n")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (Range(low=1200, likely=2400, high=4800), "about 40 min (20 to 80)"),
        (Range(low=9000, likely=18_000, high=36_000), "about 5 h (2 to 10)"),
        (Range(low=0, likely=0, high=0), "0 s"),
        (Range(low=60, high=240), "1 to 4 min"),
        (None, "-"),
    ],
)
def test_a_time_is_one_number_with_its_margin(seconds, text):
    assert output.span(seconds) == text
