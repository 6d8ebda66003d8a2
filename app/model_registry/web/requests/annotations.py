"""What the bodies of several resources have in common."""

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
    """`description` and `tags`, where they are."""
    tags = body.object("tags")
    validate_tags(tags, body.loc("tags"))
    return Annotations(body.optional_text("description", max_chars=MAX_DESCRIPTION), to_json_text(tags))


def check_patch(patch: dict[str, Any], names: tuple[str, ...]) -> None:
    """Raise `InvalidField` unless a merge patch has only these members, of the right kinds; null takes one away."""
    for name in patch.keys() & _FROZEN - set(names):
        raise InvalidField(("body", name), "this is frozen: it never changes", patch[name])
    body = Fields(patch, names)
    body.optional_text("description", max_chars=MAX_DESCRIPTION)
    for name in ("tags", "additional_metadata"):
        if not isinstance(patch.get(name, {}), dict | None):
            raise InvalidField(("body", name), NOT_AN_OBJECT, patch[name])
