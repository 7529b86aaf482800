"""`rvc-train me`, `token`, `owner`, `audit`: who may do what, and who did."""

from itertools import islice
from typing import Annotated

import typer
from pydantic import ValidationError

from rvc_train.cli.output import ago, size, table
from rvc_train.cli.session import Session, api_command
from rvc_train.errors import UsageError
from rvc_train.schemas.access import OwnerPublic, Quota, Scope, TokenCreate

tokens = typer.Typer(no_args_is_help=True, help="Keys to the server; for administrators.")
owners = typer.Typer(no_args_is_help=True, help="Who has what, and how much they may have; for administrators.")

OwnerArgument = Annotated[str, typer.Argument(metavar="OWNER", help="Small letters, digits, dots and dashes.")]


def add_to(app: typer.Typer) -> None:
    """Give the commands to the program."""
    app.command("me")(api_command(me))
    app.add_typer(tokens, name="token")
    app.add_typer(owners, name="owner")
    app.command("audit")(api_command(audit))


def me(session: Session) -> None:
    """Who you are to the server, and what you use of your quota."""
    found = session.client.access.me()
    scopes = ", ".join(found.scopes)
    session.output.result(found, f"{found.owner}  scopes: {scopes}\n{_use(found)}")


def _use(owner: OwnerPublic) -> str:
    quota, usage = owner.quota, owner.usage
    most = "no limit" if quota.max_bytes is None else size(quota.max_bytes)
    parts = [
        f"jobs {usage.jobs} of {'no limit' if quota.max_jobs is None else quota.max_jobs}",
        f"stored {size(usage.bytes)} of {most}",
        f"GPU hours this month {usage.gpu_hours_this_month:.1f} of "
        f"{'no limit' if quota.max_gpu_hours is None else f'{quota.max_gpu_hours:g}'}",
    ]
    return ", ".join(parts)


@tokens.command("create")
@api_command
def create_token(
    session: Session,
    owner: OwnerArgument,
    scope: Annotated[
        list[Scope] | None, typer.Option(help="read, submit (implies read) or admin (everything); repeatable.")
    ] = None,
    name: Annotated[str, typer.Option(help="What it is for.")] = "",
    days: Annotated[float | None, typer.Option(help="Days until it expires; never when left out.")] = None,
) -> None:
    """Make a token. Its secret is shown this once."""
    fields = {"owner": owner, "scopes": scope or [Scope.SUBMIT], "name": name, "expires_in_days": days}
    try:
        request = TokenCreate.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"{first['loc'][0]}: {first['msg']}") from error
    made = session.client.access.create_token(request)
    session.output.result(made, f"{made.id}\nexport RVC_TRAIN_TOKEN={made.secret}")


@tokens.command("list")
@api_command
def list_tokens(session: Session) -> None:
    """Everyone's tokens, without their secrets."""
    found = list(session.client.access.tokens())
    rows = table("ID", "OWNER", "NAME", "BEGINS", "SCOPES", "LAST USED", "STATE")
    for each in found:
        used = "never" if each.last_used_at is None else ago(each.last_used_at)
        state = (
            "revoked" if each.revoked_at else "good" if each.expires_at is None else f"until {each.expires_at:%Y-%m-%d}"
        )
        rows.add_row(each.id, each.owner, each.name, each.begins, ", ".join(each.scopes), used, state)
    session.output.result(found, rows if found else "no tokens; make one with: rvc-train token create OWNER")


@tokens.command("revoke")
@api_command
def revoke_token(session: Session, token_id: Annotated[str, typer.Argument(metavar="TOKEN", help="Its id.")]) -> None:
    """Let a token open nothing any more, at once."""
    session.client.access.revoke_token(token_id)
    session.output.result({"revoked": token_id}, f"{token_id} opens nothing any more")


@owners.command("list")
@api_command
def list_owners(session: Session) -> None:
    """Every owner with quota and use."""
    found = session.client.access.owners()
    session.output.result(found, "\n".join(f"{each.owner}: {_use(each)}" for each in found) or "nobody yet")


@owners.command("quota")
@api_command
def set_quota(
    session: Session,
    owner: OwnerArgument,
    jobs: Annotated[int | None, typer.Option(help="Jobs that are not at their end.")] = None,
    gb: Annotated[float | None, typer.Option(help="Gigabytes of datasets and voices.")] = None,
    gpu_hours: Annotated[float | None, typer.Option(help="GPU hours a month.")] = None,
    default: Annotated[bool, typer.Option("--default", help="Let the server's own quota hold again.")] = False,
) -> None:
    """Set an owner's quota; what is left out is not limited."""
    if default:
        found = session.client.access.delete_quota(owner)
    else:
        fields = {"max_jobs": jobs, "max_bytes": None if gb is None else int(gb * 1e9), "max_gpu_hours": gpu_hours}
        try:
            quota = Quota.model_validate(fields)
        except ValidationError as error:
            raise UsageError(f"{error.errors()[0]['loc'][0]}: {error.errors()[0]['msg']}") from error
        found = session.client.access.set_quota(owner, quota)
    session.output.result(found, f"{found.owner}: {_use(found)}")


def audit(
    session: Session,
    actor: Annotated[str | None, typer.Option(help="Only of this owner.")] = None,
    action: Annotated[str | None, typer.Option(help="Only this, such as job.submitted.")] = None,
    target: Annotated[str | None, typer.Option(help="Only what was done to this id.")] = None,
    last: Annotated[int, typer.Option(min=1, help="How many lines.")] = 50,
) -> None:
    """Who did what, newest first; for administrators."""
    found = list(islice(session.client.access.audit(actor=actor, action=action, target=target), last))
    rows = table("WHEN", "WHO", "FROM", "DID", "TO")
    for each in found:
        rows.add_row(f"{each.created_at:%Y-%m-%d %H:%M:%S}", each.actor or "?", each.address, each.action, each.target)
    session.output.result(found, rows if found else "nothing")
