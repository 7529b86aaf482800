"""Routes of the retention policy: get, replace, dry run, run."""

from typing import Annotated

from fastapi import Query

from rvc_train.schemas.access import Scope
from rvc_train.schemas.administration import RetentionPlan, RetentionPolicy, RetentionPublic
from server.api.authorization import requires
from server.context import AppContext, Context
from server.http.prefix import RouterUnderV1
from server.http.problem_details import documented

router = RouterUnderV1(prefix="/retention", tags=["retention"])

DryRun = Annotated[bool, Query(description="Change nothing; return the plan.")]


MAX_SHOWN = 1000
"""Items of a plan in an answer."""


def _public(context: AppContext, policy: RetentionPolicy) -> RetentionPublic:
    return RetentionPublic(policy=policy, plan=_shown(context.retention.plan(policy)))


def _shown(plan: RetentionPlan) -> RetentionPlan:
    return plan.model_copy(update={"removals": plan.removals[:MAX_SHOWN]})


@router.get("", operation_id="retention_get")
@requires(Scope.ADMIN)
def get_retention(context: Context) -> RetentionPublic:
    """Get the policy, and the plan of what it would delete now."""
    return _public(context, context.retention.policy())


@router.put("", operation_id="retention_set", responses=documented(422))
@requires(Scope.ADMIN)
def set_retention(policy: RetentionPolicy, context: Context, dry_run: DryRun = False) -> RetentionPublic:
    """Replace the policy; it is applied within the hour. With `dry_run` only the plan is returned."""
    if not dry_run:
        context.retention.set_policy(policy)
    return _public(context, policy)


@router.post("/run", operation_id="retention_run")
@requires(Scope.ADMIN)
def run_retention(context: Context, dry_run: DryRun = False) -> RetentionPlan:
    """Run the policy now; returns what was deleted."""
    return _shown(context.retention.plan() if dry_run else context.retention.apply())
