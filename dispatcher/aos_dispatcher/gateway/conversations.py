"""`/v1/conversations`: what a project has said and was answered, to be read and deleted. A chat goes on with one by its `id`."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from pydantic import AfterValidator, BaseModel
from sqlalchemy import Row

from aos_dispatcher.api import Service, Token
from aos_dispatcher.openapi import ERRORS
from aos_dispatcher.tables import JsonObject
from aos_protocol.fields import storable

router = APIRouter(prefix="/v1/conversations", tags=["conversations"], responses=ERRORS)


ConversationId = Annotated[str, Path(max_length=128), AfterValidator(storable)]


class _Success(BaseModel):
    code: Literal[0] = 0
    message: Literal["success"] = "success"


class ConversationShown(BaseModel):
    """A conversation: how many answers it has, of how many bytes it is, and when (Unix seconds) it began, was used, and expires."""

    id: str
    object: Literal["conversation"] = "conversation"
    turns: int
    bytes: int
    created_at: int
    used_at: int
    expires_at: int


class ConversationMessage(BaseModel):
    """Something that was said."""

    role: Literal["system", "user", "assistant"]
    content: str


class ConversationAnswer(ConversationShown, _Success):
    """A conversation with all that was said in it."""

    messages: list[ConversationMessage]


class ConversationList(_Success):
    """A project's conversations by their ids; when `has_more`, ask again with `after` as the last id."""

    object: Literal["list"] = "list"
    data: list[ConversationShown]
    has_more: bool


class ConversationDeleted(_Success):
    """What is left of a deleted conversation."""

    id: str
    object: Literal["conversation.deleted"] = "conversation.deleted"
    deleted: Literal[True] = True


@router.get("", response_model=ConversationList)
async def conversations(
    service: Service,
    token: Token,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[str, Query(max_length=128), AfterValidator(storable)] = "",
) -> JsonObject:
    """List the conversations of the token's project. Needs the scope read."""
    project = await service.projects.owner(token, "read")
    rows = await service.front.conversations.of_project(project, after, limit + 1)
    return {"data": [_shown(row) for row in rows[:limit]], "has_more": len(rows) > limit}


@router.get("/{conversation_id:path}", response_model=ConversationAnswer)
async def conversation(service: Service, conversation_id: ConversationId, token: Token) -> JsonObject:
    """Read a conversation of the token's project. Needs the scope read."""
    project = await service.projects.owner(token, "read")
    row = await service.front.conversations.get(project, conversation_id)
    return _shown(row) | {"messages": row.messages}


@router.delete("/{conversation_id:path}", response_model=ConversationDeleted)
async def delete_conversation(service: Service, conversation_id: ConversationId, token: Token) -> JsonObject:
    """Delete a conversation of the token's project. Needs the scope manage. The jobs that it was made of stay."""
    project = await service.projects.owner(token, "manage")
    await service.front.conversations.delete(project, conversation_id)
    return {"id": conversation_id}


def _shown(row: Row[Any]) -> JsonObject:
    return {
        "id": row.id,
        "turns": row.turns,
        "bytes": row.bytes,
        "created_at": int(row.created_at.timestamp()),
        "used_at": int(row.used_at.timestamp()),
        "expires_at": int(row.expires_at.timestamp()),
    }
