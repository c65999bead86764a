"""What models say when they register with the node beside them: DBC's shapes."""

from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints

from aos_protocol.fields import Message, ModelKind, ShortText, storable

MOST_MODELS = 64
"""How many models one registration of a project names at most."""

Cid = Annotated[str, StringConstraints(max_length=128), AfterValidator(storable)]
Api = Annotated[str, StringConstraints(min_length=1, max_length=1024), AfterValidator(storable)]


class ProjectModel(Message):
    """One running model of a project: its name, its URL, its type and its container."""

    model: ShortText
    api: Api
    kind: ModelKind = Field(0, alias="type")
    cid: Cid = ""


class RegisterModel(ProjectModel):
    """Body of `/api/v0/ai/model/register`."""

    project: ShortText


class UnregisterModel(Message):
    """Body of `/api/v0/ai/model/unregister`."""

    project: ShortText
    model: ShortText
    cid: Cid = ""


class RegisterProject(Message):
    """Body of `/api/v0/ai/project/register`: models are added and updated; those that are not named stay as they are."""

    project: ShortText
    models: list[ProjectModel] = Field(min_length=1, max_length=MOST_MODELS)


class UnregisterProject(Message):
    """Body of `/api/v0/ai/project/unregister`."""

    project: ShortText
