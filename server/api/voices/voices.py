"""Routes of voices: list, get, edit, delete, versions."""

from typing import Annotated

from fastapi import Depends, Header, Query, Request, Response

from rvc_train.schemas.access import Scope
from rvc_train.schemas.base import Page
from rvc_train.schemas.voices.voices import VoiceDetail, VoicePatch, VoicePublic, VoiceVersionPublic
from server.api.authorization import OwnerFilter, VoiceOwner, requires
from server.api.voices.names import VoiceNameInPath, key_in_path
from server.context import Context
from server.http.etags import TAGGED, UNCHANGED, IfNoneMatch, named_tag_halves, tagged_json
from server.http.lists import Cursors, Limit
from server.http.prefix import RouterUnderV1
from server.http.problem_details import documented
from server.http.query_parameters import LABEL_PARAMETERS, wanted_labels
from server.voices.queries import VoiceFilter, update_tag

router = RouterUnderV1(prefix="/voices", tags=["voices"])

_CURSORS: Cursors[int] = Cursors("voices")
_VERSION_CURSORS: Cursors[int] = Cursors("versions")


@router.get(
    "",
    operation_id="voices_list",
    responses=documented(422),
    openapi_extra={"parameters": [LABEL_PARAMETERS]},
)
@requires(Scope.READ)
def list_voices(
    request: Request,
    response: Response,
    context: Context,
    owner_filter: OwnerFilter,
    after: Annotated[int | None, Depends(_CURSORS)],
    name: Annotated[str | None, Query(max_length=200, description="Only the voice of this name.")] = None,
    search: Annotated[str | None, Query(max_length=200, description="Only voices whose name contains this.")] = None,
    limit: Limit = 20,
) -> Page[VoicePublic]:
    """List your voices by their newest jobs, newest first. `label.<key>=<value>` in the query selects by label."""
    wanted = VoiceFilter(owner_filter, name, search, wanted_labels(request))
    voices, last = context.voice_queries.page(wanted, after, limit)
    return _CURSORS.page(request, response, voices, last)


@router.get("/{name:path}/versions", operation_id="voices_list_versions", responses=documented(404, 422))
@requires(Scope.READ)
def list_versions(
    name: VoiceNameInPath,
    owner: VoiceOwner,
    request: Request,
    response: Response,
    context: Context,
    after: Annotated[int | None, Depends(_VERSION_CURSORS)],
    limit: Limit = 20,
) -> Page[VoiceVersionPublic]:
    """List the versions of a voice, newest first: each is a job."""
    versions, last = context.voice_queries.versions(key_in_path(owner, name), after, limit)
    return _VERSION_CURSORS.page(request, response, versions, last)


# Below: a name may have slashes, and these routes match whatever the routes above do not.


@router.get(
    "/{name:voice}",
    operation_id="voices_get",
    responses=documented(404, also={200: TAGGED, **UNCHANGED}),
    response_model=VoiceDetail,
)
@requires(Scope.READ)
def get_voice(
    name: VoiceNameInPath,
    owner: VoiceOwner,
    context: Context,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Get one voice, with its newest versions and the current one."""
    voice = context.voice_queries.get(key_in_path(owner, name))
    return tagged_json(voice.model_dump_json(), update_tag(voice), if_none_match)


@router.patch(
    "/{name:voice}",
    operation_id="voices_update",
    responses=documented(404, 412, 422, also={200: TAGGED}),
    response_model=VoiceDetail,
)
@requires(Scope.SUBMIT)
def edit_voice(
    name: VoiceNameInPath,
    owner: VoiceOwner,
    patch: VoicePatch,
    context: Context,
    if_match: Annotated[
        str | None,
        Header(description="ETag of an earlier answer: 412 when notes, labels or the choice have changed since."),
    ] = None,
) -> Response:
    """Change notes and labels, or choose the current version."""
    key = key_in_path(owner, name)
    context.voices.update(key, patch, named_tag_halves(if_match))
    voice = context.voice_queries.get(key)
    return tagged_json(voice.model_dump_json(), update_tag(voice))


@router.delete("/{name:voice}", operation_id="voices_delete", status_code=204, responses=documented(404, 409))
@requires(Scope.SUBMIT)
def delete_voice(name: VoiceNameInPath, owner: VoiceOwner, context: Context) -> None:
    """Delete a voice: all of its jobs with their files, its links, notes and labels."""
    context.voices.delete(key_in_path(owner, name))
