"""Many versions without as many requests: copies, in SQL, of the rows that a registration writes.

Each server registers the first version. All its rows, in every table, are then written again for each of the others,
with the differences between two registrations: label, number, order, time.
"""

import asyncpg

from model_registry.domain.version_labels import precedence

_MADE = "unnest($2::text[], $3::bytea[]) WITH ORDINALITY AS made(label, key, nth)"


async def make_database(url: str, name: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()


async def fill_ours(url: str, model: str, versions: int) -> None:
    connection = await asyncpg.connect(url)
    async with connection.transaction():
        moment = "one.{} + made.nth * interval '1 ms'"
        of_version = {"version": "made.label", "number": "one.number + made.nth", "precedence": "made.key"}
        of_version |= {"reservation": "gen_random_uuid()"}
        of_version |= {name: moment.format(name) for name in ("created_at", "ready_at")}
        await _copy(connection, "model_info", "model_name", model, versions, of_version)
        of_event = {"version": "made.label", "at": moment.format("at")}
        await _copy(connection, "events", "model_name", model, versions, of_event)
        await connection.execute(
            "UPDATE registered_models SET next_number = $2 + 1, version_count = $2 WHERE name = $1", model, versions
        )
    await connection.execute("VACUUM ANALYZE")
    await connection.close()


async def fill_mlflow(url: str, model: str, versions: int) -> None:
    connection = await asyncpg.connect(url)
    async with connection.transaction():
        of_version = {name: f"one.{name} + made.nth" for name in ("version", "creation_time", "last_updated_time")}
        await _copy(connection, "model_versions", "name", model, versions, of_version)
        await _copy(connection, "model_version_tags", "name", model, versions, {"version": "one.version + made.nth"})
        await connection.execute(
            "UPDATE registered_models SET last_updated_time = last_updated_time + $2 WHERE name = $1", model, versions
        )
    await connection.execute("VACUUM ANALYZE")
    await connection.close()


async def count(url: str, statement: str) -> int:
    connection = await asyncpg.connect(url)
    found = int(await connection.fetchval(statement))
    await connection.close()
    return found


async def _copy(
    connection: "asyncpg.Connection[asyncpg.Record]",
    table: str,
    model_column: str,
    model: str,
    versions: int,
    differs: dict[str, str],
) -> None:
    """Copy rows of the first version.

    `differs` contains the columns that are different in each copy, as expressions over `one` of the rows and `made`.
    """
    columns = await connection.fetch(
        "SELECT column_name FROM information_schema.columns "
        "WHERE table_schema = 'public' AND table_name = $1 AND is_identity = 'NO'",
        table,
    )
    names = [record["column_name"] for record in columns]
    values = ", ".join(differs.get(name, f"one.{name}") for name in names)
    labels = [str(number) for number in range(2, versions + 1)]
    await connection.execute(
        f"INSERT INTO {table} ({', '.join(names)}) SELECT {values} "  # noqa: S608 - names of ours
        f"FROM {table} AS one, {_MADE} WHERE one.{model_column} = $1",
        model,
        labels,
        [precedence(label).key for label in labels],
    )
