"""Reads `POST /register_model`: a form as a stream, or JSON without a file."""

from typing import Any

from starlette.requests import Request

from model_registry.domain.entities import ModelDetails, VersionRef
from model_registry.errors import InvalidField
from model_registry.services.registration import Registered, Registration
from model_registry.settings import Settings
from model_registry.utils import EMPTY_OBJECT, NOT_AN_OBJECT, JsonText, to_json_text
from model_registry.web.admission import memory_of
from model_registry.web.context import RequestContext
from model_registry.web.http_errors import UnsupportedMediaType
from model_registry.web.requests.body import (
    JSON,
    body_chunks,
    content_length,
    media_type,
    parsed_object,
    read_bounded,
)
from model_registry.web.requests.multipart import FormPart, form_parts
from model_registry.web.responses.schemas import model_info_json

_NAMES = ("model_name", "version")
_OBJECTS = ("standardization_params", "model_params", "additional_metadata")
_FILE = "model_file"
_MAX_NAME_BYTES = 4096
_NO_SUCH_FIELD = f"no such field; a registration has {', '.join((*_NAMES, *_OBJECTS, _FILE))}"

FORM = "multipart/form-data"
NOT_A_REGISTRATION = f"Content-Type: {FORM} with a model_file, or {JSON} without one."


async def register(request: Request, context: RequestContext, idempotency_key: str | None) -> Registered:
    """Read the request and register its version. The version is published when this returns."""
    content_type = request.headers.get("content-type", "")
    registry, settings = context.registry, context.settings
    async with registry.registration(actor=context.actor, idempotency_key=idempotency_key) as registration:
        if media_type(request) == FORM:
            ref, details = await _read_form(request, content_type, registration, settings)
        elif media_type(request) == JSON:
            ref, details = await _read_json(request, settings)
        else:
            raise UnsupportedMediaType(NOT_A_REGISTRATION, accepted=[FORM, JSON])
        return await registration.publish(ref, details, lambda info: model_info_json(info).decode())


async def _read_json(request: Request, settings: Settings) -> tuple[VersionRef, ModelDetails]:
    body = await read_bounded(request, settings, max_bytes=settings.max_metadata_bytes)
    # The depth is 0, because the documents in the body are at depth 1.
    tree = await parsed_object(body, ("body",), settings.max_metadata_bytes, depth=0)
    for name, value in tree.items():
        expected = str if name in _NAMES else dict
        if name not in (*_NAMES, *_OBJECTS):
            raise InvalidField(("body", name), _NO_SUCH_FIELD, value)
        if not isinstance(value, expected):
            raise InvalidField(("body", name), "text is expected" if expected is str else NOT_AN_OBJECT, value)
    fields = _Fields(tree | {name: to_json_text(tree[name]) for name in _OBJECTS if name in tree})
    return fields.ref, fields.details


async def _read_form(
    request: Request, content_type: str, registration: Registration, settings: Settings
) -> tuple[VersionRef, ModelDetails]:
    form = _Fields({})
    memory = memory_of(request.scope)
    is_reserved = False
    async for part in form_parts(body_chunks(request, settings), content_type):
        if part.name != _FILE:
            memory.take(await form.take(part, settings.max_metadata_bytes))
        elif part.filename is None:
            raise InvalidField(_FILE, "a file part is expected, with a filename", None)
        elif part.filename == "":
            await _expect_nothing(part)
        else:
            if not is_reserved and form.has_ref:
                # Reserve early, so that a conflict is known before the transfer.
                await registration.reserve(form.ref)
                is_reserved = True
            await registration.add_file(
                part.filename,
                part.chunks(),
                media_type=part.media_type,
                at_most_bytes=content_length(request),
            )
    return form.ref, form.details


async def _expect_nothing(part: FormPart) -> None:
    """Accept a file part without a name and content, which a browser sends if no file was chosen."""
    async for _chunk in part.chunks():
        raise InvalidField(_FILE, "a file needs a filename, which becomes its path in the version", "")


class _Fields:
    """The fields that have arrived so far. Each is checked when it arrives."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    async def take(self, part: FormPart, max_bytes: int) -> int:
        """Read a field and return its length."""
        if part.name not in (*_NAMES, *_OBJECTS):
            raise InvalidField(part.name or "''", _NO_SUCH_FIELD)
        if part.filename is not None:
            raise InvalidField(part.name, "a plain field is expected; only model_file is a file", part.filename)
        if part.name in self._values:
            raise InvalidField(part.name, "this field occurs twice in the form", None)
        text = await part.text(_MAX_NAME_BYTES if part.name in _NAMES else max_bytes)
        if part.name in _NAMES:
            self._values[part.name] = text
        else:
            # Swagger UI sends an empty field if nothing was entered.
            self._values[part.name] = to_json_text(await parsed_object(text or "{}", (part.name,), max_bytes))
        return len(text)

    @property
    def has_ref(self) -> bool:
        return all(name in self._values for name in _NAMES)

    @property
    def ref(self) -> VersionRef:
        for name in _NAMES:
            if name not in self._values:
                raise InvalidField(name, "this field is required", None)
        return VersionRef(self._values["model_name"], self._values["version"])

    @property
    def details(self) -> ModelDetails:
        return ModelDetails(**{name: JsonText(self._values.get(name, EMPTY_OBJECT)) for name in _OBJECTS})
