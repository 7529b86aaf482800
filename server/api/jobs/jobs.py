"""Routes of jobs: submit, list, edit, control, retry, delete."""

from typing import Annotated, Literal

from fastapi import Depends, Header, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from rvc_train.schemas.access import Scope
from rvc_train.schemas.jobs import (
    JobCreate,
    JobList,
    JobPatch,
    JobPublic,
    JobRetry,
    JobStatus,
)
from server.api.authorization import OwnerFilter, require_principal, requires
from server.api.webhooks import check_address
from server.context import AppContext, Context
from server.database.clock import utc_now
from server.database.engine import read_session
from server.database.tables import Job
from server.http.etags import TAGGED, UNCHANGED, IfNoneMatch, named_tag_halves, tagged_json
from server.http.lists import Cursors, Limit
from server.http.prefix import RouterUnderV1
from server.http.problem_details import documented
from server.http.query_parameters import LABEL_PARAMETERS, wanted_labels
from server.http.threads import to_write
from server.job_store.idempotency import IdempotentRequest, fingerprint
from server.job_store.queries import find_job
from server.jobs.serializers import jobs_public, update_tag
from server.jobs.service import JobFilter, newest_jobs, next_jobs, numbers_by_status
from server.jobs.submission import Submission, request_fingerprint

router = RouterUnderV1(prefix="/jobs", tags=["jobs"])

_CURSORS: Cursors[int] = Cursors("jobs")

IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        description="For a day, a repeated request with this key and body gets the first answer and creates nothing.",
    ),
]
_GOES_ON = {202: {"model": JobPublic, "description": "The worker will stop after its current step and a checkpoint"}}
_STOPPING = frozenset({JobStatus.CANCELLING, JobStatus.PAUSING})
_UNCHANGED = JobRetry()


def _public(context: AppContext, job: Job) -> JobPublic:
    with read_session(context.engine) as session:
        return jobs_public(session, [job], context.estimator, utc_now())[0]


def _accepted(submission: Submission) -> Response:
    headers = {"Location": f"/v1/jobs/{submission.job_id}"}
    if submission.is_replay:
        headers["Idempotency-Replayed"] = "true"
    return Response(submission.answer, 202, headers, "application/json")


_JOB_CREATED = {
    202: {
        "model": JobPublic,
        "headers": {
            "Location": {"description": "Address of the job.", "schema": {"type": "string", "pattern": "^/v1/"}},
            "Idempotency-Replayed": {
                "description": "Sent when an earlier request created the job.",
                "schema": {"const": "true"},
            },
        },
    }
}


@router.post("", operation_id="jobs_create", status_code=202, responses=documented(409, 422, 429, also=_JOB_CREATED))
@requires(Scope.SUBMIT)
async def submit(request: JobCreate, context: Context, idempotency_key: IdempotencyKey = None) -> Response:
    """Submit a job. It waits for its dataset's report, then for a worker."""
    idempotent = None
    if idempotency_key is not None:
        idempotent = IdempotentRequest(require_principal().owner, idempotency_key, request_fingerprint(request))
    if request.webhook is not None:
        if idempotent is not None and (earlier := await run_in_threadpool(context.jobs.replay, idempotent)) is not None:
            return _accepted(earlier)  # without a look at the address, which may not resolve at the moment
        await check_address(context, request.webhook.url)
    return await to_write(_submit, request, context, idempotent)


def _submit(request: JobCreate, context: AppContext, idempotent: IdempotentRequest | None) -> Response:
    principal = require_principal()
    with context.in_flight_keys.exclusive(principal.owner, None if idempotent is None else idempotent.key):
        submission = context.jobs.submit(
            request, owner=principal.owner, visible_owner=principal.visible_owner, idempotent=idempotent
        )
    return _accepted(submission)


@router.get(
    "",
    operation_id="jobs_list",
    responses=documented(422, also={200: TAGGED, **UNCHANGED}),
    openapi_extra={"parameters": [LABEL_PARAMETERS]},
    response_model=JobList,
)
@requires(Scope.READ)
def list_jobs(
    request: Request,
    response: Response,
    context: Context,
    owner_filter: OwnerFilter,
    after: Annotated[int | None, Depends(_CURSORS)],
    status: Annotated[list[JobStatus] | None, Query(description="Only jobs with this status; may be repeated.")] = None,
    dataset: Annotated[str | None, Query(max_length=64, description="Only jobs on this dataset.")] = None,
    name: Annotated[str | None, Query(max_length=200, description="Only jobs for the voice of this name.")] = None,
    id_prefix: Annotated[
        str | None, Query(max_length=64, description="Only jobs whose id starts with this; `job_` may be left out.")
    ] = None,
    search: Annotated[
        str | None, Query(max_length=200, description="Only jobs whose voice's name contains this.")
    ] = None,
    sort: Annotated[
        Literal["newest", "queue"],
        Query(description="`queue`: only queued jobs, in the order in which they will run."),
    ] = "newest",
    counts: Annotated[bool, Query(description="Also count the jobs that match, by status.")] = False,
    limit: Limit = 20,
) -> Response:
    """List your jobs, newest first. `label.<key>=<value>` in the query selects by label; it may be repeated."""
    wanted = JobFilter(status or (), dataset, name, id_prefix, search, wanted_labels(request), owner_filter)
    with read_session(context.engine) as session:
        jobs, last = (next_jobs if sort == "queue" else newest_jobs)(session, wanted, after, limit)
        data = jobs_public(session, jobs, context.estimator, utc_now())
        found = numbers_by_status(session, wanted) if counts else None
    page = _CURSORS.page(request, response, data, last)
    answer = JobList.model_construct(data=data, has_more=page.has_more, next_cursor=page.next_cursor, counts=found)
    return Response(answer.model_dump_json(), headers=dict(response.headers), media_type="application/json")


@router.get(
    "/{job_id}",
    operation_id="jobs_get",
    responses=documented(404, also={200: TAGGED, **UNCHANGED}),
    response_model=JobPublic,
)
@requires(Scope.READ)
def get_job(
    job_id: str,
    context: Context,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Get one job."""
    with read_session(context.engine) as session:
        job = find_job(session, job_id)
        answer = jobs_public(session, [job], context.estimator, utc_now())[0].model_dump_json()
    return tagged_json(answer, update_tag(job), if_none_match)


@router.patch(
    "/{job_id}",
    operation_id="jobs_update",
    responses=documented(404, 409, 412, 422, also={200: TAGGED}),
    response_model=JobPublic,
)
@requires(Scope.SUBMIT)
def edit(
    job_id: str,
    patch: JobPatch,
    context: Context,
    if_match: Annotated[
        str | None, Header(description="ETag of an earlier answer: 412 when labels or priority have changed since.")
    ] = None,
) -> Response:
    """Change labels (at any time) or the priority (while the job is queued)."""
    job = context.jobs.update(job_id, patch, named_tag_halves(if_match))
    return tagged_json(_public(context, job).model_dump_json(), update_tag(job))


@router.post("/{job_id}/cancel", operation_id="jobs_cancel", responses=documented(404, 409, also=_GOES_ON))
@requires(Scope.SUBMIT)
def cancel(job_id: str, response: Response, context: Context) -> JobPublic:
    """Cancel a job: at once while it waits; a running job ends after its current step and a checkpoint."""
    return _control_response(context, context.jobs.cancel(job_id)[0], response)


@router.post("/{job_id}/pause", operation_id="jobs_pause", responses=documented(404, 409, also=_GOES_ON))
@requires(Scope.SUBMIT)
def pause(job_id: str, response: Response, context: Context) -> JobPublic:
    """Pause a job: at once while it waits; a running job stops after its current step and a checkpoint."""
    return _control_response(context, context.jobs.pause(job_id)[0], response)


@router.post("/{job_id}/resume", operation_id="jobs_resume", responses=documented(404, 409))
@requires(Scope.SUBMIT)
def resume(job_id: str, context: Context) -> JobPublic:
    """Return a paused job to the queue, at the place given by its priority and age."""
    return _public(context, context.jobs.resume(job_id)[0])


def _control_response(context: AppContext, job: Job, response: Response) -> JobPublic:
    """The job; with 202 while its worker has yet to stop."""
    if job.status in _STOPPING:
        response.status_code = 202
    return _public(context, job)


@router.post(
    "/{job_id}/retry",
    operation_id="jobs_retry",
    status_code=202,
    responses=documented(404, 409, 422, 429, also=_JOB_CREATED),
)
@requires(Scope.SUBMIT)
def retry(
    job_id: str,
    context: Context,
    request: JobRetry = _UNCHANGED,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Retry a job that has ended, as a new job: from its last checkpoint or from the start; some options may change.

    A job that succeeded can be continued too, for more epochs.
    """
    principal = require_principal()
    idempotent = None
    if idempotency_key is not None:
        payload = fingerprint("retry", job_id, request.model_dump(mode="json"))
        idempotent = IdempotentRequest(principal.owner, idempotency_key, payload)
    with context.in_flight_keys.exclusive(principal.owner, idempotency_key):
        submission = context.retries.retry(
            job_id, request, visible_owner=principal.visible_owner, idempotent=idempotent
        )
    return _accepted(submission)


@router.delete("/{job_id}", operation_id="jobs_delete", status_code=204, responses=documented(404, 409))
@requires(Scope.SUBMIT)
def delete_job(job_id: str, context: Context) -> None:
    """Delete a job that has ended, with its checkpoints, log and voice."""
    converted = context.jobs.delete(job_id)
    context.storage.delete_job(job_id, converted)
