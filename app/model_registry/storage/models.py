"""Names: `registered_models`."""

from sqlalchemy import BigInteger, ColumnElement, bindparam, delete, exists, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from model_registry.db_models import ModelInfoDB, RegisteredModelDB
from model_registry.errors import ModelNameTaken

_NAME: ColumnElement[str] = bindparam("wanted", type_=RegisteredModelDB.name.type)

_ENSURE = insert(RegisteredModelDB).values(name=_NAME, is_provisional=text("true")).on_conflict_do_nothing()
_NEXT_NUMBER = (
    update(RegisteredModelDB)
    .where(RegisteredModelDB.name == _NAME)
    .values(next_number=RegisteredModelDB.next_number + 1)
    .returning(RegisteredModelDB.next_number - 1)
)
_COUNT = (
    update(RegisteredModelDB)
    .where(RegisteredModelDB.name == _NAME)
    .values(is_provisional=False, version_count=RegisteredModelDB.version_count + bindparam("change", type_=BigInteger))
)
_LOCK = select(RegisteredModelDB.name).where(RegisteredModelDB.name == _NAME).with_for_update(key_share=True)
_DELETE_UNUSED = delete(RegisteredModelDB).where(
    RegisteredModelDB.name == _NAME,
    RegisteredModelDB.is_provisional,
    ~exists().where(ModelInfoDB.model_name == RegisteredModelDB.name),
)
_SAME_BUT_FOR_CASE = select(RegisteredModelDB.name).where(
    func.lower(RegisteredModelDB.name) == func.lower(_NAME), ~RegisteredModelDB.is_provisional
)


class Models:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def next_number(self, name: str) -> int:
        """The next registration number of a model, which is made (provisionally) if it is absent.

        Holds the model's row until the transaction ends, so that numbers have no duplicates. Raises
        `ModelNameTaken` for a name that differs from another in case alone.
        """
        for _ in range(3):
            await self._connection.execute(_ENSURE, {"wanted": name})
            number: int | None = await self._connection.scalar(_NEXT_NUMBER, {"wanted": name})
            if number is not None:
                return number
            existing = await self._connection.scalar(
                select(RegisteredModelDB.name).where(func.lower(RegisteredModelDB.name) == name.lower())
            )
            if existing is not None:
                raise ModelNameTaken(name, existing)
            # The row in our way was dropped in between: an unfinished registration that failed.
        raise ModelNameTaken(name, name)

    async def count(self, name: str, change: int) -> None:
        """So many more versions are ready, or fewer. From the first on the model stays, whatever becomes of them."""
        await self._connection.execute(_COUNT, {"wanted": name, "change": change})

    async def lock(self, name: str) -> None:
        """Hold a model's row until the transaction ends; first of all rows, so that nobody waits in a circle."""
        await self._connection.execute(_LOCK, {"wanted": name})

    async def drop_if_unused(self, name: str) -> None:
        """Drop a model that only unfinished registrations had made, once the last of them is gone.

        Call `lock` first: a version that was inserted meanwhile is then seen.
        """
        await self._connection.execute(_DELETE_UNUSED, {"wanted": name})

    async def existing_name(self, name: str) -> str | None:
        """The name of the model that is called so regardless of case."""
        existing: str | None = await self._connection.scalar(_SAME_BUT_FOR_CASE, {"wanted": name})
        return existing
