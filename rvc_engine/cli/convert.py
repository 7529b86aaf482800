"""`rvc-engine convert`: an audio file in a voice."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from rvc_engine.config import PitchEstimator
from rvc_engine.errors import EngineError
from rvc_engine.events import EXIT_FAILED
from rvc_engine.machine import Machine, default_weights_folder


def convert(
    source: Annotated[Path, typer.Argument(help="Recording to convert, in any audio format.")],
    output: Annotated[Path, typer.Argument(help="File to write, .wav or .flac.")],
    voice: Annotated[Path, typer.Option(help="The voice, <voice>.pth.")],
    index: Annotated[Path | None, typer.Option(help="The voice's index, <voice>.index.")] = None,
    key: Annotated[float, typer.Option(help="Semitones to raise the pitch by: 12 from a man to a woman.")] = 0.0,
    index_rate: Annotated[float, typer.Option(help="Share of the voice's own features, 0 to 1.")] = 0.75,
    protect: Annotated[float, typer.Option(help="Protection of breath and consonants: 0 most, 0.5 none.")] = 0.33,
    rms_mix_rate: Annotated[float, typer.Option(help="Loudness: 0 the recording's, 1 the voice's own.")] = 0.25,
    pitch: Annotated[PitchEstimator, typer.Option(help="Estimator of the pitch curve.")] = "swift",
    speaker: Annotated[str, typer.Option(help="Number or name of the speaker, for a voice of several.")] = "",
    seed: Annotated[int, typer.Option(help="Seed of the noise that the nets speak from.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, or cuda:<number>.")] = "auto",
    weights: Annotated[Path | None, typer.Option(help="Folder of published weights.")] = None,
    content_folder: Annotated[
        Path | None, typer.Option(help="The HuBERT that the voice was trained with, where it is one of your own.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; all cores when left out.")] = None,
) -> None:
    """Say what a recording says in a voice of RVC, Applio or this engine, with the encoder that the voice names."""
    from rvc_engine.compute.device import open_device
    from rvc_engine.conversion.converter import ConversionOptions, Converter, convert_file

    machine = Machine(device, threads, weights or default_weights_folder(), content_folder=content_folder)
    try:
        converter = Converter(voice, index, machine, open_device(machine))
        number = converter.find_speaker(speaker)
        options = ConversionOptions(key, index_rate, protect, rms_mix_rate, pitch, number, seed)
        with Progress(console=Console(stderr=True), transient=True) as bars:
            task = bars.add_task("converting", total=1.0)
            seconds = convert_file(source, output, converter, options, lambda share: bars.update(task, completed=share))
    except EngineError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(EXIT_FAILED) from error
    typer.echo(f"{output}: {seconds:.1f} s at {converter.sample_rate} Hz")
