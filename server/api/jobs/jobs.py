"""Jobs: submit, look at, edit, steer, try again, delete."""

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import TypeAdapter, ValidationError
from sqlmodel import Session

from rvc_train.schemas.access import Scope
from rvc_train.schemas.base import Page
from rvc_train.schemas.jobs import JobCreate, JobPatch, JobPublic, JobRetry, JobStatus, LabelKey, LabelValue
from server.api.authorization import OwnerFilter, require_principal, requires
from server.api.webhooks import check_address
from server.context import After, AppContext, Context, Limit, link_next
from server.database.clock import utc_now
from server.database.engine import read_session
from server.database.tables import Job
from server.errors import Refused
from server.http.etags import matches_weakly
from server.http.problem_details import documented
from server.job_store.idempotency import IdempotentRequest, fingerprint
from server.jobs.serializers import job_etag, jobs_public, update_tags
from server.jobs.submission import Render, request_fingerprint

router = APIRouter(prefix="/jobs", tags=["jobs"])

IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        description="The same key with the same body does it once and gives the first answer again, for a day.",
    ),
]
_ETAG = {"headers": {"ETag": {"description": "Changes with the answer.", "schema": {"type": "string"}}}}
_NO_CHANGE = {200: {"model": JobPublic, "description": "It was already so"}}
_LABEL = "label."
_UNCHANGED = JobRetry()
_LABELS: TypeAdapter[dict[LabelKey, LabelValue]] = TypeAdapter(dict[LabelKey, LabelValue])


def _public(context: AppContext, job: Job) -> JobPublic:
    with read_session(context.engine) as session:
        return jobs_public(session, [job], context.queue_forecast, utc_now())[0]


def _with_etag(context: AppContext, job: Job, response: Response) -> JobPublic:
    public = _public(context, job)
    response.headers["ETag"] = job_etag(job, public)
    return public


def _renderer(context: AppContext) -> Render:
    """The answer to a submission, made in its transaction, for those who ask again with the same key."""

    def render(session: Session, job: Job) -> str:
        return jobs_public(session, [job], context.queue_forecast, utc_now())[0].model_dump_json()

    return render


def _idempotent_response(context: AppContext, idempotent: IdempotentRequest | None, act: Callable[[], Job]) -> Response:
    """Act, or give the answer that the first request under the key got."""
    if idempotent is None:
        return _accepted(_public(context, act()).model_dump_json())
    with context.in_flight_keys.exclusive(idempotent.owner, idempotent.key):
        answer = context.jobs.stored_response(idempotent)
        if answer is not None:
            return _accepted(answer, is_replay=True)
        job = act()
        return _accepted(context.jobs.stored_response(idempotent) or _public(context, job).model_dump_json())


def _accepted(body: str, *, is_replay: bool = False) -> Response:
    headers = {"Location": f"/v1/jobs/{JobPublic.model_validate_json(body).id}"}
    if is_replay:
        headers["Idempotency-Replayed"] = "true"
    return Response(body, 202, headers, "application/json")


_JOB_CREATED = {
    202: {
        "model": JobPublic,
        "headers": {
            "Location": {"description": "Where the job is.", "schema": {"type": "string", "pattern": "^/v1/"}},
            "Idempotency-Replayed": {"description": "Whether the job was there.", "schema": {"const": "true"}},
        },
    }
}


@router.post("", status_code=202, responses=documented(409, 422, 429, also=_JOB_CREATED))
@requires(Scope.SUBMIT)
def submit(request: JobCreate, context: Context, idempotency_key: IdempotencyKey = None) -> Response:
    """Ask for a voice. The job waits for its dataset's report, then for a worker."""
    principal = require_principal()
    if request.webhook is not None:
        check_address(context, request.webhook.url)
    idempotent = (
        None
        if idempotency_key is None
        else IdempotentRequest(principal.owner, idempotency_key, request_fingerprint(request))
    )

    def act() -> Job:
        return context.jobs.submit(
            request,
            owner=principal.owner,
            visible_owner=principal.visible_owner,
            idempotent=idempotent,
            render=_renderer(context),
        )

    return _idempotent_response(context, idempotent, act)


@router.get("", responses=documented(404, 422))
@requires(Scope.READ)
def list_jobs(
    request: Request,
    response: Response,
    context: Context,
    owner_filter: OwnerFilter,
    status: Annotated[list[JobStatus] | None, Query(description="Only jobs that stand so; may be repeated.")] = None,
    dataset: Annotated[str | None, Query(max_length=64, description="Only jobs on this dataset.")] = None,
    name: Annotated[str | None, Query(max_length=200, description="Only jobs for a voice of this name.")] = None,
    id_prefix: Annotated[
        str | None, Query(max_length=64, description="Only jobs whose id begins so; `job_` may be left out.")
    ] = None,
    search: Annotated[str | None, Query(max_length=200, description="Only jobs whose voice's name holds this.")] = None,
    after: After = None,
    limit: Limit = 20,
) -> Page[JobPublic]:
    """Your jobs, newest first. `label.<key>=<value>` in the query finds those with a label; it may be repeated."""
    jobs, has_more = context.jobs.list(
        statuses=status or (),
        dataset_id=dataset,
        name=name,
        id_prefix=id_prefix,
        search=search,
        labels=_labels(request),
        owner=owner_filter,
        after=after,
        limit=limit,
    )
    cursor = jobs[-1].id if has_more else None
    link_next(request, response, cursor)
    with read_session(context.engine) as session:
        data = jobs_public(session, jobs, context.queue_forecast, utc_now())
    return Page(data=data, has_more=has_more, next_cursor=cursor)


def _labels(request: Request) -> dict[str, str]:
    items = request.query_params.multi_items()
    wanted = {key.removeprefix(_LABEL): value for key, value in items if key.startswith(_LABEL)}
    try:
        return _LABELS.validate_python(wanted)
    except ValidationError as error:
        first = error.errors()[0]
        raise Refused(f"no label can be so: {first['msg']}", f"?{_LABEL}{first['loc'][0]}") from error


@router.get(
    "/{job_id}",
    responses=documented(404, also={200: _ETAG, 304: {"description": "Still as `If-None-Match` names it", **_ETAG}}),
    response_model=JobPublic,
)
@requires(Scope.READ)
def get_job(
    job_id: str,
    response: Response,
    context: Context,
    if_none_match: Annotated[str | None, Header(description="304 while the job is as it was.")] = None,
) -> JobPublic | Response:
    """One job."""
    public = _with_etag(context, context.jobs.get(job_id), response)
    etag = response.headers["ETag"]
    if matches_weakly(if_none_match, etag):
        return Response(status_code=304, headers={"ETag": etag})
    return public


@router.patch("/{job_id}", responses=documented(404, 409, 412, 422, also={200: _ETAG}))
@requires(Scope.SUBMIT)
def edit(
    job_id: str,
    patch: JobPatch,
    response: Response,
    context: Context,
    if_match: Annotated[
        str | None, Header(description="412 when labels or priority are no longer as in the job with this ETag.")
    ] = None,
) -> JobPublic:
    """Change labels, at any time, or the priority, while the job is queued."""
    return _with_etag(context, context.jobs.update(job_id, patch, update_tags(if_match)), response)


@router.post("/{job_id}/cancel", status_code=202, responses=documented(404, 409, also=_NO_CHANGE))
@requires(Scope.SUBMIT)
def cancel(job_id: str, response: Response, context: Context) -> JobPublic:
    """Cancel a job: at once while it waits; a running one ends after its present step and a checkpoint."""
    return _control_response(context, context.jobs.cancel(job_id), response)


@router.post("/{job_id}/pause", status_code=202, responses=documented(404, 409, also=_NO_CHANGE))
@requires(Scope.SUBMIT)
def pause(job_id: str, response: Response, context: Context) -> JobPublic:
    """Pause a job: at once while it waits; a running one stops after its present step and a checkpoint."""
    return _control_response(context, context.jobs.pause(job_id), response)


@router.post("/{job_id}/resume", status_code=202, responses=documented(404, 409, also=_NO_CHANGE))
@requires(Scope.SUBMIT)
def resume(job_id: str, response: Response, context: Context) -> JobPublic:
    """Put a paused job back into the queue, at the place that its age and priority give it."""
    return _control_response(context, context.jobs.resume(job_id), response)


def _control_response(context: AppContext, result: tuple[Job, bool], response: Response) -> JobPublic:
    job, is_new = result
    if not is_new:
        response.status_code = 200
    return _public(context, job)


@router.post("/{job_id}/retry", status_code=202, responses=documented(404, 409, 422, 429, also=_JOB_CREATED))
@requires(Scope.SUBMIT)
def retry(
    job_id: str,
    context: Context,
    request: JobRetry = _UNCHANGED,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Try a job that has ended again, as a new one: from its last checkpoint, or afresh; some options may change.

    A job that succeeded can be gone on with too, for more epochs.
    """
    principal = require_principal()
    context.jobs.get(job_id)
    idempotent = None
    if idempotency_key is not None:
        payload = fingerprint("retry", job_id, request.model_dump(mode="json"))
        idempotent = IdempotentRequest(principal.owner, idempotency_key, payload)

    def act() -> Job:
        return context.retries.retry(
            job_id, request, visible_owner=principal.visible_owner, idempotent=idempotent, render=_renderer(context)
        )

    return _idempotent_response(context, idempotent, act)


@router.delete("/{job_id}", status_code=204, responses=documented(404, 409))
@requires(Scope.SUBMIT)
def delete_job(job_id: str, context: Context) -> None:
    """Delete a job that has ended, with its checkpoints, log and voice."""
    context.jobs.delete(job_id)
    context.storage.delete_job(job_id)
