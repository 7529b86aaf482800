"""`rvc-train me`, `token`, `owner`, `audit`, `open`: access rights, quotas, the audit trail, signing in to the page."""

from itertools import islice
from typing import Annotated

import typer

from rvc_engine.translation.messages import translated, translated_word
from rvc_train.cli.browser import has_display, open_browser, sign_in_link
from rvc_train.cli.output import ago, size, table
from rvc_train.cli.session import ApiCommand, Session
from rvc_train.cli.validation import validated
from rvc_train.errors import UsageError
from rvc_train.http.authorization import local_file_fault, recorded_token
from rvc_train.schemas.access import OwnerPublic, Quota, Scope, TokenCreate

tokens = typer.Typer(no_args_is_help=True, help="Tokens for the server; for administrators.")
owners = typer.Typer(no_args_is_help=True, help="Owners, their usage and quotas; for administrators.")

OwnerArgument = Annotated[
    str, typer.Argument(metavar="OWNER", help="Lower-case letters, digits, dots, dashes and underscores.")
]


def add_to(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command("me", cls=ApiCommand)(me)
    app.add_typer(tokens, name="token")
    app.add_typer(owners, name="owner")
    app.command("audit", cls=ApiCommand)(audit)
    app.command("open", cls=ApiCommand)(open_page)


def me(session: Session) -> None:
    """Show your owner name, scopes and usage."""
    found = session.client.access.me()
    scopes = ", ".join(found.scopes)
    session.output.result(found, f"{found.owner}  scopes: {scopes}\n{_usage(found)}")


def _usage(owner: OwnerPublic) -> str:
    quota, usage = owner.quota, owner.usage
    most = "no limit" if quota.max_bytes is None else size(quota.max_bytes)
    parts = [
        f"jobs {usage.jobs} of {'no limit' if quota.max_jobs is None else quota.max_jobs}",
        f"stored {size(usage.bytes)} of {most}",
        f"GPU hours this month {usage.gpu_hours_this_month:.1f} of "
        f"{'no limit' if quota.max_gpu_hours is None else f'{quota.max_gpu_hours:g}'}",
    ]
    return ", ".join(parts)


@tokens.command("create", cls=ApiCommand)
def create_token(
    session: Session,
    owner: OwnerArgument,
    scope: Annotated[
        list[Scope] | None,
        typer.Option(help="read, submit (implies read), work (for a worker) or admin (everything); repeatable."),
    ] = None,
    name: Annotated[str, typer.Option(help="Purpose of the token, for lists.")] = "",
    days: Annotated[float | None, typer.Option(help="Days until it expires. Default: never.")] = None,
) -> None:
    """Create a token. Its secret is shown only once."""
    fields = {"owner": owner, "scopes": scope or [Scope.SUBMIT], "name": name, "expires_in_days": days}
    options = {"owner": "OWNER", "scopes": "--scope", "expires_in_days": "--days"}
    made = session.client.access.create_token(validated(TokenCreate, fields, options))
    session.output.result(made, f"{made.id}\nexport RVC_TRAIN_TOKEN={made.secret}")


@tokens.command("show", cls=ApiCommand)
def show_token(session: Session) -> None:
    """Print the token that the client sends to the server, such as the local one of `rvc-train up`, for curl."""
    found = session.connection
    token = found.token or recorded_token(found.server)
    if token is None:
        raise UsageError(
            f"there is no token for {found.server}: none is set, and no server of this user has run there; start one "
            "with `rvc-train up`, or set RVC_TRAIN_TOKEN" + (f"; {fault}" if (fault := local_file_fault()) else "")
        )
    if session.output.as_json:
        session.output.json({"token": token})
    else:
        typer.echo(token)


@tokens.command("list", cls=ApiCommand)
def list_tokens(session: Session) -> None:
    """List the tokens of all owners, without their secrets."""
    found = list(session.client.access.tokens())
    rows = table("ID", "OWNER", "NAME", "BEGINS", "SCOPES", "LAST USED", "STATE")
    for each in found:
        used = translated_word("mark", "never") if each.last_used_at is None else ago(each.last_used_at)
        state = (
            translated_word("state", "revoked" if each.revoked_at else "valid")
            if each.revoked_at or each.expires_at is None
            else translated(f"to {each.expires_at:%Y-%m-%d}")
        )
        rows.add_row(each.id, each.owner, each.name, each.begins, ", ".join(each.scopes), used, state)
    session.output.result(found, rows if found else "no tokens; create one with: rvc-train token create OWNER")


@tokens.command("revoke", cls=ApiCommand)
def revoke_token(session: Session, token_id: Annotated[str, typer.Argument(metavar="TOKEN", help="Its id.")]) -> None:
    """Revoke a token, effective at once."""
    session.client.access.revoke_token(token_id)
    session.output.result({"revoked": token_id}, f"{token_id} is revoked")


@owners.command("list", cls=ApiCommand)
def list_owners(session: Session) -> None:
    """List all owners with their usage and quota."""
    found = session.client.access.owners()
    session.output.result(found, "\n".join(f"{each.owner}: {_usage(each)}" for each in found) or "no owners yet")


@owners.command("quota", cls=ApiCommand)
def set_quota(
    session: Session,
    owner: OwnerArgument,
    jobs: Annotated[int | None, typer.Option(help="Unfinished jobs.")] = None,
    gb: Annotated[float | None, typer.Option(help="Gigabytes of datasets and voices.")] = None,
    gpu_hours: Annotated[float | None, typer.Option(help="GPU hours per month.")] = None,
    default: Annotated[bool, typer.Option("--default", help="Return to the server's default quota.")] = False,
) -> None:
    """Set an owner's quota; omitted limits are unlimited."""
    if default:
        found = session.client.access.delete_quota(owner)
    else:
        fields = {"max_jobs": jobs, "max_bytes": None if gb is None else int(gb * 1e9), "max_gpu_hours": gpu_hours}
        options = {"max_jobs": "--jobs", "max_bytes": "--gb", "max_gpu_hours": "--gpu-hours"}
        found = session.client.access.set_quota(owner, validated(Quota, fields, options))
    session.output.result(found, f"{found.owner}: {_usage(found)}")


def open_page(session: Session) -> None:
    """Open the server's page in the browser, signed in; without a display, print a link that signs in once."""
    link = sign_in_link(session.client, session.connection.server)
    if not session.output.as_json and has_display() and open_browser(link):
        session.output.note(f"opened {session.connection.server} in the browser")
    else:
        session.output.result({"link": link}, link)
        session.output.note("the link holds for ten minutes, and once")


def audit(
    session: Session,
    actor: Annotated[str | None, typer.Option(help="Only actions of this owner.")] = None,
    action: Annotated[str | None, typer.Option(help="Only this action, such as job.submitted.")] = None,
    target: Annotated[str | None, typer.Option(help="Only actions on this id.")] = None,
    last: Annotated[int, typer.Option(min=1, help="Number of entries.")] = 50,
) -> None:
    """Show the audit trail, newest first; for administrators."""
    found = list(islice(session.client.access.audit(actor=actor, action=action, target=target), last))
    rows = table("TIME", "ACTOR", "ADDRESS", "ACTION", "TARGET")
    for each in found:
        rows.add_row(f"{each.created_at:%Y-%m-%d %H:%M:%S}", each.actor or "?", each.address, each.action, each.target)
    session.output.result(found, rows if found else "no entries")
