"""Text and errors are printed as they are."""

import json

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
