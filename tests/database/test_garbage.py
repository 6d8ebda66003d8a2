"""The queue of keys to delete, whatever plan PostgreSQL chooses."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from model_registry.database.garbage import GarbageRepository

_NESTED_LOOPS = ("enable_hashjoin", "enable_mergejoin", "enable_hashagg", "enable_sort", "enable_material")


async def test_a_claim_takes_no_more_than_its_limit_by_any_plan(engine: AsyncEngine, fresh: None) -> None:
    async with engine.begin() as connection:
        garbage = GarbageRepository(connection)
        await garbage.add([f"blobs/{number}" for number in range(500)], delay_seconds=-1)
        for setting in _NESTED_LOOPS:
            await connection.execute(text(f"SET LOCAL {setting} = off"))

        claimed = await garbage.claim(10, claim_seconds=300)

    assert len(claimed) == 10
