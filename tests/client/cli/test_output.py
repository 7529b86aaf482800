"""Text and errors are printed as they are."""

import json
import os
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner, Result

from rvc_train.cli.output import Output, table
from rvc_train.cli.session import CommandContext, OutputCommand


def test_names_in_a_table_and_in_a_line_are_shown_as_they_are(capsys):
    name = "a[/b] [red]x :cat:"
    rows = table("NAME")
    rows.add_row(name)
    output = Output(as_json=False)
    output.result({}, rows)
    output.note(name)
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()[1:]] == [name, name]


def run_failing(error: OSError, *arguments: str) -> Result:
    """Run a command that raises an error."""
    app = typer.Typer()

    @app.command(cls=OutputCommand)
    def fail(context: CommandContext) -> None:
        raise error

    return CliRunner().invoke(app, arguments)


def test_a_file_that_cannot_be_read_is_an_error_in_one_sentence():
    error = PermissionError(13, "Permission denied", "/root/voice.wav")
    done = run_failing(error)
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", "error: /root/voice.wav: Permission denied\n")
    done = run_failing(error, "--json")
    assert json.loads(done.stdout) == {"error": "/root/voice.wav: Permission denied", "exit_code": 1}


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
