"""Routes of links to voices: make, list, delete."""

from typing import Annotated

from fastapi import Depends, Path, Request, Response

from rvc_train.schemas.access import Scope
from rvc_train.schemas.base import Page
from rvc_train.schemas.voices.links import VoiceLinkCreate, VoiceLinkCreated, VoiceLinkPublic
from server.api.authorization import VoiceOwner, requires
from server.api.voices.names import VoiceNameInPath, key_in_path
from server.auth.authentication import FORWARDED_HOST
from server.context import Context
from server.http.lists import Cursors, Limit
from server.http.prefix import RouterUnderV1, prefix_of
from server.http.problem_details import documented
from server.voices.queries import voice_url

router = RouterUnderV1(prefix="/voices", tags=["voices"])

_CURSORS: Cursors[str] = Cursors("links", str)
_A_WEEK = VoiceLinkCreate()
LinkId = Annotated[str, Path(max_length=64)]


@router.post(
    "/{name:path}/links", operation_id="voices_create_link", status_code=201, responses=documented(404, 409, 422)
)
@requires(Scope.SUBMIT)
def create_link(
    name: VoiceNameInPath,
    owner: VoiceOwner,
    request: Request,
    response: Response,
    context: Context,
    wanted: VoiceLinkCreate = _A_WEEK,
) -> VoiceLinkCreated:
    """Make a link, with which anyone can listen to the voice without a token. Its address is shown once."""
    host = request.scope["state"].get(FORWARDED_HOST) or request.url.netloc
    base = f"{request.url.scheme}://{host}{prefix_of(request.scope)}"
    key = key_in_path(owner, name)
    made = context.links.create(key, wanted, base)
    response.headers["Location"] = voice_url(key, f"/links/{made.id}")
    return made


@router.get("/{name:path}/links", operation_id="voices_list_links", responses=documented(404, 422))
@requires(Scope.READ)
def list_links(
    name: VoiceNameInPath,
    owner: VoiceOwner,
    request: Request,
    response: Response,
    context: Context,
    after: Annotated[str | None, Depends(_CURSORS)],
    limit: Limit = 20,
) -> Page[VoiceLinkPublic]:
    """List the links of a voice, newest first, without their secrets; those that have ended for a month."""
    links, has_more = context.links.page(key_in_path(owner, name), after, limit)
    return _CURSORS.page(request, response, links, links[-1].id if has_more else None)


@router.get("/{name:path}/links/{link_id}", operation_id="voices_get_link", responses=documented(404))
@requires(Scope.READ)
def get_link(name: VoiceNameInPath, link_id: LinkId, owner: VoiceOwner, context: Context) -> VoiceLinkPublic:
    """Get one link, without its secret."""
    return context.links.get(key_in_path(owner, name), link_id)


@router.delete(
    "/{name:path}/links/{link_id}", operation_id="voices_delete_link", status_code=204, responses=documented(404)
)
@requires(Scope.SUBMIT)
def delete_link(name: VoiceNameInPath, link_id: LinkId, owner: VoiceOwner, context: Context) -> None:
    """Delete a link: its address ends at once."""
    context.links.delete(key_in_path(owner, name), link_id)
