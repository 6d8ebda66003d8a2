"""The context of a request: the services of this process and the actor."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from model_registry.auth.permissions import ANONYMOUS, Actor
from model_registry.model_registry import ModelRegistry
from model_registry.services.aliases import Aliases
from model_registry.services.downloads import Downloads
from model_registry.services.events import Events
from model_registry.services.lifecycle import Lifecycle
from model_registry.services.models import Models
from model_registry.services.push.commit import Commits
from model_registry.services.push.parts import UploadParts
from model_registry.services.push.proxied import ProxiedUploads
from model_registry.services.push.reservation import Reservations
from model_registry.services.search import Search
from model_registry.services.versions import Versions
from model_registry.settings import Settings
from model_registry.wiring import Services


@dataclass(frozen=True, slots=True)
class RequestContext:
    services: Services
    actor: Actor

    @property
    def settings(self) -> Settings:
        return self.services.settings

    @property
    def registry(self) -> ModelRegistry:
        return self.services.registry

    @property
    def versions(self) -> Versions:
        return self.services.versions

    @property
    def search(self) -> Search:
        return self.services.search

    @property
    def models(self) -> Models:
        return self.services.models

    @property
    def lifecycle(self) -> Lifecycle:
        return self.services.lifecycle

    @property
    def reservations(self) -> Reservations:
        return self.services.reservations

    @property
    def upload_parts(self) -> UploadParts:
        return self.services.upload_parts

    @property
    def proxied_uploads(self) -> ProxiedUploads:
        return self.services.proxied_uploads

    @property
    def commits(self) -> Commits:
        return self.services.commits

    @property
    def downloads(self) -> Downloads:
        return self.services.downloads

    @property
    def aliases(self) -> Aliases:
        return self.services.aliases

    @property
    def events(self) -> Events:
        return self.services.events


async def request_context(request: Request) -> RequestContext:
    # This is async because FastAPI runs sync dependencies in a thread. Tokens will determine the actor here.
    return RequestContext(request.app.state.services, ANONYMOUS)


Context = Annotated[RequestContext, Depends(request_context)]
