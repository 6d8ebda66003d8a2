"""The JSON of models."""

from collections.abc import Sequence
from typing import Any

import orjson
from pydantic import BaseModel, Field

from model_registry.domain.entities import RegisteredModel
from model_registry.services.models import DescribedModel
from model_registry.utils import rfc3339
from model_registry.web.responses.aliases import AliasOut, alias_members
from model_registry.web.responses.schemas import TIME_EXAMPLE


class ModelOut(BaseModel):
    """A name that groups versions."""

    name: str = Field(examples=["fraud-detector"])
    description: str | None
    tags: dict[str, str | float | bool]
    created_at: str = Field(examples=[TIME_EXAMPLE])
    updated_at: str = Field(examples=[TIME_EXAMPLE], description="When its description or tags last changed.")
    latest_version: str | None = Field(description="The latest version; null if there is no ready version.")
    version_count: int = Field(description="The number of ready versions.")


class DescribedModelOut(ModelOut):
    """A model with its aliases."""

    aliases: list[AliasOut] = Field(description="The first 1,000 aliases, sorted by name.")


class ModelPageOut(BaseModel):
    items: list[ModelOut]
    next_page_token: str | None


def model_page_json(items: Sequence[RegisteredModel], next_page_token: str | None) -> bytes:
    return orjson.dumps({"items": [model_members(model) for model in items], "next_page_token": next_page_token})


def described_model_json(described: DescribedModel) -> bytes:
    aliases = [alias_members(alias) for alias in described.aliases]
    return orjson.dumps(model_members(described.model) | {"aliases": aliases})


def model_members(model: RegisteredModel) -> dict[str, Any]:
    return {
        "name": model.name,
        "description": model.description,
        "tags": orjson.Fragment(model.tags.encode()),
        "created_at": rfc3339(model.created_at),
        "updated_at": rfc3339(model.updated_at),
        "latest_version": model.latest_version,
        "version_count": model.version_count,
    }
