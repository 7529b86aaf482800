"""`rvc-train voices`: list, show, set, delete; share, links, unshare; export, import."""

from typing import Annotated, Any

import typer

from rvc_engine.translation.messages import translated, translated_word
from rvc_train.cli.commands.jobs import labels_of
from rvc_train.cli.commands.voices import bundles, links
from rvc_train.cli.output import ago, size, table
from rvc_train.cli.session import ApiCommand, Session
from rvc_train.errors import UsageError
from rvc_train.schemas.voices.voices import VoicePublic, VoiceVersionPublic

app = typer.Typer(no_args_is_help=True, help="Voices: versions, links for others, moving to another server.")
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name of the voice.")]
links.add_to(app)
bundles.add_to(app)


@app.command("list", cls=ApiCommand)
def list_voices(
    session: Session,
    search: Annotated[str | None, typer.Option(metavar="TEXT", help="Only voices whose name contains this.")] = None,
    label: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Only with this label.")] = None,
) -> None:
    """List voices, those with the newest jobs first."""
    found = list(session.client.voices.list(search=search, labels=labels_of(label or [])))
    rows = table("NAME", "VERSIONS", "CURRENT", "NEWEST", "SIZE", "CHANGED")
    for voice in found:
        newest = f"{voice.newest.version} {translated_word('status', voice.newest.status)}"
        current = "-" if voice.current is None else str(voice.current.version)
        numbers = (str(voice.num_versions), current, newest)
        rows.add_row(voice.name, *numbers, size(voice.disk_bytes), ago(voice.updated_at))
    session.output.result(found, rows if found else "no voices; make one with: rvc-train submit DATASET --name NAME")


@app.command(cls=ApiCommand)
def show(session: Session, name: NameArgument) -> None:
    """Show a voice: its versions, the current one, notes and labels."""
    voice = session.client.voices.get(name)
    versions = list(session.client.voices.versions(name))
    if session.output.as_json:
        whole = [version.model_dump(mode="json") for version in versions]
        session.output.json(voice.model_dump(mode="json") | {"versions": whole})
        return
    rows = table("VERSION", "STATUS", "MEL", "SIZE", "SUBMITTED", "", "ID")
    for version in versions:
        rows.add_row(
            str(version.version),
            translated_word("status", version.status),
            _score(version),
            size(version.disk_bytes),
            ago(version.created_at),
            translated_word("mark", "current") if version.is_current else "",
            version.job_id,
        )
    session.output.console.print(rows)
    session.output.note(_reason(voice))
    for line in (voice.notes, "  ".join(f"{key}={value}" for key, value in voice.labels.items())):
        if line:
            session.output.console.print(line)


def _score(version: VoiceVersionPublic) -> str:
    score = None if version.best_save is None else version.best_save.scores.get("eval/mel")
    return "-" if score is None else f"{score:.2f}"


def _reason(voice: VoicePublic) -> str:
    if voice.current is None:
        return "no version has succeeded yet"
    number = voice.current.version
    if voice.current_reason == "set":
        return f"the current version is {number}, as you chose"
    if voice.current_reason == "best":
        return f"the current version is {number}, the best on the same recordings"
    return f"the current version is {number}, the newest"


@app.command("set", cls=ApiCommand)
def set_voice(
    session: Session,
    name: NameArgument,
    current: Annotated[
        str | None, typer.Option(metavar="VERSION", help="Number or job of the current version; `best`: by evaluation.")
    ] = None,
    notes: Annotated[str | None, typer.Option(metavar="TEXT", help="Text about the voice; empty: none.")] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Label of the voice; KEY= removes it; repeatable.")
    ] = None,
) -> None:
    """Set the current version, notes or labels of a voice."""
    changes: dict[str, Any] = {}
    if notes is not None:
        changes["notes"] = notes
    if label:
        changes["labels"] = {key: value or None for key, value in labels_of(label).items()}
    if current is not None:
        changes["current"] = None if current == "best" else version_of(session, name, current).job_id
    if not changes:
        raise UsageError("give --current, --notes or --label")
    voice = session.client.voices.update(name, changes)
    session.output.result(voice, _reason(voice))


@app.command(cls=ApiCommand)
def delete(
    session: Session,
    name: NameArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Delete without asking.")] = False,
) -> None:
    """Delete a voice: all of its jobs with their files, and its links."""
    voice = session.client.voices.get(name)
    if not yes:
        question = f"Delete {voice.name} with {voice.num_versions} versions ({size(voice.disk_bytes)})?"
        typer.confirm(translated(question), abort=True, err=True)
    session.client.voices.delete(name)
    session.output.result({"deleted": voice.name}, f"deleted the voice {voice.name}")


def version_of(session: Session, name: str, wanted: str) -> VoiceVersionPublic:
    """The version with a number, or a job's id or a unique prefix of one. Raises UsageError."""
    versions = list(session.client.voices.versions(name))
    bare = wanted.removeprefix("job_")
    found = [each for each in versions if str(each.version) == wanted]
    found = found or [each for each in versions if bare and each.job_id.removeprefix("job_").startswith(bare)]
    if len(found) != 1:
        numbers = ", ".join(str(each.version) for each in versions)
        raise UsageError(f"the voice {name} has no version {wanted!r}; it has {numbers}")
    return found[0]
