"""The table, the value and the document of a version agree about its members."""

from typing import Any, cast

from model_registry.domain.entities import DOCUMENT_MEMBERS
from model_registry.web.responses.schemas import ModelInfoOut


def test_the_api_documents_every_member_of_a_version_in_order() -> None:
    written = [*DOCUMENT_MEMBERS, "download_url"]
    example = cast(dict[str, Any], ModelInfoOut.model_config["json_schema_extra"])["example"]

    assert list(ModelInfoOut.model_fields) == written
    assert list(example) == written
