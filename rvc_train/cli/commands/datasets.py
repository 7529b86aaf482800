"""`rvc-train dataset ...`: recordings on the server."""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import date
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from rvc_engine.audio.file_rules import MAX_SHOWN, LeftOut, left_out_text
from rvc_engine.audio.parts import parse_parts
from rvc_engine.environment.text_files import read_text
from rvc_engine.errors import InvalidDataset
from rvc_engine.names.code_pages import code_page
from rvc_engine.translation.messages import translated, translated_word
from rvc_train.cli.output import ago, duration, size, table
from rvc_train.cli.session import ApiCommand, Session
from rvc_train.cli.validation import validated
from rvc_train.errors import ApiError, ClientError, UsageError
from rvc_train.http.packing import UploadContents, dataset_name
from rvc_train.schemas.datasets import ConsentCreate, DatasetPublic, DatasetReport, DatasetStatus, RecordingPart

app = typer.Typer(no_args_is_help=True, help="Recordings on the server: upload, list, report, delete.")

POLL_SECONDS = 0.5
DatasetArgument = Annotated[str, typer.Argument(metavar="DATASET", help="Id, unique prefix of one, name, or `last`.")]


ConsentSpeaker = Annotated[
    str | None, typer.Option(metavar="NAME", help="The person who speaks, and agrees to the use of the recordings.")
]
ConsentStatement = Annotated[str | None, typer.Option(metavar="TEXT", help="What they agree to, in words.")]
ConsentDate = Annotated[
    str | None, typer.Option(metavar="DATE", help="Day on which they did, such as 2026-11-30. Default: today.")
]
ConsentFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Document that shows it, at most 10 MB, such as a signed form.")
]


@app.command(cls=ApiCommand)
def upload(
    session: Session,
    paths: Annotated[list[Path], typer.Argument(metavar="DIR|ZIP|FILES...", help="Recordings of one voice.")],
    name: Annotated[str | None, typer.Option(help="Name of the dataset. Default: the folder's or the file's.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Name every file that is left out.")] = False,
    zip_names: Annotated[
        str | None,
        typer.Option(
            metavar="CODE", help="Code page of names in zips, such as gbk, shift-jis, cp1251. Default: found."
        ),
    ] = None,
    consent_speaker: ConsentSpeaker = None,
    consent_statement: ConsentStatement = None,
    consent_date: ConsentDate = None,
    consent_file: ConsentFile = None,
) -> None:
    """Upload recordings: folders, zips, or audio files. Before that, name the files that are left out."""
    label = dataset_name(name, paths)
    if zip_names is not None:
        zip_names = _checked_code(zip_names)
    given = _consent(consent_speaker, consent_statement, consent_date, consent_file)
    with session.output.transfer_bar() as bar:
        task = bar.add_task(translated(f"uploading {label}"), total=None)
        dataset = session.client.upload_dataset(
            paths,
            label,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
            on_contents=partial(_check_contents, session, verbose),
            zip_names=zip_names,
            consent=given,
            consent_document=consent_file,
        )
    content = f"{size(dataset.size)} in {_files(dataset.num_files)}" if dataset.num_files else size(dataset.size)
    _show_made(session, dataset, content)


@app.command(cls=ApiCommand)
def fetch(
    session: Session,
    urls: Annotated[
        list[str],
        typer.Argument(
            metavar="URLS...",
            help="Addresses of zips or recordings (http, https), or hf://datasets/OWNER/NAME[@REVISION][/PATH].",
        ),
    ],
    name: Annotated[str, typer.Option(help="Name of the dataset.")],
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for the end of the download.")] = False,
    zip_names: Annotated[
        str | None,
        typer.Option(
            metavar="CODE", help="Code page of names in zips, such as gbk, shift-jis, cp1251. Default: found."
        ),
    ] = None,
    consent_speaker: ConsentSpeaker = None,
    consent_statement: ConsentStatement = None,
    consent_date: ConsentDate = None,
    consent_file: ConsentFile = None,
) -> None:
    """Have the server download recordings from addresses, as one dataset. Ctrl+C leaves the download running."""
    if zip_names is not None:
        zip_names = _checked_code(zip_names)
    given = _consent(consent_speaker, consent_statement, consent_date, consent_file)
    dataset = session.client.fetch_dataset(urls, name, zip_names, given, consent_file)
    if not detach:
        dataset = _downloaded(session, dataset)
    if dataset.status == DatasetStatus.INVALID:
        raise ClientError(f"{dataset.id}  {dataset.name}: {translated(dataset.reason or '')}")
    if dataset.fetch is not None:
        session.output.note(f"cancel it with: rvc-train dataset delete {dataset.id}")
    _show_made(session, dataset, f"{size(dataset.size)} in {_files(dataset.num_files)}" if dataset.num_files else "-")


def _downloaded(session: Session, dataset: DatasetPublic) -> DatasetPublic:
    """The dataset when its files are downloaded and unpacked, or it is invalid."""
    reason = None
    with session.output.transfer_bar() as bar:
        task = bar.add_task(translated(f"downloading {dataset.name}"), total=None)
        while dataset.status == DatasetStatus.INGESTING:
            if dataset.fetch is not None:
                bar.update(task, completed=dataset.fetch.received_bytes, total=dataset.fetch.total_bytes)
            if dataset.reason != reason and dataset.reason is not None:
                session.output.warning(dataset.reason)
            reason = dataset.reason
            time.sleep(POLL_SECONDS)
            dataset = session.client.dataset(dataset.id)
    return dataset


def _consent(
    speaker: str | None, statement: str | None, day: str | None, document: Path | None
) -> ConsentCreate | None:
    """The consent that the options describe; None without any. Raises UsageError."""
    if speaker is None and statement is None and day is None and document is None:
        return None
    if speaker is None or statement is None:
        raise UsageError("a consent needs --consent-speaker and --consent-statement: who agrees to what")
    if document is not None and not document.is_file():
        raise UsageError(f"--consent-file: there is no file {document}")
    fields = {"speaker": speaker, "statement": statement, "date": day or date.today().isoformat()}
    return validated(ConsentCreate, fields, {name: f"--consent-{name}" for name in fields})


@app.command(cls=ApiCommand)
def consent(
    session: Session,
    dataset: DatasetArgument,
    consent_speaker: ConsentSpeaker = None,
    consent_statement: ConsentStatement = None,
    consent_date: ConsentDate = None,
    consent_file: ConsentFile = None,
    document: Annotated[
        Path | None, typer.Option("--document", metavar="FILE", help="Write the present consent's document to FILE.")
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Delete the consent; not when a job used it.")] = False,
) -> None:
    """Show the consent of a dataset's speaker, or record it in place of the one before."""
    found = session.client.find_dataset(dataset)
    wanted = _consent(consent_speaker, consent_statement, consent_date, consent_file)
    if [wanted is None, document is None, not remove].count(False) > 1:
        raise UsageError("record a consent, write its document, or remove it: one at a time")
    if remove:
        session.client.delete_consent(found.id)
    elif document is not None:
        document.write_bytes(session.client.consent_document(found.id))
    elif wanted is not None:
        found = session.client.set_consent(found.id, wanted, consent_file)
    found = session.client.dataset(found.id)
    session.output.result(found, f"{found.id}  {found.name}\n{_consent_text(found)}")


def _consent_text(dataset: DatasetPublic) -> str:
    given = dataset.consent
    if given is None:
        return "consent   none; record it with: rvc-train dataset consent"
    document = f", document {given.document.name}" if given.document else ""
    return f"consent   {given.speaker}, {given.date}{document}: {' '.join(given.statement.split())}"


def _show_made(session: Session, dataset: DatasetPublic, content: str) -> None:
    text = f"{dataset.id}  {dataset.name}  {content}, {dataset.status}"
    notes = "".join(f"\nnote: {note}" for note in dataset.notes)
    session.output.result(dataset, f"{text}{notes}\nmake a voice with: rvc-train submit {dataset.id} --name VOICE")


def _checked_code(code: str) -> str:
    try:
        return code_page(code).code
    except ValueError as error:
        raise UsageError(f"--zip-names: {error}") from error


def _check_contents(session: Session, verbose: bool, contents: UploadContents) -> None:
    """Name what is left out. Raises UsageError for more recordings than the server takes."""
    others = contents.left_out
    for note in contents.notes:
        session.output.warning(note)
    if verbose:
        for other in others:
            session.output.warning(f"left out: {left_out_text([other])}")
    elif others:
        more = "; --verbose names all" if len(others) > MAX_SHOWN else ""
        session.output.warning(f"left out: {left_out_text(others)}{more}")
    with suppress(ApiError):  # the server checks again
        number, most = len(contents.members), session.client.system().limits.max_files
        if number > most:
            raise UsageError(
                f"{number} recordings are more than the {most} that the server takes at once (RVC_TRAIN_MAX_FILES): "
                "join short recordings to longer ones, or upload them as several datasets"
            )


@app.command("list", cls=ApiCommand)
def list_datasets(
    session: Session,
    owner: Annotated[str | None, typer.Option(help="Only datasets of this owner; for administrators.")] = None,
) -> None:
    """List datasets, newest first."""
    datasets = list(session.client.datasets(owner=owner))
    rows = table("ID", "NAME", "STATUS", "FILES", "SPEECH", "SIZE", "UPLOADED")
    for dataset in datasets:
        usable = dataset.num_files if dataset.num_usable is None else dataset.num_usable
        rows.add_row(
            dataset.id,
            dataset.name,
            translated_word("status", dataset.status),
            str(usable),
            duration(dataset.seconds),
            size(dataset.size),
            ago(dataset.created_at),
        )
    session.output.result(
        datasets, rows if datasets else "no datasets yet; upload one with: rvc-train dataset upload DIR"
    )


@app.command(cls=ApiCommand)
def show(session: Session, dataset: DatasetArgument) -> None:
    """Show one dataset: its status, and how much of it training will use."""
    found = session.client.find_dataset(dataset)
    is_examined = found.status in {DatasetStatus.READY, DatasetStatus.INVALID}
    report = session.client.dataset_report(found.id) if is_examined else None
    session.output.result(found, _described(found, report))


@app.command(cls=ApiCommand)
def report(session: Session, dataset: DatasetArgument) -> None:
    """Show the report on the recordings, file by file."""
    found = session.client.dataset_report(session.client.find_dataset(dataset).id)
    rows = table("FILE", "LENGTH", "USED", "RATE", "CHANNELS", "CODEC", "OVER NOISE", "NOT USED", "FAULT")
    for file in found.files:
        rows.add_row(
            file.name,
            duration(file.seconds),
            duration(file.kept_seconds),
            str(file.sample_rate or "-"),
            str(file.channels or "-"),
            file.codec or "-",
            _decibels(file.snr_db),
            _dropped(file.dropped_seconds) or "-",
            translated(file.error or "; ".join([*file.notes, *file.remarks])),
        )
    session.output.result(found, rows)
    for other in found.left_out:
        session.output.note(f"left out: {left_out_text([LeftOut(other.name, other.reason)])}")
    summary = "usable" if found.usable else f"not usable: {found.reason}"
    session.output.note(f"{found.num_usable} of {_files(found.num_files)}, {duration(found.seconds)}; {summary}")
    for line in _statistics(found):
        session.output.note(line)
    for finding in found.findings:
        session.output.note(
            f"{translated_word('severity', finding.severity)}: {finding.message}\n  -> {finding.advice}"
        )
    if not found.findings:  # a report of an older version
        for text in found.warnings:
            session.output.note(f"warning: {text}")


@app.command(cls=ApiCommand)
def without(
    session: Session,
    dataset: DatasetArgument,
    files: Annotated[
        list[str] | None, typer.Argument(metavar="FILES...", help="Names of recordings, as in the report.")
    ] = None,
    part: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE:FROM-TO", help="Part of a recording, in seconds, such as a.wav:83.5-86. Repeatable."
        ),
    ] = None,
    parts: Annotated[
        Path | None,
        typer.Option(metavar="LIST", help="Text file with a part in each line: start, end, and the recording's name."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the new dataset. Default: the same.")] = None,
) -> None:
    """Make a dataset without some recordings of another one, or without parts of them; the files are shared."""
    if not (files or part or parts):
        raise UsageError("name the recordings to leave out, or parts of them with --part or --parts")
    found = session.client.find_dataset(dataset)
    left_out = _parts(session.client.dataset_report(found.id), part or [], parts) if part or parts else []
    made = session.client.derive_dataset(found.id, files or [], name, left_out)
    _show_made(session, made, _files(made.num_files))


def _part_line(option: str) -> str:
    """A part as the file of parts has it. Raises UsageError."""
    name, _, times = option.rpartition(":")
    start, _, end = times.partition("-")
    if not (name and start and end):
        raise UsageError(f"--part: {option!r} is not FILE:FROM-TO, such as a.wav:83.5-86")
    return f"{start}\t{end}\t{name}"


def _parts(report: DatasetReport, options: Sequence[str], listed: Path | None) -> list[RecordingPart]:
    """The parts that options and a file name. Raises UsageError."""
    lines = [_part_line(option) for option in options]
    names = [file.name for file in report.files]
    try:
        text = "" if listed is None else read_text(listed)
        found = [parse_parts(each, names) for each in ("\n".join(lines), text)]
    except OSError as error:
        raise UsageError(f"--parts: {listed} cannot be read: {error.strerror}") from error
    except InvalidDataset as error:
        raise UsageError(str(error)) from error
    return [
        validated(RecordingPart, {"recording": names.index(name) + 1, "from_seconds": start, "to_seconds": end})
        for by_name in found
        for name, parts in by_name.items()
        for start, end in parts
    ]


@app.command(cls=ApiCommand)
def delete(session: Session, dataset: DatasetArgument) -> None:
    """Delete a dataset and everything derived from it; not while a job needs it."""
    found = session.client.find_dataset(dataset)
    session.client.delete_dataset(found.id)
    session.output.result({"deleted": found.id}, f"deleted {found.id} ({found.name})")


def _statistics(found: DatasetReport) -> list[str]:
    """Measurements over all files, one line each, without unknown ones."""
    rates = ", ".join(f"{int(rate) / 1000:g} kHz ({duration(seconds)})" for rate, seconds in found.sample_rates.items())
    silence = "" if found.silence_share is None else f", {100 * found.silence_share:.0f} % silence"
    lines = [
        f"speech        {duration(found.speech_seconds)}{silence}",
        "" if found.kept_seconds is None else f"used          {duration(found.kept_seconds)}",
        f"not used      {dropped}" if (dropped := _dropped(found.dropped_seconds)) else "",
        f"sample rates  {rates}" if rates else "",
        "" if found.bandwidth_hz is None else f"bandwidth     up to {found.bandwidth_hz / 1000:.1f} kHz",
        ""
        if found.snr_db is None
        else f"over noise    {_decibels(found.snr_db)}, noise at {_decibels(found.noise_db)}",
        "" if found.clipped_share is None else f"clipped       {100 * found.clipped_share:.2f} % of the samples",
        ""
        if found.reverberation_seconds is None
        else f"room          fades by 60 dB in about {found.reverberation_seconds:.1f} s",
    ]
    return [line for line in lines if line]


def _dropped(seconds: Mapping[str, float]) -> str:
    """Time that is dropped, such as "12.3 s silent, 0.3 s too short"; without what rounds to 0.0 s."""
    shown = {reason.replace("_", " "): number for reason, number in seconds.items() if number >= 0.05}
    return ", ".join(f"{number:.1f} s {translated(reason)}" for reason, number in shown.items())


def _decibels(level: float | None) -> str:
    return "-" if level is None else f"{level:.0f} dB"


def _files(number: int) -> str:
    return f"{number} file" if number == 1 else f"{number} files"


def _described(dataset: DatasetPublic, report: DatasetReport | None) -> str:
    reason = f": {translated(dataset.reason)}" if dataset.reason else ""
    use = [] if report is None or report.kept_seconds is None else [f"used      {duration(report.kept_seconds)}"]
    if report is not None and (dropped := _dropped(report.dropped_seconds)):
        use.append(f"not used  {dropped}")
    lines = [
        f"{dataset.id}  {dataset.name}",
        f"status    {translated_word('status', dataset.status)}{reason}",
        f"speech    {duration(dataset.seconds)} in {_files(dataset.num_files)}",
        *use,
        f"size      {size(dataset.size)}",
        f"sha256    {dataset.sha256}",
        *([_consent_text(dataset)] if dataset.consent else []),
        *(f"note      {note}" for note in dataset.notes),
    ]
    return "\n".join(lines)
