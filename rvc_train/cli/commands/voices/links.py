"""`rvc-train voices share`, `links`, `unshare`: links with which others listen to a voice."""

import re
from typing import Annotated

import typer

from rvc_engine.translation.messages import translated_word
from rvc_train.cli.output import ago, table
from rvc_train.cli.session import ApiCommand, Session
from rvc_train.errors import UsageError
from rvc_train.schemas.voices.links import VoiceLinkCreate

_SPAN = re.compile(r"([0-9]{1,6})(m|h|d)")
_SECONDS = {"m": 60, "h": 3600, "d": 86_400}
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name of the voice.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command("share", cls=ApiCommand)(share)
    app.command("links", cls=ApiCommand)(links)
    app.command("unshare", cls=ApiCommand)(unshare)


def share(
    session: Session,
    name: NameArgument,
    expires: Annotated[
        str, typer.Option(metavar="TIME", help="Time until the link ends: 30m, 12h, 7d; at most 365d.")
    ] = "7d",
    job: Annotated[
        str | None, typer.Option(metavar="JOB", help="Only this version, by its job's id. Default: the current one.")
    ] = None,
    listen_only: Annotated[bool, typer.Option("--listen-only", help="Without the voice's files.")] = False,
    note: Annotated[str, typer.Option(metavar="TEXT", help="What the link is for; only you see it.")] = "",
) -> None:
    """Make a link, with which anyone can listen to a voice, and download it, without a token."""
    job_id = None if job is None else session.client.find_job(job).id
    wanted = VoiceLinkCreate(expires_in_seconds=_seconds(expires), job_id=job_id, downloads=not listen_only, note=note)
    made = session.client.voices.share(name, wanted)
    session.output.result(made, made.url)
    session.output.note(f"it is shown only now; end it with: rvc-train voices unshare {name} {made.id}")


def links(session: Session, name: NameArgument) -> None:
    """List the links of a voice, without their secrets."""
    found = list(session.client.voices.links(name))
    rows = table("BEGINS", "FOR", "ENDS", "USES", "LAST USED", "ID")
    for link in found:
        end = translated_word("state", "ended") if link.has_ended else f"{link.expires_at:%Y-%m-%d %H:%M} UTC"
        used = "-" if link.last_used_at is None else ago(link.last_used_at)
        rows.add_row(link.begins, link.note, end, str(link.num_uses), used, link.id)
    session.output.result(found, rows if found else f"no links; make one with: rvc-train voices share {name}")


def unshare(
    session: Session, name: NameArgument, link: Annotated[str, typer.Argument(metavar="LINK", help="Id of the link.")]
) -> None:
    """Delete a link: its address ends at once."""
    session.client.voices.unshare(name, link)
    session.output.result({"deleted": link}, f"deleted {link}")


def _seconds(text: str) -> int:
    found = _SPAN.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"{text!r} is not a time; give one such as 30m, 12h or 7d")
    return int(found[1]) * _SECONDS[found[2]]
