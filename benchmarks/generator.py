"""A registry that looks years old, created in minutes: `INSERT … SELECT` into every table that keeps something.

One version in fifty belongs to one large model (`fraud-00000`), and the others are spread evenly. One in twenty is
removed, and half of those are purged. One in ten is a pre-release. One in four has a second file, whose bytes it shares
with other versions of its model. Every model has two aliases that were moved now and then, and each change has its
event, with a transaction id of its own. There are no objects, and nothing is under way.
"""

import time
from collections.abc import Awaitable, Mapping

import asyncpg

from model_registry.domain.version_labels import precedence

TABLES = ("registered_models", "model_info", "version_files", "blobs", "aliases", "alias_history", "events")
HOT = "fraud-00000"
"""The large model."""

# Foreign keys are triggers, and cost more than everything else. All references here are to rows created here.
_SETTINGS = """
    SET LOCAL session_replication_role = replica;
    SET LOCAL synchronous_commit = off;
    SET LOCAL work_mem = '256MB';
    SET LOCAL maintenance_work_mem = '512MB';
    SELECT setseed(0.5);
    CREATE FUNCTION pg_temp.model_name(i bigint) RETURNS text IMMUTABLE RETURN
    (ARRAY['fraud', 'churn', 'resnet', 'bert', 'ranker', 'forecast', 'yolo', 'whisper'])[1 + i % 8]
    || '-' || lpad(i::text, 5, '0');
    CREATE FUNCTION pg_temp.storage_key(sha256 bytea) RETURNS text IMMUTABLE RETURN
    'blobs/' || substr(encode(sha256, 'hex'), 1, 32)::uuid;
    CREATE TEMPORARY TABLE labels (number bigint, version text, precedence bytea, is_prerelease boolean)
"""
_LABELS = """
    INSERT INTO labels SELECT * FROM unnest($1::bigint[], $2::text[], $3::bytea[], $4::boolean[])
"""
_MODELS = """
    INSERT INTO registered_models (name, description, tags, created_at, updated_at)
    SELECT
        pg_temp.model_name(i), 'Model ' || i, jsonb_build_object('team', 'team-' || i % 50),
        timestamptz '2024-01-01 00:00+00' + i * interval '1 minute',
        timestamptz '2024-01-01 00:00+00' + i * interval '1 minute'
    FROM generate_series(0, $1::bigint - 1) AS i
"""
_VERSIONS = """
    INSERT INTO model_info (
        id, model_name, version, number, state, reservation, file_path, digest, ready_at, removed_at, purge_after,
        purged_at, size_bytes, file_count, precedence, is_prerelease, created_at, created_by, generation, tags,
        model_params, standardization_params, additional_metadata
    )
    OVERRIDING SYSTEM VALUE
    SELECT
        i, model_name, labels.version, number, CASE WHEN is_removed THEN 'removed' ELSE 'ready' END, md5(i::text)::uuid,
        CASE WHEN number % 4 > 0 AND NOT is_purged THEN $3::text || pg_temp.storage_key(model) END,
        sha256(convert_to(
            CASE WHEN number % 4 = 0 THEN encode(config, 'hex') || E'  512  config.json\n' ELSE '' END
            || encode(model, 'hex') || '  ' || bytes || E'  model.bin\n', 'UTF8'
        )),
        at, CASE WHEN is_removed THEN at END,
        CASE WHEN is_purged THEN at WHEN is_removed THEN now() + interval '30 days' END,
        CASE WHEN is_purged THEN at END, bytes + CASE WHEN number % 4 = 0 THEN 512 ELSE 0 END,
        CASE WHEN number % 4 = 0 THEN 2 ELSE 1 END, labels.precedence, labels.is_prerelease, at,
        CASE WHEN i % 1000 = 0 THEN 'carol' ELSE 'user-' || i % 199 END, 2,
        jsonb_build_object(
            'team', 'team-' || i % 50, 'stage', (ARRAY['dev', 'test', 'prod'])[1 + i % 3], 'ticket', 'T-' || i,
            'experiment', 'exp-' || i * 100 / $1::bigint
        ),
        jsonb_build_object(
            'learning_rate', round(random()::numeric, 4), 'batch_size', 2 ^ (i % 8), 'n_estimators', 100 * (i % 20),
            'optimizer', (ARRAY['adam', 'sgd', 'lamb'])[1 + i % 3], 'max_depth', i % 12, 'dropout', i % 10 / 10.0,
            'penalty', 'l2', 'seed', i % 1000, 'early_stopping', i % 2 = 0
        ),
        jsonb_build_object(
            'mean', (SELECT jsonb_agg(round(random()::numeric, 5)) FROM generate_series(1, 8) AS n WHERE n + i > 0),
            'scale', (SELECT jsonb_agg(round(random()::numeric, 5)) FROM generate_series(1, 8) AS n WHERE n + i > 0)
        ),
        jsonb_build_object(
            'framework', (ARRAY['scikit-learn', 'pytorch', 'xgboost'])[1 + i % 3],
            'git', jsonb_build_object('commit', md5(i::text), 'branch', 'main'),
            'dataset', jsonb_build_object('name', 'ds-' || i % 300, 'rows', i % 100000),
            'metrics', jsonb_build_object(
                'auc', round(random()::numeric, 4), 'accuracy', round(random()::numeric, 4),
                'loss', round(random()::numeric, 6)
            )
        )
    FROM (
        SELECT
            i, pg_temp.model_name(model) AS model_name, row_number() OVER (PARTITION BY model ORDER BY i) AS number,
            kind % 20 = 7 AS is_removed, kind % 40 = 7 AS is_purged, sha256(i::text::bytea) AS model,
            sha256(('config' || model)::bytea) AS config, (1000 * exp(random() * 15))::bigint AS bytes,
            timestamptz '2024-01-01 00:00+00' + i * interval '1 minute' AS at
        FROM (
            SELECT
                i, 2 * place + 3 * turn AS kind, CASE WHEN (place + turn) % 50 = 0 THEN 0 ELSE place END AS model
            FROM (
                SELECT i, (i - 1) % $2::bigint AS place, (i - 1) / $2::bigint AS turn
                FROM generate_series(1, $1::bigint) AS i
            ) AS turns
        ) AS chosen
    ) AS counted
    JOIN labels USING (number)
    ORDER BY i
"""
_REST = {
    "sequence": """
        SELECT setval(pg_get_serial_sequence('model_info', 'id'), max(id)) FROM model_info
    """,
    "counts": """
        UPDATE registered_models SET next_number = newest + 1, version_count = count FROM (
            SELECT model_name, max(number) AS newest, count(*) FILTER (WHERE state = 'ready') AS count
            FROM model_info GROUP BY model_name
        ) AS versions WHERE name = model_name
    """,
    "files": """
        INSERT INTO version_files (version_id, path, sha256, size_bytes, media_type)
        SELECT id, path, sha256, size_bytes, media_type FROM (
            SELECT
                id, 'config.json' AS path, sha256(('config' || right(model_name, 5)::bigint)::bytea), 512 AS size_bytes,
                'application/json' AS media_type
            FROM model_info WHERE purged_at IS NULL AND file_count = 2
            UNION ALL
            SELECT
                id, 'model.bin', sha256(id::text::bytea), size_bytes - CASE WHEN file_count = 2 THEN 512 ELSE 0 END,
                'application/octet-stream'
            FROM model_info WHERE purged_at IS NULL
        ) AS files
        ORDER BY id, path
    """,
    "blobs": """
        INSERT INTO blobs (sha256, size_bytes, storage_key, created_at)
        SELECT sha256, min(files.size_bytes), pg_temp.storage_key(sha256), min(created_at)
        FROM version_files AS files JOIN model_info ON id = version_id GROUP BY sha256
    """,
    "alias history": """
        INSERT INTO alias_history (model_name, alias, generation, version_id, at, by)
        SELECT
            model_name, CASE number % 10 WHEN 1 THEN 'champion' ELSE 'challenger' END,
            nextval(pg_get_serial_sequence('aliases', 'generation')), id, created_at + interval '1 hour', created_by
        FROM (
            SELECT * FROM model_info WHERE state = 'ready' AND number % 10 IN (1, 6) ORDER BY id
        ) AS promoted
    """,
    "aliases": """
        INSERT INTO aliases (model_name, alias, version_id, generation, updated_at, updated_by)
        OVERRIDING SYSTEM VALUE
        SELECT DISTINCT ON (model_name, alias) model_name, alias, version_id, generation, at, by
        FROM alias_history ORDER BY model_name, alias, generation DESC
    """,
    "events": """
        -- The ids of transactions that are yet to come; see `_USE_TRANSACTION_IDS`.
        INSERT INTO events (at, xid, actor, action, model_name, version, details)
        SELECT
            at, ((pg_current_xact_id()::text)::bigint + row_number() OVER (ORDER BY at))::text::xid8, actor, action,
            model_name, version, details
        FROM (
            SELECT
                created_at AS at, created_by AS actor, 'version.registered' AS action, model_name, version,
                jsonb_build_object('digest', 'sha256:' || encode(digest, 'hex'), 'file_count', file_count) AS details
            FROM model_info
            UNION ALL
            SELECT removed_at, created_by, 'version.removed', model_name, version, '{}'
            FROM model_info WHERE removed_at IS NOT NULL
            UNION ALL
            SELECT purged_at, 'system', 'version.purged', model_name, version, '{}'
            FROM model_info WHERE purged_at IS NOT NULL
            UNION ALL
            SELECT
                at, by, 'alias.moved', moves.model_name, version,
                jsonb_build_object('alias', alias, 'from', NULL, 'to', version, 'generation', moves.generation)
            FROM alias_history AS moves JOIN model_info ON id = version_id
        ) AS happened
        ORDER BY at
    """,
}
_USE_TRANSACTION_IDS = """
    DO $$
    DECLARE wanted xid8 := (SELECT max(xid) FROM events);
    BEGIN
        WHILE pg_current_xact_id() <= wanted LOOP
            COMMIT;
        END LOOP;
    END $$
"""
_MAKE_DUE = """
    WITH chosen AS (
        SELECT name, next_number + row_number() OVER (PARTITION BY name) - 1 AS number
        FROM (
            SELECT name, next_number
            FROM registered_models, generate_series(1, 1 + $1::bigint / (SELECT count(*) FROM registered_models))
            ORDER BY random() LIMIT $1::bigint
        ) AS models
    ), numbered AS (
        UPDATE registered_models SET next_number = next_number + more
        FROM (SELECT name, count(*) AS more FROM chosen GROUP BY name) AS counted
        WHERE registered_models.name = counted.name
    ), versions AS (
        INSERT INTO model_info (
            model_name, version, number, state, digest, ready_at, removed_at, purge_after, size_bytes, file_count
        )
        SELECT name, 'due-' || number, number, 'removed', sha256('due'), now(), now(), now(), 1000, 1 FROM chosen
        RETURNING id
    ), bytes AS (
        INSERT INTO blobs (sha256, size_bytes, storage_key)
        SELECT sha256(('due' || id)::bytea), 1000, 'blobs/' || gen_random_uuid() FROM versions
    )
    INSERT INTO version_files (version_id, path, sha256, size_bytes, media_type)
    SELECT id, 'model.bin', sha256(('due' || id)::bytea), 1000, 'application/octet-stream' FROM versions
"""
_INDEXES = """
    SELECT indexrelid::regclass::text AS name, pg_get_indexdef(indexrelid) AS definition
    FROM pg_index
    WHERE indrelid = ANY($1::text[]::regclass[]) AND NOT EXISTS (
        SELECT FROM pg_constraint WHERE conindid = indexrelid
    )
    ORDER BY 1
"""


async def fill(url: str, *, versions: int, models: int, bucket: str = "models") -> Mapping[str, float]:
    """Fill a database that is migrated and empty; returns the seconds that each step took."""
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    seconds: dict[str, float] = {}

    async def timed(what: str, work: Awaitable[object]) -> None:
        began = time.perf_counter()
        await work
        seconds[what] = time.perf_counter() - began

    try:
        async with connection.transaction():
            await connection.execute(_SETTINGS)
            await connection.execute(_LABELS, *_labels(versions, models))
            # Indexes are created at the end, which is ten times as fast.
            indexes = await connection.fetch(_INDEXES, TABLES)
            for index in indexes:
                await connection.execute(f"DROP INDEX {index['name']}")
            await timed("models", connection.execute(_MODELS, models))
            await timed("versions", connection.execute(_VERSIONS, versions, models, f"s3://{bucket}/"))
            for what, statement in _REST.items():
                await timed(what, connection.execute(statement))
            for index in indexes:
                await timed(index["name"], connection.execute(index["definition"]))
        await connection.execute("SET synchronous_commit = off")
        await timed("transaction ids", connection.execute(_USE_TRANSACTION_IDS))
        await timed("vacuum", connection.execute("VACUUM ANALYZE"))
        await timed("checkpoint", connection.execute("CHECKPOINT"))
    finally:
        await connection.close()
    return seconds


def _labels(versions: int, models: int) -> tuple[list[int], list[str], list[bytes], list[bool]]:
    """Return labels: 1.2.3 for the 123rd version of a model, 1.2.0rc1 for the 120th, up to the large model's count."""
    numbers = list(range(1, versions // 50 + 2 * (versions // models) + 2))
    labels = [f"{number // 100}.{number // 10 % 10}.{number % 10}{'' if number % 10 else 'rc1'}" for number in numbers]
    order = [precedence(label) for label in labels]
    return numbers, labels, [each.key for each in order], [each.is_prerelease for each in order]


async def make_due(url: str, count: int) -> None:
    """Add this many removed versions, whose time to be purged has come, to any models."""
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    try:
        await connection.execute(_MAKE_DUE, count)
    finally:
        await connection.close()
