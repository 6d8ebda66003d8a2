"""Multipart uploads of a push: the parts that a client sent become one object."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from model_registry.domain.entities import PushUpload
from model_registry.errors import InvalidField, PartsChanged
from model_registry.object_store.blob_store import BlobStore, PartsRefused
from model_registry.runtime.failpoints import failpoint
from model_registry.utils import Loc


@dataclass(frozen=True, slots=True)
class PartTag:
    """A part as the client knows it: its number, and the etag that the store gave for it, without quotes."""

    number: int
    etag: str


Parts = Mapping[UUID, Sequence[PartTag]]
"""The client's own lists of parts, by upload."""

_Etags = dict[int, dict[str, str]]
"""For each part the etags that the store has for it, by the form that the client knows. Some stores keep every part
that was sent, and do not tell which was the last."""


async def complete_multipart(
    upload: PushUpload, tags: Sequence[PartTag] | None, *, blobs: BlobStore
) -> tuple[int, ...]:
    """Make the parts one object, if all of them are in the store. Returns the numbers of the parts that are missing.

    If the store no longer knows the upload, all parts are returned: ask then for the object, which may be complete.
    Raises `InvalidField` if the client's list is not what the store has, and `PartsChanged` if the parts have changed.
    """
    sizes = dict(enumerate(upload.part_sizes, 1))
    if upload.multipart_id is None:
        return tuple(sizes)
    listed = await blobs.list_parts(upload.storage_key, upload.multipart_id)
    if listed is None:
        return tuple(sizes)
    stored: _Etags = {}
    for part in listed:
        if sizes.get(part.number) == part.size_bytes:
            stored.setdefault(part.number, {})[part.etag.strip('"')] = part.etag
    etags = _only_etags(upload, stored) if tags is None else _etags_of_list(upload, tags, stored, len(sizes))
    if missing := tuple(number for number in sizes if number not in etags):
        return missing
    try:
        await blobs.complete_multipart(
            upload.storage_key, upload.multipart_id, [etags[number] for number in sizes], upload.size_bytes
        )
    except PartsRefused as error:
        raise PartsChanged(upload.path) from error
    failpoint("c-completed")
    return ()


def _etags_of_list(upload: PushUpload, tags: Sequence[PartTag], stored: _Etags, count: int) -> dict[int, str]:
    """The etags that the client's list selects. It must name every part that the store has."""
    etags: dict[int, str] = {}
    for index, tag in enumerate(tags):
        where = (*_loc(upload), index)
        if not 1 <= tag.number <= count:
            raise InvalidField((*where, "part_number"), f"this upload has parts 1 to {count}", tag.number)
        if index and tag.number <= tags[index - 1].number:
            raise InvalidField((*where, "part_number"), "list each part once, in ascending order", tag.number)
        if known := stored.get(tag.number):
            if tag.etag not in known:
                raise InvalidField((*where, "etag"), f"the store has {', '.join(known)} for this part", tag.etag)
            etags[tag.number] = known[tag.etag]
    if left_out := sorted(stored.keys() - {tag.number for tag in tags}):
        raise InvalidField(_loc(upload), f"list every part that you sent; these are missing: {_text(left_out)}", None)
    return etags


def _only_etags(upload: PushUpload, stored: _Etags) -> dict[int, str]:
    """The etag of each part, if the store has one for each."""
    if ambiguous := sorted(number for number, etags in stored.items() if len(etags) > 1):
        rule = f"list the parts, because some were sent again with other bytes: {_text(ambiguous)}"
        raise InvalidField(_loc(upload), rule, None)
    return {number: etag for number, etags in stored.items() for etag in etags.values()}


def _loc(upload: PushUpload) -> Loc:
    return ("body", "parts", str(upload.id))


def _text(numbers: Sequence[int]) -> str:
    first = ", ".join(map(str, numbers[:10]))
    return first if len(numbers) <= 10 else f"{first} and {len(numbers) - 10} more"
