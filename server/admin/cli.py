"""`python -m server.admin`, or `rvc-train admin`: the administrator's commands on the server's machine, without HTTP.

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

from rvc_engine.translation.program_errors import describe_os_error, errors_reported
from rvc_train.schemas.access import Scope, TokenCreate, TokenPublic
from server.admin.backup import back_up
from server.admin.doctor import run_checks
from server.admin.leadership import exclusive
from server.admin.retention import Retention
from server.admin.store_upkeep import move_storage
from server.auth.principal import LOCAL_ADMINISTRATOR, current_principal
from server.auth.tokens import TokenService
from server.blobs.address import open_blobs
from server.database.clock import utc_now
from server.database.engine import SCHEMA_VERSION, check_schema, create_engine, migrate, present_version
from server.errors import Refused, ServerError
from server.job_store.queries import JobQueries
from server.jobs.service import JobService
from server.settings import ServerSettings
from server.storage.instances import Pairing, adopt, check_pairing, check_store, inspect_pairing
from server.storage.local import Storage
from server.storage.orphans import Orphans
from server.storage.permissions import UMASK

app = typer.Typer(
    name="rvc-train admin",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Administration on the server's machine. Uses the server's settings, such as RVC_TRAIN_DATA_FOLDER.",
)

tokens = typer.Typer(no_args_is_help=True, help="Tokens, managed without HTTP: for an administrator who has none.")
app.add_typer(tokens, name="token")

AsJson = Annotated[bool, typer.Option("--json", help="Write JSON to standard output.")]
MARKS = {"ok": "ok   ", "note": "note ", "fault": "FAULT"}


@app.command("migrate")
def migrate_command() -> None:
    """Upgrade the database's schema to this version. The server also does so when it starts."""
    with _opened(may_migrate=True) as (_settings, engine):
        before = present_version(engine)
        migrate(engine)
        typer.echo(f"schema {before or 'none'} -> {present_version(engine)}")


@app.command()
def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be deleted.")] = False,
    as_json: AsJson = False,
) -> None:
    """Apply the retention policy now, move orphaned files to the trash, and delete overdue files from it."""
    with _opened() as (settings, engine):
        storage = Storage(settings.data_folder, open_blobs(settings.storage_url))
        retention = Retention(JobService(engine), storage)
        orphans = Orphans(engine, storage, settings.trash_days, settings.report_timeout_seconds)
        plan = retention.plan() if dry_run else retention.apply()
        result = plan.model_dump(mode="json") | {
            "orphans": [
                {"name": f"{each.kind}/{each.path.name}", "size": each.size, "is_due": each.is_due}
                for each in orphans.find()
            ],
            "overdue_trash": [each.path.relative_to(storage.root).as_posix() for each in orphans.overdue()],
        }
        if not dry_run:
            orphans.collect()
        if as_json:
            typer.echo(json.dumps(result, indent=1))
        else:
            _print_gc(result, "would be" if dry_run else "were")


def _print_gc(result: dict[str, Any], verb: str) -> None:
    for each in result["removals"]:
        typer.echo(f"{each['kind']}  {each['id']}  {each['name']}  {each['size'] / 1e6:.1f} MB  {each['why']}")
    for each in result["orphans"]:
        action = f"{verb} moved to the trash" if each["is_due"] else "kept: it changed within the last hour"
        typer.echo(f"orphan  {each['name']}  {each['size'] / 1e6:.1f} MB  {action}")
    for name in result["overdue_trash"]:
        typer.echo(f"trash  {name}  {verb} deleted permanently")
    typer.echo(f"{len(result['removals'])} items {verb} deleted, {result['freed_bytes'] / 1e6:.1f} MB")


@app.command("adopt")
def adopt_command(
    is_sure: Annotated[bool, typer.Option("--yes", help="Don't ask for confirmation.")] = False,
) -> None:
    """Join data folder and database after a restore: give both the same instance id. Deletes nothing."""
    with _exit_on_errors():
        settings = ServerSettings()
        pairing = inspect_pairing(settings.data_folder, settings.url)
        if pairing.is_joined:
            typer.echo(f"{pairing.folder} and {pairing.database} already belong together: {pairing.folder_id}")
            return
        pairing.check_adoptable()
        _print_pairing(pairing, settings.trash_days)
        if not is_sure:
            typer.confirm("Join the two?", abort=True, err=True)
        storage = Storage(settings.data_folder, open_blobs(settings.storage_url))
        engine = create_engine(settings.url)
        before = current_principal.set(LOCAL_ADMINISTRATOR)
        try:
            with storage.lock(0), exclusive(settings.url):
                typer.echo(f"joined: {adopt(engine, storage, pairing)}")
        finally:
            current_principal.reset(before)
            engine.dispose()


def _print_pairing(pairing: Pairing, trash_days: float) -> None:
    """Print the contents of folder and database."""
    typer.echo(f"data folder  {pairing.folder}  {pairing.folder_id or 'no instance yet'}")
    typer.echo(f"database     {pairing.database}  {pairing.database_id or 'no instance yet'}")
    for kind, each in pairing.kinds.items():
        num_missing = len(each.expected) - each.num_found
        typer.echo(
            f"{kind + ':':<12} {each.num_found} in the database with files, {num_missing} without, "
            f"{each.num_orphans} orphaned in the folder"
        )
    if any(each.num_orphans for each in pairing.kinds.values()):
        typer.echo(
            "A running server moves orphaned files that have not changed for an hour to the trash, and deletes them "
            f"{trash_days:g} days later."
        )


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check this machine: GPU, precision, ffmpeg, weights, disk, database, clock. Changes nothing."""
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


@app.command()
def jobs(
    job_ids: Annotated[
        list[str] | None, typer.Argument(metavar="JOB", help="Ids; without any, the newest jobs.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of the newest jobs.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show jobs and their progress from the database, where workers write it, with or without a server."""
    with _opened(may_migrate=True) as (_settings, engine):
        check_schema(engine)
        if (version := present_version(engine)) != SCHEMA_VERSION:
            raise Refused(f"the database has the older schema {version}; `rvc-train admin migrate` upgrades it")
        rows = JobQueries(engine).rows(job_ids or [], limit)
        if as_json:
            typer.echo(json.dumps([row.model_dump(mode="json", include=_SHOWN) for row in rows], indent=1))
            return
        for row in rows:
            epoch = "" if row.epoch is None else f"  epoch {row.epoch} of {row.total_epochs}"
            typer.echo(f"{row.id}  {row.name}  {row.status}  {row.stage or '-'}  {row.progress:.1%}{epoch}")


_SHOWN = {"id", "owner", "name", "status", "stage", "progress", "epoch", "total_epochs", "step", "total_steps"} | {
    *("eta_seconds", "losses", "last_seq", "error_code", "error_message", "created_at", "started_at", "finished_at")
}


@app.command("force-fail")
def force_fail(
    job_id: Annotated[str, typer.Argument(metavar="JOB")],
    message: Annotated[
        str, typer.Option(help="Reason, shown to the job's owner.")
    ] = "ended by the server's administrator",
) -> None:
    """Fail a stuck job in any state. Its worker stops at its next heartbeat."""
    with _opened() as (_settings, engine):
        job = JobService(engine).force_fail(job_id, message)
        typer.echo(f"{job.id}  {job.name}  {job.status}")


@tokens.command()
def create(
    owner: Annotated[str, typer.Argument(metavar="OWNER", help="Owner whose resources it gives access to.")],
    scope: Annotated[list[Scope] | None, typer.Option(help="read, submit, work or admin; repeatable.")] = None,
    name: Annotated[str, typer.Option(help="Description of its purpose.")] = "",
    days: Annotated[float | None, typer.Option(help="Days until it expires; without it, never.")] = None,
) -> None:
    """Create a token: the first one, or when all others are lost. Its secret is shown only once."""
    with _opened() as (settings, engine):
        request = TokenCreate(owner=owner, scopes=scope or [Scope.SUBMIT], name=name, expires_in_days=days)
        token, secret = TokenService(engine, utc_now, None, settings.session_hours).create(request)
        typer.echo(f"{token.id}  {token.owner}  {', '.join(token.scopes)}\nexport RVC_TRAIN_TOKEN={secret}")


@tokens.command("list")
def list_tokens(as_json: AsJson = False) -> None:
    """List all tokens, without their secrets, newest first."""
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
    """Revoke a token at once, and end the sessions opened with it."""
    with _opened() as (settings, engine):
        TokenService(engine, utc_now, None, settings.session_hours).revoke(token_id)
        typer.echo(f"{token_id} is revoked")


@app.command()
def backup(
    target: Annotated[Path, typer.Argument(metavar="FOLDER", help="New folder for the backup.")],
    as_json: AsJson = False,
) -> None:
    """Back up database and files while the server runs. To restore, start the server on a copy of the backup."""
    with _opened() as (settings, engine):
        result = back_up(engine, Storage(settings.data_folder, open_blobs(settings.storage_url)), target)
        if as_json:
            typer.echo(json.dumps({**vars(result), "folder": str(result.folder)}, indent=1))
            return
        typer.echo(f"{result.folder}: {result.num_files} files, {result.num_bytes / 1e6:.1f} MB")
        if not result.has_database:
            typer.echo("note: it does not contain the database; dump that with its own tools")
        if result.missing:
            typer.echo(f"note: {len(result.missing)} files were deleted during the backup")


storage_commands = typer.Typer(no_args_is_help=True, help="Files in object storage.")
app.add_typer(storage_commands, name="storage")


@storage_commands.command()
def move(
    to: Annotated[str, typer.Option("--to", metavar="URL", help="s3://BUCKET/PREFIX, or as RVC_TRAIN_STORAGE_URL.")],
) -> None:
    """Copy all files to object storage while the server runs; call it again to go on, or for what came since.

    Afterwards set RVC_TRAIN_STORAGE_URL to this address and start the server again: it copies what is still missing.
    """
    with _opened() as (settings, _engine):
        target = open_blobs(to)
        if target is None:
            raise Refused("--to is empty; write s3://BUCKET/PREFIX")
        result = move_storage(Storage(settings.data_folder, open_blobs(settings.storage_url)), target)
        typer.echo(f"{target.address}: {result.num_present} files were there, {result.num_copied} copied")
        typer.echo(f"set RVC_TRAIN_STORAGE_URL={target.address} for server and workers, and start them again")


def _all_tokens(service: TokenService) -> Iterator[TokenPublic]:
    after, has_more = None, True
    while has_more:
        page, has_more = service.list(after=after, limit=100)
        for token in page:
            after = token.id
            yield TokenPublic.model_validate(token, from_attributes=True)


@contextlib.contextmanager
def _exit_on_errors() -> Iterator[None]:
    """Print errors as one sentence and exit with code 1, with 2 for invalid settings."""
    try:
        yield
    except ValidationError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    except (ServerError, OSError) as error:
        typer.echo(f"error: {describe_os_error(error) if isinstance(error, OSError) else error}", err=True)
        raise typer.Exit(1) from error
    except sa.exc.SQLAlchemyError as error:
        typer.echo(f"error: the database: {str(error).splitlines()[0]}", err=True)
        raise typer.Exit(1) from error


@contextlib.contextmanager
def _opened(*, may_migrate: bool = False) -> Iterator[tuple[ServerSettings, sa.Engine]]:
    """The settings and the database, which must exist and belong to the data folder.

    Its schema is upgraded first, unless the command does so.
    """
    with _exit_on_errors():
        settings = ServerSettings()
        if settings.database_url is None and not (settings.data_folder / "rvc-train.db").exists():
            typer.echo(
                f"error: {settings.data_folder.resolve()} has no rvc-train.db; set RVC_TRAIN_DATA_FOLDER to the "
                "server's data folder",
                err=True,
            )
            raise typer.Exit(1)
        check_store(Storage(settings.data_folder, open_blobs(settings.storage_url)))
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
    """Entry point. Files that it writes, such as a backup, are private to its user."""
    os.umask(UMASK)
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # standard output is for results
    with errors_reported():
        return app(args=arguments, prog_name="rvc-train admin")
