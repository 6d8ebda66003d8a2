"""Reads the bodies of a push."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from model_registry.domain.entities import Digest, FileEntry, ModelDetails
from model_registry.domain.naming_rules import MAX_FILES, DistinctPaths, validate_media_type
from model_registry.errors import InvalidField, UploadUnknown
from model_registry.object_store.blob_store import MAX_PARTS
from model_registry.services.push.multipart_completion import Parts, PartTag
from model_registry.services.push.reservation import Push
from model_registry.utils import JsonText, Loc, parse_json_object, to_json_text
from model_registry.web.requests.annotations import annotations_of
from model_registry.web.requests.json_fields import Fields

MAX_BODY_BYTES = 32 * 1024**2
_MAX_BIGINT = 2**63 - 1
_DOCUMENTS = ("standardization_params", "model_params", "additional_metadata")
_PUSH = ("version", *_DOCUMENTS, "description", "tags", "files", "transfer")
_FILE = ("path", "size_bytes", "sha256", "media_type")
_TRANSFERS = ("direct", "proxied")


def push_of(model_name: str, tree: dict[str, Any], max_metadata_bytes: int) -> Push:
    """Read the body of a push. A large manifest takes seconds, so use `offload`."""
    body = Fields(tree, _PUSH)
    transfer = body.optional_text("transfer")
    if transfer not in {None, *_TRANSFERS}:
        raise InvalidField(body.loc("transfer"), f"one of {', '.join(_TRANSFERS)} is expected", transfer)
    return Push(
        model_name,
        body.optional_text("version"),
        ModelDetails(**{name: _document(body, name, max_metadata_bytes) for name in _DOCUMENTS}),
        annotations_of(body),
        _files(body),
        is_direct=transfer != "proxied",
    )


def _document(body: Fields, name: str, max_bytes: int) -> JsonText:
    """Return one document, which has its own limit, independent of the size of the body."""
    document = to_json_text(body.object(name))
    parse_json_object(document, body.loc(name), max_bytes=max_bytes)
    return document


def _files(body: Fields) -> tuple[FileEntry, ...]:
    paths = DistinctPaths()
    sizes: dict[Digest, int] = {}
    files = []
    for index, item in enumerate(body.items("files", at_most=MAX_FILES)):
        loc: Loc = (*body.loc("files"), index)
        fields = Fields(item, _FILE, loc)
        file = FileEntry(
            paths.add(fields.text("path"), fields.loc("path")),
            fields.integer("size_bytes", at_least=0, at_most=_MAX_BIGINT),
            Digest.parse(fields.text("sha256"), fields.loc("sha256")),
            _media_type(fields),
        )
        if sizes.setdefault(file.sha256, file.size_bytes) != file.size_bytes:
            raise InvalidField(fields.loc("size_bytes"), "the same sha256 must have the same size", file.size_bytes)
        files.append(file)
    return tuple(files)


def _media_type(fields: Fields) -> str:
    media_type = fields.optional_text("media_type")
    return (
        "application/octet-stream" if media_type is None else validate_media_type(media_type, fields.loc("media_type"))
    )


def parts_of(tree: dict[str, Any]) -> Parts:
    """Read the body of a commit. Use `offload` here too."""
    body = Fields(tree, ("parts",))
    given = body.object("parts")
    return {upload_id_of(upload_id): _tags(tags, (*body.loc("parts"), upload_id)) for upload_id, tags in given.items()}


def upload_id_of(text: str) -> UUID:
    """Read an upload id. Only the exact spelling is valid, because two spellings of one id would hide each other."""
    try:
        upload_id = UUID(text)
    except ValueError:
        raise UploadUnknown(text) from None
    if str(upload_id) != text:
        raise UploadUnknown(text)
    return upload_id


def _tags(tags: object, loc: Loc) -> Sequence[PartTag]:
    if not isinstance(tags, list) or len(tags) > MAX_PARTS:
        raise InvalidField(loc, f"a list of at most {MAX_PARTS} parts is expected", tags)
    each = [Fields(item, ("part_number", "etag"), (*loc, index)) for index, item in enumerate(tags)]
    return [
        PartTag(part.integer("part_number", at_least=1, at_most=MAX_PARTS), part.text("etag", max_chars=256).strip('"'))
        for part in each
    ]


def part_numbers_of(tree: dict[str, Any]) -> list[int]:
    """Read the body of a request for URLs of parts."""
    body = Fields(tree, ("part_numbers",))
    numbers = body.items("part_numbers", at_least=1, at_most=1000)
    seen = set()
    for index, number in enumerate(numbers):
        where = (*body.loc("part_numbers"), index)
        if not isinstance(number, int) or isinstance(number, bool):
            raise InvalidField(where, "the number of a part is an integer", number)
        if number in seen:
            raise InvalidField(where, "a part must be in the list at most once", number)
        seen.add(number)
    return numbers
