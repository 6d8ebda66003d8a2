"""Filters as SQL: every value is a bound parameter, every condition true or false and never NULL.

JSON is compared for equality by containment (``@>``), which the GIN index of `model_info` serves. No index serves
inequalities and patterns on JSON, patterns that begin with a wildcard, and whatever is negated: rows are tried for
these in the order of the search, or where an index has found them for another part of the filter.
"""

from typing import Any

from sqlalchemy import (
    ColumnElement,
    and_,
    not_,
    or_,
)

from model_registry.db_models import ModelInfoDB
from model_registry.filters import And, Comparison, FieldKind, Filter, Not, Operator, Or

_COLUMNS: dict[str, Any] = {column.name: column for column in ModelInfoDB.__table__.columns}


def where(condition: Filter) -> ColumnElement[bool]:
    """The condition that a row of `model_info` fulfils exactly when the filter says so."""
    match condition:
        case And():
            return and_(*map(where, condition.operands))
        case Or():
            return or_(*map(where, condition.operands))
        case Not():
            return not_(where(condition.operand))
        case Comparison():
            return _in_json(condition) if condition.field.kind is FieldKind.JSON else _in_column(condition)


def _in_column(comparison: Comparison) -> ColumnElement[bool]:
    column = _COLUMNS[comparison.field.name]
    value = comparison.value
    match comparison.operator:
        case Operator.IN:
            return among(column, value)
        case Operator.NOT_IN:
            return not_(among(column, value))
    return compared(column, operator, value)
