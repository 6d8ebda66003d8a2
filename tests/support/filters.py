"""Search filters as text."""

from datetime import datetime

from model_registry.domain.search_filter import And, Comparison, Filter, Not, Or, Scalar


def filter_text(tree: Filter) -> str:
    """Return a filter with this syntax tree."""
    match tree:
        case And():
            return " AND ".join(f"({filter_text(operand)})" for operand in tree.operands)
        case Or():
            return " OR ".join(f"({filter_text(operand)})" for operand in tree.operands)
        case Not():
            return f"NOT ({filter_text(tree.operand)})"
        case Comparison():
            path = "".join(".`{}`".format(key.replace("`", "``")) for key in tree.field.path)
            values = tree.value if isinstance(tree.value, tuple) else (tree.value,)
            literals = ", ".join(map(literal_text, values))
            value = f"({literals})" if isinstance(tree.value, tuple) else literals
            return f"{tree.field.name}{path} {tree.operator} {value}"


def literal_text(value: Scalar) -> str:
    match value:
        case str():
            return "'{}'".format(value.replace("'", "''"))
        case datetime():
            return f"'{value.isoformat()}'"
        case _:
            return str(value)
