"""`rvc-train webhook`, `weights`, `retention`: settings of the server and its users."""

import time
from itertools import islice
from typing import Annotated

import typer

from rvc_engine.translation.messages import translated, translated_word
from rvc_train.cli.output import ago, size, table
from rvc_train.cli.session import ApiCommand, Session
from rvc_train.cli.validation import validated
from rvc_train.errors import ClientError
from rvc_train.schemas.administration import RetentionPlan, RetentionPolicy, RetentionPublic, WeightsPublic
from rvc_train.schemas.webhooks import LAST_EVENTS, WebhookCreate

webhooks = typer.Typer(no_args_is_help=True, help="Webhooks: addresses notified about jobs.")
weights = typer.Typer(no_args_is_help=True, help="Published weights on the server's machine.")
retention = typer.Typer(no_args_is_help=True, help="Retention policy of the server; for administrators.")

WebhookArgument = Annotated[str, typer.Argument(metavar="WEBHOOK", help="Id of the webhook.")]
POLL_SECONDS = 1.0


def add_to(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.add_typer(webhooks, name="webhook")
    app.add_typer(weights, name="weights")
    app.add_typer(retention, name="retention")


@webhooks.command("add", cls=ApiCommand)
def add_webhook(
    session: Session,
    url: Annotated[str, typer.Argument(help="Address that messages are POSTed to.")],
    event: Annotated[list[str] | None, typer.Option(help="Event to send, such as job.failed; repeatable.")] = None,
    secret: Annotated[
        str | None, typer.Option(help="Signing secret, whsec_... Default: one made by the server.")
    ] = None,
) -> None:
    """Notify an address about all your jobs; prints, only once, the secret that messages are signed with."""
    fields = {"url": url, "events": event or list(LAST_EVENTS), "secret": secret}
    made = session.client.webhooks.create(validated(WebhookCreate, fields, {"url": "URL", "events": "--event"}))
    session.output.result(made, f"{made.id}\nsecret: {made.secret}")


@webhooks.command("list", cls=ApiCommand)
def list_webhooks(session: Session) -> None:
    """List your webhooks."""
    found = list(session.client.webhooks.list())
    rows = table("ID", "URL", "EVENTS", "STATE")
    for each in found:
        state = translated_word("state", "on" if each.is_enabled else each.disabled_reason or "off")
        rows.add_row(each.id, each.url, ", ".join(each.events), state)
    session.output.result(found, rows if found else "no webhooks; add one with: rvc-train webhook add URL")


@webhooks.command("rotate-secret", cls=ApiCommand)
def rotate_secret(
    session: Session,
    webhook: WebhookArgument,
    secret: Annotated[str | None, typer.Option(help="New secret, whsec_... Default: one made by the server.")] = None,
) -> None:
    """Replace the secret and print the new one; for 24 hours messages are signed with both."""
    new = session.client.webhooks.rotate_secret(webhook, secret)
    session.output.result({"id": webhook, "secret": new}, f"{webhook}\nsecret: {new}")


@webhooks.command("test", cls=ApiCommand)
def test_webhook(session: Session, webhook: WebhookArgument) -> None:
    """Send a `ping` message."""
    sent = session.client.webhooks.test(webhook)
    session.output.result(sent, f"{sent.id}  see the result with: rvc-train webhook log {webhook}")


@webhooks.command("log", cls=ApiCommand)
def webhook_log(
    session: Session,
    webhook: WebhookArgument,
    again: Annotated[str | None, typer.Option(metavar="MESSAGE", help="Send this message again.")] = None,
) -> None:
    """Show sent and pending messages."""
    if again is not None:
        session.client.webhooks.redeliver(webhook, again)
    found = list(islice(session.client.webhooks.deliveries(webhook), 100))
    rows = table("MESSAGE", "EVENT", "JOB", "STATE", "TRIES", "ANSWER", "SENT")
    for each in found:
        answer = each.last_error or str(each.last_status or "-")
        rows.add_row(
            each.id,
            each.event,
            each.job_id or "-",
            translated_word("status", each.status),
            str(each.num_tries),
            translated(answer),
            ago(each.created_at),
        )
    session.output.result(found, rows if found else "no messages yet")


@webhooks.command("delete", cls=ApiCommand)
def delete_webhook(session: Session, webhook: WebhookArgument) -> None:
    """Delete a webhook."""
    session.client.webhooks.delete(webhook)
    session.output.result({"deleted": webhook}, f"deleted {webhook}")


@weights.command("list", cls=ApiCommand)
def list_weights(session: Session) -> None:
    """List published weights and their state on the server's machine."""
    found = session.client.weights.list()
    rows = table("ID", "SIZE", "STATE")
    for each in found:
        rows.add_row(each.id, size(each.size), _state(each))
    session.output.result(found, rows)


@weights.command("fetch", cls=ApiCommand)
def fetch_weights(
    session: Session, names: Annotated[list[str], typer.Argument(metavar="ID...", help="Such as hubert.")]
) -> None:
    """Download weights on the server and wait until they are complete."""
    with session.output.transfer_bar() as bar:
        for name in names:
            found = session.client.weights.fetch(name)
            task = bar.add_task(name, total=found.size)
            while not found.is_present:
                if found.fetch_state == "failed":
                    raise ClientError(f"{name} could not be downloaded: {found.fetch_error}")
                time.sleep(POLL_SECONDS)
                found = session.client.weights.get(name)
                bar.update(task, completed=found.size_here)
            bar.update(task, completed=found.size)
    session.output.result([session.client.weights.get(name) for name in names], f"{', '.join(names)}: present")


def _state(weights: WeightsPublic) -> str:
    if weights.is_present:
        return translated_word("state", "present")
    if weights.fetch_state in {"waiting", "fetching"}:
        return f"{translated_word('state', weights.fetch_state)}, {100 * weights.size_here // weights.size} %"
    is_damaged = any(file.state == "damaged" for file in weights.files)
    return translated_word("state", "damaged" if is_damaged else "missing")


@retention.command("show", cls=ApiCommand)
def show_retention(session: Session) -> None:
    """Show the policy and the files that it would delete now."""
    found = session.client.retention.get()
    session.output.result(found, _described(found))


@retention.command("set", cls=ApiCommand)
def set_retention(
    session: Session,
    keep_days: Annotated[float | None, typer.Option(help="Days to keep a finished job.")] = None,
    keep_last: Annotated[int | None, typer.Option(help="Number of finished jobs to keep for each owner.")] = None,
    workspace_days: Annotated[
        float | None, typer.Option(help="Days until a finished job's workspace is deleted; the voice stays.")
    ] = None,
    min_free_gb: Annotated[
        float | None, typer.Option(help="Free gigabytes below which workspaces of finished jobs are deleted.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what the policy would delete.")] = False,
) -> None:
    """Replace the policy; omitted limits are unlimited. Jobs with the label `keep` are never deleted."""
    min_free_bytes = None if min_free_gb is None else int(min_free_gb * 1e9)
    fields = {"keep_days": keep_days, "keep_last": keep_last, "workspace_days": workspace_days}
    fields |= {"min_free_bytes": min_free_bytes}
    policy = validated(RetentionPolicy, fields, {"min_free_bytes": "--min-free-gb"})
    found = session.client.retention.set(policy, dry_run=dry_run)
    session.output.result(found, _described(found))


@retention.command("run", cls=ApiCommand)
def run_retention(session: Session) -> None:
    """Apply the policy now."""
    plan = session.client.retention.run()
    session.output.result(plan, "\n".join([*_lines(plan), f"deleted {_num_removals(plan)} items"]))


def _described(found: RetentionPublic) -> str:
    policy = found.policy.model_dump(exclude_none=True)
    rules = ", ".join(f"{name}={value:g}" for name, value in policy.items()) or "everything is kept"
    return "\n".join([rules, *_lines(found.plan), f"would delete {_num_removals(found.plan)} items now"])


def _num_removals(plan: RetentionPlan) -> int:
    return max(plan.num_removals, len(plan.removals))


def _lines(plan: RetentionPlan) -> list[str]:
    return [
        f"  {translated_word('kind', each.kind)}  {each.id}  {each.name}  {size(each.size)}  {translated(each.why)}"
        for each in plan.removals
    ]
