"""`rvc-engine convert`: convert a recording to a voice; and the program that a worker converts with."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from rvc_engine.cli.errors import exit_on_error
from rvc_engine.config import PitchEstimator
from rvc_engine.errors import InvalidConfig
from rvc_engine.machine import Machine, default_weights_folder
from rvc_engine.translation.messages import translated_word
from rvc_engine.translation.programs import echo


# Long because of its list of options.
def convert(
    source: Annotated[Path, typer.Argument(help="Recording to convert, in any audio format.")],
    output: Annotated[Path, typer.Argument(help="File to write: .wav, .flac, .mp3 or .opus.")],
    voice: Annotated[Path, typer.Option(help="The voice to convert to, <voice>.pth, or a G_ file of its training.")],
    index: Annotated[Path | None, typer.Option(help="The voice's index, <voice>.index.")] = None,
    key: Annotated[
        str,
        typer.Option(help="Semitones to raise the pitch by, 12 from a man to a woman; auto: to the voice's own pitch."),
    ] = "0",
    index_rate: Annotated[float, typer.Option(help="Share of the index's features in the mix, 0 to 1.")] = 0.75,
    protect: Annotated[float, typer.Option(help="Protection of breath and consonants: 0 most, 0.5 none.")] = 0.33,
    rms_mix_rate: Annotated[float, typer.Option(help="Loudness: 0 the recording's, 1 the voice's own.")] = 0.25,
    pitch: Annotated[PitchEstimator, typer.Option(help="Estimator of the pitch curve.")] = "swift",
    speaker: Annotated[str, typer.Option(help="Number or name of the speaker, for a voice with several.")] = "",
    seed: Annotated[int, typer.Option(help="Seed of the noise that the model generates from.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, mps, cuda:<n> or xpu:<n>.")] = "auto",
    weights: Annotated[Path | None, typer.Option(help="Folder of published weights.")] = None,
    content_folder: Annotated[
        Path | None, typer.Option(help="Folder of the HuBERT that the voice was trained with, if it is your own.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; all cores by default.")] = None,
) -> None:
    """Convert a recording to a voice of RVC, Applio or this engine, with the content encoder named in the voice."""
    from rvc_engine.compute.device import open_device
    from rvc_engine.conversion.converter import Analysis, ConversionOptions, Converter, convert_file

    machine = Machine(device, threads, weights or default_weights_folder(), content_folder=content_folder)
    with exit_on_error(), Progress(console=Console(stderr=True), transient=True) as bars:
        converter = Converter(voice, index, Analysis(machine, open_device(machine)))
        number = converter.find_speaker(speaker)
        options = ConversionOptions(_semitones(key), index_rate, protect, rms_mix_rate, pitch, number, seed)
        task = bars.add_task(translated_word("progress", "converting"), total=1.0)
        seconds = convert_file(source, output, converter, options, lambda share: bars.update(task, completed=share))
    echo(f"{output}: {seconds:.1f} s at {converter.sample_rate} Hz")


def _semitones(key: str) -> float | None:
    """The semitones of `--key`; None for auto."""
    if key == "auto":
        return None
    try:
        return float(key)
    except ValueError:
        raise InvalidConfig(f"--key takes semitones, such as 12, or auto, not {key!r}") from None


def serve_conversions(
    device: Annotated[str, typer.Option(help="auto, cpu, mps, cuda:<n> or xpu:<n>.")] = "auto",
    weights: Annotated[Path | None, typer.Option(help="Folder of published weights.")] = None,
    content_folder: Annotated[
        Path | None, typer.Option(help="Folder of the HuBERT that the voice was trained with, if it is your own.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; all cores by default.")] = None,
    memory: Annotated[int | None, typer.Option(min=1, help="Most bytes of a GPU's memory to take.")] = None,
) -> None:
    """Convert what is asked for on standard input until it ends, as JSON lines; voices stay loaded between requests.

    The lines are described in `rvc_engine/conversion/messages.py`. The program runs at a low priority.
    """
    from rvc_engine.compute.device import open_device
    from rvc_engine.conversion.serving import serve

    machine = Machine(device, threads, weights or default_weights_folder(), content_folder=content_folder)
    with exit_on_error():
        serve(machine, open_device(machine), memory)
