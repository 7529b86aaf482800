"""What is kept how long: look, change, try, carry out."""

from typing import Annotated

from fastapi import APIRouter, Query

from rvc_train.schemas.access import Scope
from rvc_train.schemas.administration import RetentionPlan, RetentionPolicy, RetentionPublic
from server.api.authorization import requires
from server.context import AppContext, Context
from server.http.problem_details import documented

router = APIRouter(prefix="/retention", tags=["retention"])

DryRun = Annotated[bool, Query(description="Only tell what would happen.")]


def _public(services: AppContext, policy: RetentionPolicy) -> RetentionPublic:
    return RetentionPublic(policy=policy, plan=services.retention.plan(policy))


@router.get("")
@requires(Scope.ADMIN)
def get_retention(services: Context) -> RetentionPublic:
    """The policy, and what it would delete now."""
    return _public(services, services.retention.policy())


@router.put("", responses=documented(422))
@requires(Scope.ADMIN)
def set_retention(policy: RetentionPolicy, services: Context, dry_run: DryRun = False) -> RetentionPublic:
    """Replace the policy; carried out within the hour. With `dry_run` nothing changes, and the plan is told."""
    if not dry_run:
        services.retention.set_policy(policy)
    return _public(services, policy)


@router.post("/run")
@requires(Scope.ADMIN)
def run_retention(services: Context, dry_run: DryRun = False) -> RetentionPlan:
    """Carry the policy out now; what was deleted."""
    return services.retention.plan() if dry_run else services.retention.apply()
