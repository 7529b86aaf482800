"""The codes of errors: what each means and what to do. The one table behind `/problems`, the guide and OpenAPI."""

from dataclasses import dataclass

ADDRESS = "/problems"
"""URL path of the descriptions; the `type` of a problem is the address of its code."""
OTHER = "error"
"""Code of an error that has no code of its own."""


@dataclass(frozen=True)
class ProblemType:
    """Description of a code."""

    statuses: tuple[int, ...]
    meaning: str
    advice: str
    is_retryable: bool = False
    """Whether the same request may succeed later, with nothing changed by the caller."""


PROBLEM_TYPES = {
    "unsupported_checksum": ProblemType(
        (400,),
        "The algorithm in the header `Upload-Checksum` is not supported.",
        "Use one that the header `Tus-Checksum-Algorithm` of OPTIONS names.",
    ),
    "unsupported_tus_extension": ProblemType(
        (400,),
        "A header of a tus extension that the server does not have.",
        "Set the tus client as `detail` says: whole files, of a length that is known.",
    ),
    "unauthorized": ProblemType(
        (401,),
        'The request has no token, or, with `error="invalid_token"` in `WWW-Authenticate`, one that is unknown, '
        "revoked or expired.",
        "Send `Authorization: Bearer <token>`. `rvc-train token show` prints the local one.",
    ),
    "forbidden": ProblemType(
        (403,),
        "A signed-in browser sent a change from a page of another origin.",
        "Use the server's own pages, or send a token. Behind a proxy, pass the Host header on unchanged.",
    ),
    "scope_missing": ProblemType(
        (403,),
        "The token lacks the scope that the request requires.",
        "Use a token with the scope in `detail`; administrators make tokens.",
    ),
    "not_found": ProblemType(
        (404,), "The resource does not exist, or belongs to another owner.", "Look it up in the list of its kind."
    ),
    "method_not_allowed": ProblemType(
        (405,), "The address does not support the method.", "Use one of the methods in the header `Allow`."
    ),
    "too_slow": ProblemType(
        (408,),
        "No data of an upload arrived for a minute, or less than 1 KiB a second for five.",
        "Resume the upload at the offset that HEAD returns.",
        is_retryable=True,
    ),
    "conflict": ProblemType(
        (409,),
        "The request is not possible in the resource's current state.",
        "`detail` has the state to wait for.",
    ),
    "offset_mismatch": ProblemType(
        (409,),
        "A chunk of an upload does not begin at the upload's offset.",
        "Continue at the offset in the header `Upload-Offset`.",
    ),
    "still_running": ProblemType(
        (409,),
        "A request with the same `Idempotency-Key` is still being processed.",
        "Send the same request again after `Retry-After`.",
        is_retryable=True,
    ),
    "already_done": ProblemType(
        (409,),
        "A request with the same `Idempotency-Key` was carried out before, and its answer cannot be repeated: it had a "
        "secret, or the server stopped before it was stored.",
        "Look for the result of the first request (its address may be in `Location`); use a new key to send it again.",
    ),
    "claim_lost": ProblemType(
        (409,),
        "A worker asked for, or wrote about, a job that it no longer holds.",
        "Nothing: the job has ended, or another worker has it.",
    ),
    "schema_changed": ProblemType(
        (409,),
        "A worker of another version than the database's gets no job.",
        "Start a worker of the server's version.",
    ),
    "worker_version": ProblemType(
        (409,),
        "A worker on another machine has a version that does not go with the server's.",
        "Install the version that `detail` names.",
    ),
    "checkpoints_damaged": ProblemType(
        (409,),
        "The record of a job's stored checkpoints is damaged.",
        "Retry the job from the start, or restore its files from a backup.",
    ),
    "gone": ProblemType((410,), "The file is no longer stored.", "Create it anew: repeat the upload or the job."),
    "precondition_failed": ProblemType(
        (412,), "The resource changed since it was read.", "Read it again, and send its new ETag in `If-Match`."
    ),
    "unsupported_tus_version": ProblemType(
        (412,),
        "The header `Tus-Resumable` is missing or names another version of tus.",
        "Send the version in the header `Tus-Version`.",
    ),
    "too_large": ProblemType((413,), "The body is larger than the server reads.", "Send less in one request."),
    "upload_too_large": ProblemType(
        (413,),
        "The upload is beyond a limit of the server.",
        "Split the recordings; `GET /v1/system` lists the limits.",
    ),
    "unsupported_media_type": ProblemType(
        (415,), "The body has a media type that the address does not take.", "Send the type that `detail` names."
    ),
    "range_not_satisfiable": ProblemType(
        (416,), "The range is beyond the end of the file.", "See the header `Content-Range` for the file's size."
    ),
    "invalid_request": ProblemType(
        (422,),
        "A field of the body, a parameter or a header does not fit the schema.",
        "Correct what `errors` names.",
    ),
    "refused": ProblemType(
        (422,),
        "The request fits the schema, but its content is not accepted.",
        "Correct what `detail` and `errors` name.",
    ),
    "consent_required": ProblemType(
        (422,),
        "The dataset has no consent of its speaker, and this server trains no voice without.",
        "Record it with `PUT /v1/datasets/{id}/consent`, and send the request again.",
    ),
    "upload_refused": ProblemType(
        (422,), "The archive or file is not accepted.", "Repair what `detail` names, and upload it again."
    ),
    "too_many_requests": ProblemType(
        (429,), "A rate limit is exceeded.", "Wait for the seconds in `Retry-After`.", is_retryable=True
    ),
    "quota_exceeded": ProblemType(
        (429, 507),
        "The owner's quota of jobs, GPU hours (429) or bytes (507) is used up.",
        "Wait for jobs to end, delete what is not needed, or ask an administrator for a larger quota.",
    ),
    "checksum_mismatch": ProblemType(
        (460,), "A chunk of an upload arrived damaged.", "Send the chunk again.", is_retryable=True
    ),
    "internal": ProblemType(
        (500,), "An error of the server.", "Report it with the `request_id`, under which the server's log has it."
    ),
    "unavailable": ProblemType(
        (503,),
        "The database or the object storage does not answer.",
        "Send the same request again after `Retry-After`.",
        is_retryable=True,
    ),
    "no_space": ProblemType(
        (507,),
        "The server's disk is full, or the upload would use its reserve.",
        "Ask an administrator to free space, and send the request again.",
        is_retryable=True,
    ),
    "settings_refused": ProblemType(
        (409,),
        "A worker has settings that do not go with the server's.",
        "Change the setting that the message names.",
    ),
    "nothing_published": ProblemType(
        (500,), "A worker reported success without a voice.", "Report it with the worker's log."
    ),
    OTHER: ProblemType((), "An error of HTTP without a code of its own.", "`status` and `detail` have the reason."),
}
"""By code, in the order of the statuses; codes without a request at the end."""


def problem_type(code: str) -> ProblemType:
    """The description of a code."""
    return PROBLEM_TYPES.get(code, PROBLEM_TYPES[OTHER])


def guide_table() -> str:
    """The table of codes in `docs/api-guide.md`."""
    rows = [
        f"| `{code}` | {', '.join(map(str, kind.statuses))} | {'yes' if kind.is_retryable else 'no'} "
        f"| {kind.meaning} {kind.advice} |"
        for code, kind in PROBLEM_TYPES.items()
        if kind.statuses and (500 not in kind.statuses or code == "internal")
    ]
    return "\n".join(["| `code` | status | retryable | meaning, and what to do |", "| --- | --- | --- | --- |", *rows])
