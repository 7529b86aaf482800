"""`python -m server.admin`, or `rvc-train admin`: what the server's administrator does on its machine, past HTTP.

The settings are those of the server: environment variables with the prefix `RVC_TRAIN_`.
"""

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import sqlalchemy as sa
import structlog
import typer
from pydantic import ValidationError

from rvc_train.schemas.access import Scope, TokenCreate, TokenPublic
from server.admin.backup import back_up
from server.admin.doctor import run_checks
from server.admin.retention import Retention
from server.auth.principal import LOCAL_ADMINISTRATOR, current_principal
from server.auth.tokens import TokenService
from server.database.clock import utc_now
from server.database.engine import create_engine, migrate, present_version
from server.errors import ServerError
from server.jobs.service import JobService
from server.settings import ServerSettings
from server.storage.instances import Pairing, adopt, check_pairing, inspect_pairing
from server.storage.local import Storage
from server.storage.orphans import Orphans
from server.storage.permissions import UMASK

app = typer.Typer(
    name="rvc-train admin",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="For the server's administrator, on its machine. Settings are the server's: RVC_TRAIN_DATA_FOLDER and so on.",
)

tokens = typer.Typer(no_args_is_help=True, help="Tokens, past HTTP: for an administrator who has none.")
app.add_typer(tokens, name="token")

AsJson = Annotated[bool, typer.Option("--json", help="Write JSON to standard output.")]
MARKS = {"ok": "ok   ", "note": "note ", "fault": "FAULT"}


@app.command("migrate")
def migrate_command() -> None:
    """Bring the database to this program's schema. The server does so itself when it starts."""
    with _opened(may_migrate=True) as (_settings, engine):
        before = present_version(engine)
        migrate(engine)
        typer.echo(f"schema {before or 'none'} -> {present_version(engine)}")


@app.command()
def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be deleted.")] = False,
    as_json: AsJson = False,
) -> None:
    """Carry the retention policy out now, move what belongs to nobody to the trash, and empty that of what is old."""
    with _opened() as (settings, engine):
        storage = Storage(settings.data_folder)
        retention = Retention(JobService(engine), storage)
        orphans = Orphans(engine, storage, settings.trash_days, settings.report_timeout_seconds)
        plan = retention.plan() if dry_run else retention.apply()
        answer = plan.model_dump(mode="json") | {
            "orphans": [
                {"name": f"{each.kind}/{each.path.name}", "size": each.size, "is_due": each.is_due}
                for each in orphans.find()
            ],
            "overdue_trash": [str(each.path.relative_to(storage.root)) for each in orphans.overdue()],
        }
        if not dry_run:
            orphans.collect()
        if as_json:
            typer.echo(json.dumps(answer, indent=1))
        else:
            _print_gc(answer, "would be" if dry_run else "were")


def _print_gc(answer: dict[str, Any], verb: str) -> None:
    for each in answer["removals"]:
        typer.echo(f"{each['kind']}  {each['id']}  {each['name']}  {each['size'] / 1e6:.1f} MB  {each['why']}")
    for each in answer["orphans"]:
        fate = f"{verb} moved to the trash" if each["is_due"] else "left alone: it changed within the last hour"
        typer.echo(f"orphan  {each['name']}  {each['size'] / 1e6:.1f} MB  belongs to nobody; {fate}")
    for name in answer["overdue_trash"]:
        typer.echo(f"trash  {name}  {verb} deleted for good")
    typer.echo(f"{len(answer['removals'])} things {verb} deleted, {answer['freed_bytes'] / 1e6:.1f} MB")


@app.command("adopt")
def adopt_command(
    is_sure: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
) -> None:
    """Join the data folder and the database after a restore: give both the same instance id. Deletes nothing."""
    with _exit_on_errors():
        settings = ServerSettings()
        found = inspect_pairing(settings.data_folder, settings.url)
        if found.is_joined:
            typer.echo(f"{found.folder} and {found.database} belong together already: {found.folder_id}")
            return
        found.check_adoptable()
        _print_pairing(found, settings.trash_days)
        if not is_sure:
            typer.confirm("Join the two?", abort=True, err=True)
        storage = Storage(settings.data_folder)
        engine = create_engine(settings.url)
        before = current_principal.set(LOCAL_ADMINISTRATOR)
        try:
            with storage.lock(0):
                typer.echo(f"joined: {adopt(engine, storage, found)}")
        finally:
            current_principal.reset(before)
            engine.dispose()


def _print_pairing(found: Pairing, trash_days: float) -> None:
    """What there is in the folder and in the database."""
    typer.echo(f"data folder  {found.folder}  {found.folder_id or 'of no instance yet'}")
    typer.echo(f"database     {found.database}  {found.database_id or 'of no instance yet'}")
    for kind, each in found.kinds.items():
        num_missing = len(each.expected) - each.num_found
        typer.echo(
            f"{kind + ':':<12} {each.num_found} of the database have their files, {num_missing} have none, "
            f"{each.num_orphans} in the folder belong to nobody"
        )
    if any(each.num_orphans for each in found.kinds.values()):
        typer.echo(
            "What belongs to nobody goes to the folder's trash once a server runs and nobody has changed it for an "
            f"hour, and is deleted {trash_days:g} days later."
        )


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Say what this machine can do: GPU, precision, ffmpeg, weights, disk, database, clock. Changes nothing."""
    with _exit_on_errors():
        findings = []
        for finding in run_checks(ServerSettings()):
            findings.append(finding)
            if not as_json:
                typer.echo(f"{MARKS[finding.state]}  {finding.what:<9} {finding.text}")
        if as_json:
            typer.echo(json.dumps([vars(finding) for finding in findings], indent=1))
        if any(finding.state == "fault" for finding in findings):
            raise typer.Exit(1)


@app.command("force-fail")
def force_fail(
    job_id: Annotated[str, typer.Argument(metavar="JOB")],
    message: Annotated[
        str, typer.Option(help="Why, for whoever submitted it.")
    ] = "ended by the server's administrator",
) -> None:
    """End a job that is stuck, whatever it is doing. Its worker stops at its next heartbeat."""
    with _opened() as (_settings, engine):
        job = JobService(engine).force_fail(job_id, message)
        typer.echo(f"{job.id}  {job.name}  {job.status}")


@tokens.command()
def create(
    owner: Annotated[str, typer.Argument(metavar="OWNER", help="Whose things it opens.")],
    scope: Annotated[list[Scope] | None, typer.Option(help="read, submit or admin; repeatable.")] = None,
    name: Annotated[str, typer.Option(help="What it is for.")] = "",
    days: Annotated[float | None, typer.Option(help="Days until it expires; never when left out.")] = None,
) -> None:
    """Make a token past HTTP: the first one, or when all others are lost. Its secret is shown this once."""
    with _opened() as (settings, engine):
        request = TokenCreate(owner=owner, scopes=scope or [Scope.SUBMIT], name=name, expires_in_days=days)
        made, secret = TokenService(engine, utc_now, None, settings.session_hours).create(request)
        typer.echo(f"{made.id}  {made.owner}  {', '.join(made.scopes)}\nexport RVC_TRAIN_TOKEN={secret}")


@tokens.command("list")
def list_tokens(as_json: AsJson = False) -> None:
    """All tokens, without their secrets, newest first."""
    with _opened() as (settings, engine):
        public = list(_all_tokens(TokenService(engine, utc_now, None, settings.session_hours)))
        if as_json:
            typer.echo(json.dumps([each.model_dump(mode="json") for each in public], indent=1))
            return
        for each in public:
            expires = "" if each.expires_at is None else f"  until {each.expires_at:%Y-%m-%d}"
            state = "  revoked" if each.revoked_at else expires
            typer.echo(
                f"{each.id}  {each.begins}...  {each.owner}  {', '.join(each.scopes)}  {each.name}{state}".rstrip()
            )


@tokens.command()
def revoke(token_id: Annotated[str, typer.Argument(metavar="TOKEN", help="Its id.")]) -> None:
    """Let a token open nothing any more, at once, and end the sessions that were opened with it."""
    with _opened() as (settings, engine):
        TokenService(engine, utc_now, None, settings.session_hours).revoke(token_id)
        typer.echo(f"{token_id} opens nothing any more")


@app.command()
def backup(
    target: Annotated[Path, typer.Argument(metavar="FOLDER", help="Made by this; must not be there yet.")],
    as_json: AsJson = False,
) -> None:
    """Copy the book and all files, while the server runs. To restore: start the server on a copy of that folder."""
    with _opened() as (settings, engine):
        done = back_up(engine, Storage(settings.data_folder), target)
        if as_json:
            typer.echo(json.dumps({**vars(done), "folder": str(done.folder)}, indent=1))
            return
        typer.echo(f"{done.folder}: {done.num_files} files, {done.num_bytes / 1e6:.1f} MB")
        if not done.has_database:
            typer.echo("note: the database is not in it; dump it with its own tools")
        if done.missing:
            typer.echo(f"note: {len(done.missing)} files were deleted meanwhile")


def _all_tokens(job_service: TokenService) -> Iterator[TokenPublic]:
    after, has_more = None, True
    while has_more:
        page, has_more = job_service.list(after=after, limit=100)
        for token in page:
            after = token.id
            yield TokenPublic.model_validate(token, from_attributes=True)


@contextlib.contextmanager
def _exit_on_errors() -> Iterator[None]:
    """Errors in a sentence, and exit code 1; settings that cannot be: 2."""
    try:
        yield
    except ValidationError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    except (ServerError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    except sa.exc.SQLAlchemyError as error:
        typer.echo(f"error: the database: {str(error).splitlines()[0]}", err=True)
        raise typer.Exit(1) from error


@contextlib.contextmanager
def _opened(*, may_migrate: bool = False) -> Iterator[tuple[ServerSettings, sa.Engine]]:
    """The settings and the database, which must be there and belong to the data folder.

    Brought to the newest schema unless the command does so.
    """
    with _exit_on_errors():
        settings = ServerSettings()
        if settings.database_url is None and not (settings.data_folder / "rvc-train.db").exists():
            typer.echo(
                f"error: {settings.data_folder.resolve()} holds no rvc-train.db; name the server's data folder with "
                "RVC_TRAIN_DATA_FOLDER",
                err=True,
            )
            raise typer.Exit(1)
        check_pairing(settings.data_folder, settings.url)
        engine = create_engine(settings.url)
        before = current_principal.set(LOCAL_ADMINISTRATOR)
        try:
            if not may_migrate:
                migrate(engine)
            yield settings, engine
        finally:
            current_principal.reset(before)
            engine.dispose()


def main(arguments: list[str] | None = None) -> Any:
    """Entry point. What it writes, such as a backup, is for its user alone."""
    os.umask(UMASK)
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # standard output is for the answer
    return app(args=arguments, prog_name="rvc-train admin")
