"""Idempotency-Keys: a registration that is repeated gets the first response again."""

import hashlib

from model_registry.database.engine import Database, Transaction
from model_registry.database.idempotency import FirstResponse
from model_registry.domain.entities import Digest, ModelDetails, VersionRef
from model_registry.errors import IdempotencyKeyReused
from model_registry.runtime.offload import ITEM_BYTES, offload
from model_registry.utils import canonical_json


class IdempotencyKey:
    """One key of one actor."""

    def __init__(self, database: Database, actor_name: str, key: str) -> None:
        self._database = database
        self._actor_name = actor_name
        self._key = key

    async def first_response(self, meaning: bytes) -> str | None:
        """The first response with this key. Raises `IdempotencyKeyReused` if it was for another meaning."""
        async with self._database.reading() as tx:
            first = await tx.idempotency.find(self._actor_name, self._key)
        if first is None:
            return None
        if first.meaning != meaning:
            raise IdempotencyKeyReused(self._key)
        return first.body

    async def remember(self, tx: Transaction, meaning: bytes, response: str) -> None:
        """Keep the first response. Raises `IdempotencyKeyReused` if a concurrent request has the key."""
        if not await tx.idempotency.remember(self._actor_name, self._key, FirstResponse(meaning, response)):
            raise IdempotencyKeyReused(self._key)


async def meaning_of(ref: VersionRef, details: ModelDetails, digest: Digest) -> bytes:
    """The hash of what a registration says. Form boundaries and spacing do not change it."""
    fields = {
        "model_name": ref.model_name,
        "version": ref.version,
        "standardization_params": details.standardization_params,
        "model_params": details.model_params,
        "additional_metadata": details.additional_metadata,
        "digest": digest.hex,
    }
    size = len(details.standardization_params) + len(details.model_params) + len(details.additional_metadata)
    return await offload(lambda: hashlib.sha256(canonical_json(fields)).digest(), size // ITEM_BYTES)
