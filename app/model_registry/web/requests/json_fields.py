"""Reads JSON objects member by member, and refuses unknown members."""

from typing import Any

from model_registry.errors import InvalidField
from model_registry.utils import NOT_AN_OBJECT, Loc


class Fields:
    """The members of an object, which can have only `names`. Errors name the place in the body."""

    def __init__(self, tree: object, names: tuple[str, ...], loc: Loc = ("body",)) -> None:
        if not isinstance(tree, dict):
            raise InvalidField(loc, NOT_AN_OBJECT, tree)
        for name, value in tree.items():
            if name not in names:
                raise InvalidField((*loc, name), f"no such field; the fields are {', '.join(names)}", value)
        self._tree: dict[str, Any] = tree
        self._loc = loc

    def __contains__(self, name: str) -> bool:
        return name in self._tree

    def loc(self, name: str) -> Loc:
        return (*self._loc, name)

    def text(self, name: str, *, max_chars: int = 4096) -> str:
        """Return a required text."""
        value = self._required(name)
        if not isinstance(value, str):
            raise InvalidField(self.loc(name), "text is expected", value)
        if len(value) > max_chars:
            raise InvalidField(self.loc(name), f"at most {max_chars} characters", value)
        return value

    def optional_text(self, name: str, *, max_chars: int = 4096) -> str | None:
        """Return a text, or `None` if it is missing or null."""
        return None if self._tree.get(name) is None else self.text(name, max_chars=max_chars)

    def integer(self, name: str, *, at_least: int, at_most: int) -> int:
        value = self._required(name)
        if not isinstance(value, int) or isinstance(value, bool) or not at_least <= value <= at_most:
            raise InvalidField(self.loc(name), f"an integer from {at_least} to {at_most} is expected", value)
        return value

    def object(self, name: str) -> dict[str, Any]:
        """Return an object, which is empty if it is missing."""
        value = self._tree.get(name, {})
        if not isinstance(value, dict):
            raise InvalidField(self.loc(name), NOT_AN_OBJECT, value)
        return value

    def items(self, name: str, *, at_least: int = 0, at_most: int) -> list[Any]:
        """Return a required list."""
        value = self._required(name)
        if not isinstance(value, list):
            raise InvalidField(self.loc(name), "a list is expected", value)
        if not at_least <= len(value) <= at_most:
            raise InvalidField(self.loc(name), f"{at_least} to {at_most} items are expected", f"{len(value)} items")
        return value

    def _required(self, name: str) -> Any:
        if name not in self._tree:
            raise InvalidField(self.loc(name), "this field is required", None)
        return self._tree[name]
