"""Filters as SQL. Each value is a bound parameter. Each condition is true or false, never NULL.

The GIN index of `model_info` serves equality on JSON, as containment (``@>``). No index serves inequalities and
patterns on JSON, patterns that start with a wildcard (except on `model_name`), and negations. PostgreSQL then tests
rows in the order of the search, or rows that an index finds for another part of the filter. If the statistics predict
hardly any matches, it tests rows in storage order.
"""

import json
import operator as comparing
from collections.abc import Callable
from typing import Any

from sqlalchemy import ColumnElement, Text, and_, any_, exists, func, literal, not_, or_
from sqlalchemy.dialects.postgresql import JSONB, JSONPATH

from model_registry.database.sql import array, in_array
from model_registry.db_models import ModelInfoDB, RegisteredModelDB
from model_registry.domain.search_filter import (
    And,
    Comparison,
    Field,
    FieldKind,
    Filter,
    Not,
    Operator,
    Or,
    Scalar,
    json_type,
)
from model_registry.utils import EMPTY_OBJECT, JsonText, to_json_text

_Condition = ColumnElement[bool]

_JSONB = JSONB()
_OPPOSITES = {
    Operator.NE: Operator.EQ,
    Operator.NOT_IN: Operator.IN,
    Operator.NOT_LIKE: Operator.LIKE,
    Operator.NOT_ILIKE: Operator.ILIKE,
}
_INEQUALITIES: dict[Operator, Callable[[Any, Any], _Condition]] = {
    Operator.LT: comparing.lt,
    Operator.LE: comparing.le,
    Operator.GT: comparing.gt,
    Operator.GE: comparing.ge,
}


def where(condition: Filter) -> _Condition:
    """Return a condition that is true for exactly the rows of `model_info` that match the filter."""
    match condition:
        case And():
            return and_(*map(where, condition.operands))
        case Or():
            return or_(*map(where, condition.operands))
        case Not():
            return not_(where(condition.operand))
        case Comparison():
            compare = _json_condition if condition.field.kind is FieldKind.JSON else _column_condition
            return compare(condition.field, condition.operator, condition.value)


def may_be_true(condition: Filter, state: str) -> bool:
    """Return whether the filter can match versions in this state."""
    return _truth(condition, state) is not False


def names_creators(condition: Filter) -> bool:
    """Return whether the filter matches only versions of creators that it names."""
    match condition:
        case And():
            return any(map(names_creators, condition.operands))
        case Comparison():
            return condition.field.name == "created_by" and condition.operator in {Operator.EQ, Operator.IN}
        case _:
            return False


def _truth(condition: Filter, state: str) -> bool | None:
    """Return the value of a filter for all versions in this state; `None` if it depends on more than the state."""
    match condition:
        case Comparison():
            values = condition.value if isinstance(condition.value, tuple) else (condition.value,)
            is_of_state = condition.field.kind is FieldKind.STATE
            return (state in values) is (condition.operator not in _OPPOSITES) if is_of_state else None
        case Not():
            truth = _truth(condition.operand, state)
            return None if truth is None else not truth
        case And() | Or():
            truths = {_truth(operand, state) for operand in condition.operands}
            decides = isinstance(condition, Or)
            return decides if decides in truths else None if None in truths else not decides


def _column_condition(field: Field, operator: Operator, value: Any) -> _Condition:
    column = getattr(ModelInfoDB, field.name)
    if operator in _OPPOSITES:
        return not_(_column_condition(field, _OPPOSITES[operator], value))
    if operator in _INEQUALITIES:
        return _INEQUALITIES[operator](column.collate("C") if field.kind is FieldKind.TEXT else column, value)
    if operator is Operator.IN:
        return in_array(column, value)
    if operator is Operator.EQ:
        equals: _Condition = column == value
        return equals
    if field.name == "model_name":
        # There are far fewer models than versions, and an index finds the versions of a model.
        return exists().where(RegisteredModelDB.name == column, _matches(RegisteredModelDB.name, operator, value))
    return _matches(column, operator, value)


def _json_condition(field: Field, operator: Operator, value: Any) -> _Condition:
    column = getattr(ModelInfoDB, field.name)
    if operator in _INEQUALITIES:
        return _exists(column, _path(field, f"@ {operator} {_in_path(value)}"))
    if operator is Operator.IN:
        return _contains(column, any_(array([_document(field, item) for item in value], _JSONB)))
    if operator is Operator.EQ:
        return _contains(column, literal(_document(field, value), _JSONB))
    of_same_type = _path(field, f'@.type() == "{json_type(value[0] if isinstance(value, tuple) else value)}"')
    if operator in _OPPOSITES:
        return and_(_exists(column, of_same_type), not_(_json_condition(field, _OPPOSITES[operator], value)))
    found = func.jsonb_path_query_first(column, of_same_type, literal(EMPTY_OBJECT, _JSONB), literal(True))
    text = found.op("#>>", return_type=Text())(array([], Text()))
    return _matches(text, operator, value).is_(True)


def _matches(text: Any, operator: Operator, pattern: str) -> _Condition:
    matches: _Condition = text.like(pattern) if operator is Operator.LIKE else text.ilike(pattern)
    return matches


def _contains(column: Any, document: ColumnElement[Any]) -> _Condition:
    contains: _Condition = column.contains(document)
    return contains


def _exists(column: Any, path: ColumnElement[str]) -> _Condition:
    """Whether the path finds a value. The operator returns NULL for a list or a missing key in the path."""
    found: _Condition = column.path_exists(path).is_(True)
    return found


def _path(field: Field, condition: str) -> ColumnElement[str]:
    """A JSON path to the value if it meets the condition. A strict path does not enter lists."""
    keys = "".join(f".{_in_path(key)}" for key in field.path)
    return literal(f"strict ${keys} ? ({condition})", JSONPATH())


def _in_path(value: Scalar) -> str:
    """A key or value in the syntax of JSON paths, which quote text as JSON does."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else str(value)


def _document(field: Field, value: Scalar) -> JsonText:
    """Return the smallest document that has the value at the path."""
    document: Any = value
    for key in reversed(field.path):
        document = {key: document}
    return to_json_text(document)
