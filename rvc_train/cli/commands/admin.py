"""`rvc-train webhook`, `weights`, `retention`: what a server's administrator and its users decide now and then."""

import time
from typing import Annotated

import typer
from pydantic import ValidationError

from rvc_train.cli.output import ago, size, table
from rvc_train.cli.session import Session, api_command
from rvc_train.errors import ClientError, UsageError
from rvc_train.schemas.administration import RetentionPlan, RetentionPolicy, RetentionPublic, WeightsPublic
from rvc_train.schemas.webhooks import LAST_EVENTS, WebhookCreate

webhooks = typer.Typer(no_args_is_help=True, help="Have an address told of what becomes of jobs.")
weights = typer.Typer(no_args_is_help=True, help="Published weights on the server's machine.")
retention = typer.Typer(no_args_is_help=True, help="What the server keeps, and for how long.")

WebhookArgument = Annotated[str, typer.Argument(metavar="WEBHOOK", help="Id of the webhook.")]
SECONDS_BETWEEN_LOOKS = 1.0


def add_to(app: typer.Typer) -> None:
    """Give the commands to the program."""
    app.add_typer(webhooks, name="webhook")
    app.add_typer(weights, name="weights")
    app.add_typer(retention, name="retention")


@webhooks.command("add")
@api_command
def add_webhook(
    session: Session,
    url: Annotated[str, typer.Argument(help="Where messages are POSTed.")],
    event: Annotated[list[str] | None, typer.Option(help="What is told, such as job.failed; repeatable.")] = None,
    secret: Annotated[str | None, typer.Option(help="whsec_... to sign with; else the server makes one.")] = None,
) -> None:
    """Have an address told of all your jobs; prints the secret that messages are signed with."""
    fields = {"url": url, "events": event or list(LAST_EVENTS), "secret": secret}
    try:
        request = WebhookCreate.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"{'.'.join(map(str, first['loc']))}: {first['msg'].removeprefix('Value error, ')}") from error
    made = session.client.webhooks.create(request)
    signing_secret = session.client.webhooks.secret(made.id)
    session.output.result(
        made.model_dump(mode="json") | {"secret": signing_secret}, f"{made.id}\nsecret: {signing_secret}"
    )


@webhooks.command("list")
@api_command
def list_webhooks(session: Session) -> None:
    """Your webhooks."""
    found = list(session.client.webhooks.list())
    rows = table("ID", "URL", "EVENTS", "STATE")
    for each in found:
        state = "on" if each.is_enabled else each.disabled_reason or "off"
        rows.add_row(each.id, each.url, ", ".join(each.events), state)
    session.output.result(found, rows if found else "no webhooks; make one with: rvc-train webhook add URL")


@webhooks.command("test")
@api_command
def test_webhook(session: Session, webhook: WebhookArgument) -> None:
    """Send a `ping`."""
    sent = session.client.webhooks.test(webhook)
    session.output.result(sent, f"{sent.id}  look what became of it with: rvc-train webhook log {webhook}")


@webhooks.command("log")
@api_command
def webhook_log(
    session: Session,
    webhook: WebhookArgument,
    again: Annotated[str | None, typer.Option(metavar="MESSAGE", help="Send this message again.")] = None,
) -> None:
    """Messages that were sent, or are to be."""
    if again is not None:
        session.client.webhooks.redeliver(webhook, again)
    found = [each for _, each in zip(range(100), session.client.webhooks.deliveries(webhook), strict=False)]
    rows = table("MESSAGE", "EVENT", "JOB", "STATE", "TRIES", "ANSWER", "SENT")
    for each in found:
        answer = each.last_error or str(each.last_status or "-")
        rows.add_row(
            each.id, each.event, each.job_id or "-", each.status, str(each.num_tries), answer, ago(each.created_at)
        )
    session.output.result(found, rows if found else "no messages yet")


@webhooks.command("delete")
@api_command
def delete_webhook(session: Session, webhook: WebhookArgument) -> None:
    """Forget a webhook."""
    session.client.webhooks.delete(webhook)
    session.output.result({"deleted": webhook}, f"{webhook} is deleted")


@weights.command("list")
@api_command
def list_weights(session: Session) -> None:
    """All that are known, and whether they are on the server's machine."""
    found = session.client.weights.list()
    rows = table("ID", "SIZE", "STATE")
    for each in found:
        rows.add_row(each.id, size(each.size), _state(each))
    session.output.result(found, rows)


@weights.command("fetch")
@api_command
def fetch_weights(
    session: Session, names: Annotated[list[str], typer.Argument(metavar="ID...", help="Such as hubert.")]
) -> None:
    """Have the server download weights, and wait until they are there."""
    with session.output.transfer_bar() as bar:
        for name in names:
            found = session.client.weights.fetch(name)
            task = bar.add_task(name, total=found.size)
            while not found.is_present:
                if found.fetch_state == "failed":
                    raise ClientError(f"{name} could not be fetched: {found.fetch_error}")
                time.sleep(SECONDS_BETWEEN_LOOKS)
                found = session.client.weights.get(name)
                bar.update(task, completed=found.size_here)
            bar.update(task, completed=found.size)
    session.output.result([session.client.weights.get(name) for name in names], f"{', '.join(names)}: there")


def _state(weights: WeightsPublic) -> str:
    if weights.is_present:
        return "there"
    if weights.fetch_state in {"waiting", "fetching"}:
        return f"{weights.fetch_state}, {100 * weights.size_here // weights.size} %"
    return "damaged" if any(file.state == "damaged" for file in weights.files) else "missing"


@retention.command("show")
@api_command
def show_retention(session: Session) -> None:
    """The policy, and what it would delete now."""
    found = session.client.retention.get()
    session.output.result(found, _described(found))


@retention.command("set")
@api_command
def set_retention(
    session: Session,
    keep_days: Annotated[float | None, typer.Option(help="Keep a finished job for so many days.")] = None,
    keep_last: Annotated[int | None, typer.Option(help="Keep the last so many finished jobs of each owner.")] = None,
    workspace_days: Annotated[
        float | None, typer.Option(help="Delete a finished job's workspace after so many days; the voice stays.")
    ] = None,
    min_free_gb: Annotated[
        float | None, typer.Option(help="While less is free, delete workspaces of finished jobs, oldest first.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what it would delete.")] = False,
) -> None:
    """Replace the policy; what is left out is not limited. Jobs with the label `keep` are never deleted."""
    fields = {"keep_days": keep_days, "keep_last": keep_last, "workspace_days": workspace_days}
    try:
        policy = RetentionPolicy.model_validate(
            fields | {"min_free_bytes": None if min_free_gb is None else int(min_free_gb * 1e9)}
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"--{str(first['loc'][0]).replace('_', '-')}: {first['msg']}") from error
    found = session.client.retention.set(policy, dry_run=dry_run)
    session.output.result(found, _described(found))


@retention.command("run")
@api_command
def run_retention(session: Session) -> None:
    """Carry the policy out now."""
    plan = session.client.retention.run()
    session.output.result(plan, "\n".join([*_lines(plan), f"{len(plan.removals)} things deleted"]))


def _described(found: RetentionPublic) -> str:
    policy = found.policy.model_dump(exclude_none=True)
    rules = ", ".join(f"{name}={value:g}" for name, value in policy.items()) or "everything is kept"
    return "\n".join([rules, *_lines(found.plan), f"would delete {len(found.plan.removals)} things now"])


def _lines(plan: RetentionPlan) -> list[str]:
    return [f"  {each.kind}  {each.id}  {each.name}  {size(each.size)}  {each.why}" for each in plan.removals]
