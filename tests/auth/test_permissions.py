"""Every use case first asks whether the actor may, and on which model. Actors share reads only if they see the same."""

import contextlib
import inspect
import pkgutil
from collections.abc import AsyncIterator, Hashable
from dataclasses import dataclass, field, fields
from importlib import import_module
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

import model_registry.model_registry as facade
import model_registry.services as room
from model_registry.auth.permissions import ANONYMOUS, ANY_MODEL, Actor, AnyModel, Permission
from model_registry.domain.entities import (
    AliasRef,
    Annotations,
    Digest,
    FileEntry,
    ModelDetails,
    VersionRef,
    VersionSelector,
)
from model_registry.errors import Forbidden, Unavailable
from model_registry.runtime.single_flight import SingleFlight
from model_registry.services.push.reservation import Push
from model_registry.settings import Settings
from model_registry.wiring import Services, open_services
from tests.support.pushing import GOOD, VERSIONS, entry, uploads_of
from tests.support.service import RunningService, ServiceWith

READ, WRITE, REMOVE, ALIAS = Permission.READ, Permission.WRITE, Permission.REMOVE, Permission.ALIAS

REF = VersionRef("m", "1.0")
SELECTOR = VersionSelector("m", "1.0")
CHAMPION = AliasRef("m", "champion")
ANNOTATIONS = Annotations()
FILE = FileEntry("model.bin", 1, Digest(bytes(32)), "application/octet-stream")
PUSH = Push("m", "1.0", ModelDetails(), ANNOTATIONS, (FILE,))
UPLOAD_ID = uuid4()


async def chunks() -> AsyncIterator[bytes]:
    yield b"x"


@dataclass(frozen=True)
class UseCase:
    """What a use case asks first, and a call of it."""

    permission: Permission
    model_name: str | AnyModel
    arguments: tuple[object, ...] = ()
    options: dict[str, object] = field(default_factory=dict)


USE_CASES = {
    "ModelRegistry.register": UseCase(WRITE, "m", ("m", "1.0")),
    "ModelRegistry.registration": UseCase(WRITE, ANY_MODEL),
    "ModelRegistry.get": UseCase(READ, "m", (SELECTOR,)),
    "ModelRegistry.latest": UseCase(READ, "m", ("m",)),
    "ModelRegistry.list_versions": UseCase(READ, ANY_MODEL),
    "ModelRegistry.download": UseCase(READ, "m", (SELECTOR,)),
    "ModelRegistry.remove": UseCase(REMOVE, "m", (REF,)),
    "Registrations.begin": UseCase(WRITE, ANY_MODEL),
    "Registrations.register": UseCase(
        WRITE,
        "m",
        (REF,),
        {"files": {}, "standardization_params": {}, "model_params": {}, "additional_metadata": {}},
    ),
    "Versions.get": UseCase(READ, "m", (SELECTOR,)),
    "Versions.page_of_model": UseCase(READ, "m", ("m",)),
    "Versions.page": UseCase(READ, "m", (), {"model_name": "m"}),
    "Search.page": UseCase(READ, ANY_MODEL),
    "Downloads.find": UseCase(READ, "m", (SELECTOR, None)),
    "Downloads.find_archive": UseCase(READ, "m", (SELECTOR,)),
    "Downloads.manifest": UseCase(READ, "m", (SELECTOR,)),
    "Models.page": UseCase(READ, ANY_MODEL),
    "Models.get": UseCase(READ, "m", ("m",)),
    "Models.create": UseCase(WRITE, "m", ("m", ANNOTATIONS)),
    "Models.update": UseCase(WRITE, "m", ("m", {})),
    "Models.delete": UseCase(REMOVE, "m", ("m",)),
    "Lifecycle.update": UseCase(WRITE, "m", (REF, {})),
    "Lifecycle.yank": UseCase(WRITE, "m", (REF, None)),
    "Lifecycle.unyank": UseCase(WRITE, "m", (REF,)),
    "Lifecycle.remove": UseCase(REMOVE, "m", (REF,)),
    "Lifecycle.restore": UseCase(REMOVE, "m", (REF,)),
    "Aliases.page": UseCase(READ, "m", ("m",)),
    "Aliases.get": UseCase(READ, "m", (CHAMPION,)),
    "Aliases.history": UseCase(READ, "m", (CHAMPION,)),
    "Aliases.put": UseCase(ALIAS, "m", (CHAMPION, "1.0")),
    "Aliases.rollback": UseCase(ALIAS, "m", (CHAMPION,)),
    "Aliases.swap": UseCase(ALIAS, "m", ("m", [])),
    "Aliases.drop": UseCase(ALIAS, "m", (CHAMPION,)),
    "Events.after": UseCase(READ, ANY_MODEL),
    "Reservations.reserve": UseCase(WRITE, "m", (PUSH,)),
    "UploadParts.status": UseCase(WRITE, ANY_MODEL, (UPLOAD_ID,)),
    "UploadParts.sign": UseCase(WRITE, ANY_MODEL, (UPLOAD_ID, [1])),
    "ProxiedUploads.put_file": UseCase(WRITE, "m", (REF, "model.bin", chunks()), {"size_bytes": 1}),
    "Commits.commit": UseCase(WRITE, "m", (REF, {})),
}

SHARED = {
    "ModelRegistry.get",
    "ModelRegistry.latest",
    "ModelRegistry.list_versions",
    "ModelRegistry.download",
    "Versions.get",
    "Versions.page_of_model",
    "Versions.page",
    "Search.page",
    "Downloads.find",
}
"""Use cases whose equal calls at the same time share one read."""


@dataclass(frozen=True)
class Recorder(Actor):
    """An actor that records what is asked about it."""

    asked: list[tuple[Permission, str | AnyModel]] = field(default_factory=list, compare=False)

    def may(self, permission: Permission, model_name: str | AnyModel) -> bool:
        self.asked.append((permission, model_name))
        return super().may(permission, model_name)


class Unscoped(Recorder):
    """An actor with permissions on other models only."""

    def may(self, permission: Permission, model_name: str | AnyModel) -> bool:
        return super().may(permission, model_name) and model_name is ANY_MODEL


@pytest.fixture(scope="module")
async def services() -> AsyncIterator[Services]:
    """Services without servers: what needs one raises `Unavailable`."""
    settings = Settings(
        _env_file=None,
        database_url="postgresql+asyncpg://nobody@127.0.0.1:1/nothing",
        s3_endpoint_url="http://127.0.0.1:1",
        s3_access_key_id="nobody",
        s3_secret_access_key="nothing",
    )
    async with open_services(settings) as services:
        yield services


async def run(services: Services, name: str, actor: Actor) -> None:
    class_name, method_name = name.split(".")
    there = [getattr(services, each.name) for each in fields(services)] + list(vars(services.registry).values())
    [service] = {each for each in there if type(each).__name__ == class_name}
    use_case = USE_CASES[name]
    result = getattr(service, method_name)(*use_case.arguments, **use_case.options, actor=actor)
    if inspect.isawaitable(result):
        await result


def test_the_table_has_every_use_case() -> None:
    modules = [
        facade,
        *(import_module(each.name) for each in pkgutil.walk_packages(room.__path__, f"{room.__name__}.")),
    ]
    found = {
        f"{each.__name__}.{name}"
        for module in modules
        for each in vars(module).values()
        if inspect.isclass(each) and each.__module__ == module.__name__
        for name, method in inspect.getmembers(each, inspect.isfunction)
        if not name.startswith("_") and "actor" in inspect.signature(method).parameters
    }

    assert found == set(USE_CASES)


@pytest.mark.parametrize("name", USE_CASES)
async def test_an_actor_without_permissions_is_refused_before_anything_else(services: Services, name: str) -> None:
    actor = Recorder("nobody", frozenset())

    with pytest.raises(Forbidden) as refused:
        await run(services, name, actor)

    permission = USE_CASES[name].permission
    assert refused.value.members == {"actor": "nobody", "permission": permission}
    assert actor.asked == [(permission, USE_CASES[name].model_name)]


@pytest.mark.parametrize("name", USE_CASES)
async def test_every_other_permission_is_not_enough(services: Services, name: str) -> None:
    actor = Actor("somebody", frozenset(Permission) - {USE_CASES[name].permission})

    with pytest.raises(Forbidden):
        await run(services, name, actor)


async def test_a_registration_asks_again_when_it_knows_the_model(services: Services) -> None:
    actor = Unscoped("somebody", ANONYMOUS.permissions)

    async with services.registry.registration(actor=actor) as registration:
        with pytest.raises(Forbidden):
            await registration.reserve(REF)
        with pytest.raises(Forbidden):
            await registration.publish(REF, ModelDetails(), lambda info: info.version)

    assert actor.asked == [(WRITE, ANY_MODEL), (WRITE, "m"), (WRITE, "m")]


async def test_an_upload_by_id_asks_again_when_it_knows_the_model(service_with: ServiceWith) -> None:
    service = await service_with(multipart_threshold_bytes=1)
    async with httpx.AsyncClient(base_url=service.url) as client:
        reserved = await client.post(VERSIONS, json={"version": "1.0", "files": [entry("model.bin", GOOD)]})
    upload_id = UUID(uploads_of(reserved)["model.bin"]["upload_id"])
    actor = Unscoped(ANONYMOUS.name, ANONYMOUS.permissions)

    with pytest.raises(Forbidden):
        await service.services.upload_parts.status(upload_id, actor=actor)
    with pytest.raises(Forbidden):
        await service.services.upload_parts.sign(upload_id, [1], actor=actor)

    assert actor.asked == [(WRITE, ANY_MODEL), (WRITE, "fraud")] * 2


async def test_a_push_asks_whether_the_actor_may_know_what_is_stored(service: RunningService, fresh: None) -> None:
    actor = Recorder("somebody", frozenset({WRITE}))

    with pytest.raises(Forbidden):
        await service.services.reservations.reserve(PUSH, actor=actor)

    assert actor.asked == [(WRITE, "m"), (READ, ANY_MODEL)]


async def test_actors_share_a_read_only_if_they_see_the_same(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: list[Hashable] = []

    async def note(_self: SingleFlight[Any], key: Hashable, _read: object) -> None:
        keys.append(key)
        raise Unavailable("PostgreSQL")

    monkeypatch.setattr(SingleFlight, "read", note)
    reader, another_reader, writer = (
        Actor("reader", frozenset({READ})),
        Actor("another", frozenset({READ})),
        Actor("writer", frozenset({READ, WRITE})),
    )
    shared = set()
    for name, use_case in USE_CASES.items():
        if use_case.permission is READ:
            keys.clear()
            for actor in (reader, another_reader, writer):
                with contextlib.suppress(Unavailable):
                    await run(services, name, actor)
            if keys:
                shared.add(name)
                first, second, other = keys
                assert first == second != other, name

    assert shared == SHARED


def test_an_unfinished_version_belongs_to_the_actor_who_created_it() -> None:
    actor = Actor("somebody", frozenset())

    assert actor.owns("somebody")
    assert not actor.owns("somebody else")
