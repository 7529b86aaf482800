"""Jobs: submit, look at, cancel, delete."""

from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response

from server.access import present
from server.problems import documented
from server.routes.webhooks import check_address
from server.schemas import JobCreate, JobPublic, JobStatus, Page
from server.services import After, Limit, Services, ServicesDep, link_next
from server.tables import Job
from server.views import jobs_public

router = APIRouter(prefix="/jobs", tags=["jobs"])


def _public(services: Services, job: Job) -> JobPublic:
    return jobs_public(services.engine, [job])[0]


@router.post("", status_code=202, responses=documented(422, 429))
def submit(
    wish: JobCreate,
    response: Response,
    services: ServicesDep,
    idempotency_key: Annotated[
        str | None,
        Header(min_length=1, max_length=255, description="The same key gives the same job for a day."),
    ] = None,
) -> JobPublic:
    """Ask for a voice. The job waits for its dataset's report, then for a worker."""
    caller = present()
    if wish.webhook is not None:
        check_address(services, wish.webhook.url)
    job = services.book.submit(wish, owner=caller.owner, sees=caller.sees, idempotency_key=idempotency_key)
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    return _public(services, job)


@router.get("", responses=documented(404, 422))
def list_jobs(
    request: Request,
    response: Response,
    services: ServicesDep,
    status: Annotated[list[JobStatus] | None, Query(description="Only jobs that stand so; may be repeated.")] = None,
    dataset: Annotated[str | None, Query(max_length=64, description="Only jobs on this dataset.")] = None,
    after: After = None,
    limit: Limit = 20,
) -> Page[JobPublic]:
    """Your jobs, newest first."""
    jobs, has_more = services.book.list(
        statuses=status or (), dataset_id=dataset, owner=present().sees, after=after, limit=limit
    )
    cursor = jobs[-1].id if has_more else None
    link_next(request, response, cursor)
    return Page(data=jobs_public(services.engine, jobs), has_more=has_more, next_cursor=cursor)


@router.get("/{job_id}", responses=documented(404))
def get_job(job_id: str, services: ServicesDep) -> JobPublic:
    """One job."""
    return _public(services, services.book.get(job_id))


@router.post(
    "/{job_id}/cancel",
    status_code=202,
    responses=documented(404, 409, also={200: {"model": JobPublic, "description": "It was already so"}}),
)
def cancel(job_id: str, response: Response, services: ServicesDep) -> JobPublic:
    """Cancel a job: at once while it waits; a running one ends after its present step."""
    job, is_new = services.book.cancel(job_id)
    if not is_new:
        response.status_code = 200
    return _public(services, job)


@router.delete("/{job_id}", status_code=204, responses=documented(404, 409))
def delete_job(job_id: str, services: ServicesDep) -> None:
    """Delete a job that has ended, with its checkpoints, log and voice."""
    services.book.delete(job_id)
    services.storage.delete_job(job_id)
