"""The description of search."""

from typing import Annotated

from fastapi import Query

from model_registry.domain.filter_parser import parse_filter
from model_registry.errors import InvalidPageToken, Unavailable
from model_registry.web.openapi.operation import operation, refusal
from model_registry.web.openapi.shared import BAD_LIMIT
from model_registry.web.openapi.versions import VERSION_PAGE

FilterText = Annotated[
    str | None,
    Query(
        description="Comparisons (`= != < <= > >= LIKE ILIKE IN`) joined by AND, OR, NOT and parentheses, over "
        "`model_name`, `version`, `number`, `state`, `size_bytes`, `created_at`, `created_by`, `tags.<key>`, "
        "`model_params.<path>`, `standardization_params.<path>` and `additional_metadata.<path>`.",
        json_schema_extra={"example": "additional_metadata.metrics.auc >= 0.9 AND tags.team = 'risk'"},
    ),
]
OrderBy = Annotated[
    str | None,
    Query(
        description="`created_at`, `model_name`, `number` or `size_bytes`, followed by `ASC` or `DESC`.",
        json_schema_extra={"example": "created_at DESC"},
    ),
]

SEARCH_VERSIONS = operation(
    "Search versions of all models",
    {200: VERSION_PAGE},
    refusal(parse_filter, "model_nam = 'fraud'"),
    BAD_LIMIT,
    InvalidPageToken,
    Unavailable,
)
