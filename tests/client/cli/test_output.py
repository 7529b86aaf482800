"""What is printed is what was said."""

import pytest
import typer

from rvc_train.cli.output import Output, table
from rvc_train.cli.session import command


def test_names_in_a_table_and_in_a_line_are_shown_as_they_are(capsys):
    name = "a[/b] [red]x :cat:"
    rows = table("NAME")
    rows.add_row(name)
    output = Output(as_json=False)
    output.result({}, rows)
    output.note(name)
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()[1:]] == [name, name]


def test_a_file_that_cannot_be_read_is_told_in_a_sentence(capsys):
    def read(output):
        raise PermissionError(13, "Permission denied", "/root/voice.wav")

    with pytest.raises(typer.Exit) as ended:
        command(read)(json=False)
    assert (ended.value.exit_code, capsys.readouterr().err) == (1, "error: /root/voice.wav: Permission denied\n")


def test_a_reader_who_has_enough_is_no_error(capsys):
    def write(output):
        raise BrokenPipeError(32, "Broken pipe")

    with pytest.raises(BrokenPipeError):  # the program's outermost frame ends quietly by it
        command(write)(json=False)
    assert capsys.readouterr().err == ""
