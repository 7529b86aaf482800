"""`rvc-engine inspect`, `extract`, `merge`, `hand-over` and `onnx`: tools for voices and checkpoints."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from rvc_engine.cli.errors import exit_on_error
from rvc_engine.config import SampleRate
from rvc_engine.errors import InvalidConfig
from rvc_engine.events import EXIT_FAILED, EXIT_USAGE
from rvc_engine.translation.programs import echo

Program = Literal["rvc", "applio"]
Voice = Annotated[Path, typer.Argument(help="A voice, <voice>.pth.", exists=True, dir_okay=False)]


def inspect(
    files: Annotated[list[Path], typer.Argument(help="Files to inspect: .pth, .pt or .index.")],
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON: a list with one object per file.")] = False,
    output: Annotated[Path | None, typer.Option(hidden=True, help="File for the JSON, for a server's check.")] = None,
) -> None:
    """Identify files (a voice, a G_/D_ checkpoint, base weights, an index) and list their faults.

    No code in the files is run. The exit code is 1 if any file has a fault.
    """
    from rvc_engine.voices.inspect import describe, inspect_file

    reports = []
    for path in files:
        try:
            reports.append(inspect_file(path))
        except OSError as error:
            echo(f"error: {path} cannot be read: {error.strerror}", err=True)
            raise typer.Exit(EXIT_USAGE) from error
        if not as_json and output is None:
            echo("\n".join(describe(reports[-1])))
    rows = [report.model_dump(mode="json", exclude_none=True) for report in reports]
    if output is not None:
        output.write_text(json.dumps(rows), encoding="utf-8")
    elif as_json:
        typer.echo(json.dumps(rows, indent=1, ensure_ascii=False))
    if any(report.faults for report in reports):
        raise typer.Exit(EXIT_FAILED)


def extract(
    checkpoint: Annotated[
        Path, typer.Argument(help="A G_ file of RVC, Applio or this engine, or a recovery checkpoint.", exists=True)
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The voice to write, <voice>.pth.")],
    name: Annotated[str | None, typer.Option(help="Name of the voice; by default the stem of the output file.")] = None,
    sample_rate: Annotated[
        SampleRate | None,
        typer.Option(help="Needed only for v1 without pitch, cut down, whose rate is not detected."),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(help="Content encoder used in training; by default as recorded in its folder."),
    ] = None,
) -> None:
    """Make a small voice file from a training checkpoint. Version, rate and pitch are detected from its tensors."""
    from rvc_engine.voices.extract import extract as extract_voice

    with exit_on_error(InvalidConfig):
        made = extract_voice(checkpoint, output, name or output.stem, sample_rate, encoder)
    note = "" if made.is_encoder_stated else " (assumed, as none is recorded; if it was another, give --encoder)"
    echo(f"{output}: epoch {made.epoch}, {made.identity}, content encoder {made.encoder}{note}")


def merge(
    first: Voice,
    second: Voice,
    output: Annotated[Path, typer.Option("-o", "--output", help="The voice to write, <voice>.pth.")],
    ratio: Annotated[float, typer.Option(help="Share of the first voice: 1 all of it, 0 the second alone.")] = 0.5,
    name: Annotated[str | None, typer.Option(help="Name of the voice; by default the stem of the output file.")] = None,
) -> None:
    """Mix two voices of the same version, rate, pitch and content encoder into one."""
    from rvc_engine.voices.merge import merge as merge_voices

    with exit_on_error(InvalidConfig):
        made = merge_voices(first, second, ratio, output, name or output.stem)
    dropped = (
        f"; {made.speakers_dropped} speakers that only one voice has are left out" if made.speakers_dropped else ""
    )
    echo(f"{output}: {made.info}{dropped}")


def reorder_optimizer(
    checkpoint: Annotated[Path, typer.Argument(help="A G_ file.", exists=True, dir_okay=False)],
    output: Annotated[Path, typer.Option("-o", "--output", help="The G_ file to write.")],
    to: Annotated[Program, typer.Option(help="The program that is to resume training from it.")] = "applio",
) -> None:
    """Put a G_ file's optimizer entries into the order of RVC or Applio. D_ files work in both unchanged."""
    from rvc_engine.voices.optimizer_order import reorder_optimizer as write_in_order

    with exit_on_error(InvalidConfig):
        write_in_order(checkpoint, output, to)
    echo(f"{output}: in the order of {to}")


def onnx(
    voice: Voice,
    output: Annotated[Path, typer.Option("-o", "--output", help="The file to write, .onnx.")],
) -> None:
    """Export a voice as ONNX, with the inputs of RVC's export, and compare it with PyTorch on two clips."""
    from rvc_engine.voices.onnx import export_onnx

    with exit_on_error(InvalidConfig):
        checks = export_onnx(voice, output)
    for check in checks:
        echo(f"{check.frames} frames: differs from PyTorch by at most {check.difference:.2e}")
    echo(f"{output}: {output.stat().st_size:,} bytes")
