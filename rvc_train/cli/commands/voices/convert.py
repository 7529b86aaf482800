"""`rvc-train convert`: convert recordings with a voice that was trained on the server."""

from collections.abc import Sequence
from pathlib import Path, PurePath, PurePosixPath
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from rvc_engine.audio.recordings import Recording, list_folder
from rvc_engine.config import PitchEstimator
from rvc_engine.names.paths import free_path
from rvc_engine.translation.messages import translated_word
from rvc_train.cli import exit_codes
from rvc_train.cli.session import ApiCommand, Session
from rvc_train.cli.validation import validated
from rvc_train.errors import UsageError
from rvc_train.schemas.voices.conversions import (
    MAX_CONVERSION_FILES,
    AudioFormat,
    ConversionOptions,
    ConversionPublic,
    ConversionStatus,
    Save,
)

_FORMATS = {".wav", ".flac", ".mp3", ".opus"}


def add_to(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("convert", cls=ApiCommand)(convert)


# Long because of its list of options.
def convert(
    session: Session,
    source: Annotated[Path, typer.Argument(metavar="IN", help="Recording, in any audio format, or a folder of them.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="File to write; for a folder, a folder.")],
    voice: Annotated[str, typer.Option(metavar="NAME", help="The voice.")],
    job: Annotated[
        str | None, typer.Option(metavar="JOB", help="The job that trained it. Default: the voice's current version.")
    ] = None,
    save: Annotated[
        str | None,
        typer.Option(help="A save of that job, also while it trains: best, latest, or the number in G_<number>.pth."),
    ] = None,
    pitch_shift: Annotated[
        str | None, typer.Option(help="Semitones to raise the pitch by: 12 from a man to a woman; auto: by the voice.")
    ] = None,
    pitch: Annotated[PitchEstimator | None, typer.Option(help="Estimator of the pitch curve.")] = None,
    index_rate: Annotated[float | None, typer.Option(help="Share of the index's features in the mix, 0 to 1.")] = None,
    protect: Annotated[
        float | None, typer.Option(help="Protection of breath and consonants: 0 most, 0.5 none.")
    ] = None,
    rms_mix_rate: Annotated[float | None, typer.Option(help="Loudness: 0 the recording's, 1 the voice's own.")] = None,
    audio_format: Annotated[
        AudioFormat | None, typer.Option("--format", help="Format of the results. Default: by the name of OUT, or wav.")
    ] = None,
    speaker: Annotated[
        str | None, typer.Option(help="Number or name of the speaker, for a voice with several.")
    ] = None,
) -> None:
    """Convert recordings with a voice, on the server's worker, beside a training that runs there."""
    found = None if job is None else session.client.find_job(job)
    fields: dict[str, Any] = {
        "pitch_shift": _semitones(pitch_shift),
        "pitch": pitch,
        "index_rate": index_rate,
        "protect": protect,
    }
    fields |= {"rms_mix_rate": rms_mix_rate, "format": audio_format or _format_of(source, output), "speaker": speaker}
    set_fields = {name: value for name, value in fields.items() if value is not None}
    options = validated(ConversionOptions, set_fields)
    recordings = _recordings(source)
    more = {"job_id": None if found is None else found.id, "save": _save(save)}
    conversions: list[ConversionPublic] = []
    failures: list[str] = []
    taken: set[str] = set()
    for start in range(0, len(recordings), MAX_CONVERSION_FILES):
        part = recordings[start : start + MAX_CONVERSION_FILES]
        conversion = _converted(session, voice, part, options, more)
        conversions.append(conversion)
        failures += _fetch(session, conversion, part, source, output, taken)
    num_converted = sum(result.error is None for each in conversions for result in each.results)
    text = f"{num_converted} of {len(recordings)} converted: {output}"
    session.output.result(conversions if source.is_dir() else conversions[0], text)
    for failure in failures:
        session.output.error(failure)
    if failures:
        raise typer.Exit(exit_codes.JOB_FAILED)


def _semitones(text: str | None) -> float | str | None:
    if text is None or text == "auto":
        return text
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"--pitch-shift: {text!r} is neither auto nor a number of semitones, such as 12") from None


def _save(text: str | None) -> Save | None:
    if text is None or text.isdecimal():
        return None if text is None else int(text)
    if text == "best":
        return "best"
    if text == "latest":
        return "latest"
    raise UsageError(f"--save: {text!r} is none of best, latest and the number of a save")


def _format_of(source: Path, output: Path) -> str | None:
    """The format in the name of a single result."""
    suffix = output.suffix.lower()
    if source.is_dir() or output.is_dir() or not suffix:
        return None
    if suffix not in _FORMATS:
        raise UsageError(f"{output} ends with {suffix}; results can be {', '.join(sorted(_FORMATS))}, or give --format")
    return suffix[1:]


def _recordings(source: Path) -> list[Recording]:
    if source.is_file():
        return [Recording(source, source.name)]
    if not source.is_dir():
        raise UsageError(f"there is no file or folder {source}")
    found = list_folder(source).recordings
    if not found:
        raise UsageError(f"{source} has no recordings")
    return found


def _converted(
    session: Session, voice: str, recordings: Sequence[Recording], options: ConversionOptions, more: dict[str, Any]
) -> ConversionPublic:
    """Send recordings and wait for the end of their conversion. A conversion is cancelled by Ctrl-C."""
    client, paths = session.client, [recording.path for recording in recordings]
    with session.output.transfer_bar() as bar:
        task = bar.add_task(translated_word("progress", "sending"), total=None)
        conversion = client.conversions.submit(
            voice, paths, options, progress=lambda done, total: bar.update(task, completed=done, total=total), **more
        )
    if conversion.waiting_for:
        session.output.note(conversion.waiting_for)
    try:
        _follow(session, conversion.id)
    except KeyboardInterrupt:
        client.conversions.cancel(conversion.id)
        raise
    ended = client.conversions.get(conversion.id)
    if ended.status == ConversionStatus.SUCCEEDED and ended.device_reason:
        session.output.note(f"{ended.device}: {ended.device_reason}")
    return ended


def _follow(session: Session, conversion_id: str) -> None:
    output = session.output
    is_hidden = output.as_json or not output.errors.is_terminal
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, console=output.errors, disable=is_hidden, transient=True) as bar:
        task = bar.add_task(translated_word("progress", "converting"), total=1.0)
        for event in session.client.conversions.follow(conversion_id, output.warning):
            if event.progress is not None:
                bar.update(task, completed=event.progress)


def _fetch(
    session: Session,
    conversion: ConversionPublic,
    recordings: Sequence[Recording],
    source: Path,
    output: Path,
    taken: set[str],
) -> list[str]:
    """Download the results; returns a sentence for each recording without one. `taken`: names of earlier results."""
    if conversion.status == ConversionStatus.CANCELLED:
        session.output.error("the conversion was cancelled")
        raise typer.Exit(exit_codes.JOB_CANCELLED)
    if conversion.error is not None and not conversion.results:
        return [conversion.error.message]
    failures: list[str] = []
    for recording, result in zip(recordings, conversion.results, strict=True):
        if result.error is not None:
            failures.append(f"{recording.name}: {result.error}")
            continue
        path = output
        if source.is_dir():
            name = free_path(str(PurePosixPath(recording.name).with_suffix(PurePath(result.name).suffix)), taken)
            taken.add(name)
            path = output / name
        elif output.is_dir():
            path = output / PurePath(result.name).name
        session.client.conversions.download(conversion.id, result, path)
    return failures
