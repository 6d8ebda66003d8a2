"""Descriptions, tags and metadata in bodies of several resources."""

from typing import Any

from model_registry.domain.entities import Annotations
from model_registry.domain.naming_rules import validate_tags
from model_registry.errors import InvalidField
from model_registry.utils import NOT_AN_OBJECT, to_json_text
from model_registry.web.requests.json_fields import Fields

MAX_DESCRIPTION = 65_536

_FROZEN = frozenset(
    {"standardization_params", "model_params", "files", "digest", "version", "model_name", "name", "id", "number"}
)


def annotations_of(body: Fields) -> Annotations:
    """Return the `description` and `tags` of a body."""
    tags = body.object("tags")
    validate_tags(tags, body.loc("tags"))
    return Annotations(body.optional_text("description", max_chars=MAX_DESCRIPTION), to_json_text(tags))


def check_patch(patch: dict[str, Any], names: tuple[str, ...]) -> None:
    """Raise `InvalidField` unless a merge patch has only these members, with the right types. null removes a member."""
    for name in patch.keys() & _FROZEN - set(names):
        raise InvalidField(("body", name), "this member never changes", patch[name])
    body = Fields(patch, names)
    body.optional_text("description", max_chars=MAX_DESCRIPTION)
    for name in ("tags", "additional_metadata"):
        if not isinstance(patch.get(name, {}), dict | None):
            raise InvalidField(("body", name), NOT_AN_OBJECT, patch[name])
