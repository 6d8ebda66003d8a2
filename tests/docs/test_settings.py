"""The settings: where they are documented, where they are read, and the messages about mistakes."""

import re
from pathlib import Path

import pytest
from pydantic import SecretStr

from model_registry.settings import PREFIX, ConfigurationError, Settings, UnknownSettingWarning, load_settings
from tests.support.checkout import ROOT

EXAMPLE = (ROOT / ".env.example").read_text()
DATABASE_URL = "postgresql://user:letmein@db.example.org:5432/models"

NAMES = {PREFIX + name.upper(): field for name, field in Settings.model_fields.items()}
DEFAULTS = {name: "" if field.is_required() else str(field.default or "") for name, field in NAMES.items()}
DESCRIPTIONS = {name: field.description for name, field in NAMES.items()}

_IN_EXAMPLE = re.compile(rf"^# (?P<description>.+)\n(?P<mark># )?(?P<name>{PREFIX}\w+)=(?P<value>.*)$", re.MULTILINE)
_IN_DOCS = re.compile(rf"^\| `(?P<name>{PREFIX}\w+)` \| (?P<default>[^|]+) \| (?P<description>.+) \|$", re.MULTILINE)


@pytest.fixture
def env_file(tmp_path: Path) -> Path:
    return tmp_path / ".env"


@pytest.fixture
def database_url(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MODEL_REGISTRY_DATABASE_URL", DATABASE_URL)
    return DATABASE_URL


# Documentation


def test_env_example_has_every_setting_with_its_default_and_description() -> None:
    entries = list(_IN_EXAMPLE.finditer(EXAMPLE))

    assert {entry["name"]: entry["description"] for entry in entries} == DESCRIPTIONS
    assert [entry["name"] for entry in entries] == list(NAMES)
    shown = {entry["name"]: entry["value"] for entry in entries if entry["mark"]}
    assert shown == {name: DEFAULTS[name] for name in shown}


def test_env_example_sets_what_compose_demands_and_nothing_else() -> None:
    compose = (ROOT / "docker-compose.yml").read_text()

    assignments = dict(re.findall(r"^(\w+)=(.*)$", EXAMPLE, re.MULTILINE))

    demanded = set(re.findall(r"\$\{(\w+):\?", compose))
    assert demanded <= set(assignments)
    assert {name for name in assignments if name.startswith(PREFIX)} == {n for n in demanded if n.startswith(PREFIX)}
    optional = dict(re.findall(r"\$\{((?!MODEL_REGISTRY_)\w+):-([^}]*)\}", compose))
    shown = assignments | dict(re.findall(r"^# (\w+)=(.*)$", EXAMPLE, re.MULTILINE))
    assert {name: shown[name] for name in optional} == optional
    assert all(value == "change-me" for name, value in assignments.items() if "PASSWORD" in name or "SECRET" in name)


def test_docs_have_every_setting_with_its_default_and_description() -> None:
    rows = list(_IN_DOCS.finditer((ROOT / "docs" / "settings.md").read_text()))

    assert [(row["name"], row["description"]) for row in rows] == list(DESCRIPTIONS.items())
    for row in rows:
        words = "*required*" if NAMES[row["name"]].is_required() else "*empty*"
        assert row["default"] == (f"`{DEFAULTS[row['name']]}`" if DEFAULTS[row["name"]] else words)


@pytest.mark.parametrize("file", ["docker-compose.yml", "docker-compose.minio.yml", "Dockerfile"])
def test_container_files_name_only_settings_that_exist(file: str) -> None:
    named = set(re.findall(rf"{PREFIX}[A-Z0-9_]+", (ROOT / file).read_text()))

    assert named <= set(NAMES)


# .env


def test_a_copy_of_the_example_is_a_valid_env_file(env_file: Path, database_url: str) -> None:
    env_file.write_text(EXAMPLE)

    settings = load_settings(env_file)

    assert settings.s3_access_key_id == "model-registry"
    assert settings.s3_secret_access_key is not None
    assert settings.s3_secret_access_key.get_secret_value() == "change-me"
    assert settings.download_mode == "stream"


def test_the_defaults_that_the_example_shows_can_be_uncommented(env_file: Path, database_url: str) -> None:
    env_file.write_text(EXAMPLE.replace(f"\n# {PREFIX}", f"\n{PREFIX}"))

    settings = load_settings(env_file)

    assert settings == Settings(
        _env_file=None,
        database_url=SecretStr(DATABASE_URL),
        s3_access_key_id="model-registry",
        s3_secret_access_key=SecretStr("change-me"),
    )


def test_the_environment_wins_over_the_file(env_file: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    env_file.write_text("MODEL_REGISTRY_S3_BUCKET=from-file\nMODEL_REGISTRY_S3_REGION=eu-central-1\n")
    monkeypatch.setenv("MODEL_REGISTRY_S3_BUCKET", "from-environment")

    settings = load_settings(env_file)

    assert (settings.s3_bucket, settings.s3_region) == ("from-environment", "eu-central-1")


def test_an_unknown_name_in_the_file_is_an_error_that_suggests_the_near_one(env_file: Path, database_url: str) -> None:
    env_file.write_text("MODEL_REGISTRY_DOWNLOADMODE=redirect\n")

    with pytest.raises(ConfigurationError) as caught:
        load_settings(env_file)

    message = str(caught.value)
    assert message.startswith(f"{env_file} sets MODEL_REGISTRY_DOWNLOADMODE, which is not a setting")
    assert "did you mean MODEL_REGISTRY_DOWNLOAD_MODE?" in message


def test_other_peoples_names_in_the_file_are_ignored(env_file: Path, database_url: str) -> None:
    env_file.write_text("POSTGRES_PASSWORD=x\nAPI_PORT=8000\nMODEL_REGISTRY_URL=http://localhost:8000\n")

    assert load_settings(env_file).s3_bucket == "models"


# The environment


def test_an_unknown_name_in_the_environment_is_a_warning_that_suggests_the_near_one(
    env_file: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_REGISTRY_GC_GRACE_SECOND", "5")

    with pytest.warns(UnknownSettingWarning, match=r"GC_GRACE_SECOND, .* did you mean MODEL_REGISTRY_GC_GRACE_SECONDS"):
        settings = load_settings(env_file)

    assert settings.gc_grace_seconds == 86_400


@pytest.mark.parametrize(
    "name",
    [
        "MODEL_REGISTRY_PORT",
        "MODEL_REGISTRY_SERVICE_HOST",
        "MODEL_REGISTRY_SERVICE_PORT",
        "MODEL_REGISTRY_SERVICE_PORT_HTTP",
        "MODEL_REGISTRY_PORT_8000_TCP",
        "MODEL_REGISTRY_PORT_8000_TCP_ADDR",
        "MODEL_REGISTRY_PORT_8000_TCP_PORT",
        "MODEL_REGISTRY_PORT_8000_TCP_PROTO",
    ],
)
def test_what_kubernetes_injects_is_ignored(
    name: str, env_file: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "tcp://10.0.0.1:8000")

    # A warning would be an error here.
    load_settings(env_file)

    assert name not in NAMES


@pytest.mark.parametrize("name", ["URL", "CACHE_DIR", "CACHE_BYTES", "TIMEOUT_SECONDS", "RETRY_SECONDS"])
def test_what_belongs_to_clients_is_ignored(
    env_file: Path, database_url: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(f"MODEL_REGISTRY_{name}", "x")

    load_settings(env_file)


def test_an_empty_value_means_the_default(env_file: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_REGISTRY_DATABASE_POOL_SIZE", "")
    env_file.write_text("MODEL_REGISTRY_S3_ENDPOINT_URL=\nMODEL_REGISTRY_LOG_LEVEL=\n")

    settings = load_settings(env_file)

    assert (settings.database_pool_size, settings.s3_endpoint_url, settings.log_level) == (8, None, "INFO")


# Mistakes


def test_without_a_database_one_sentence_says_what_to_do(env_file: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(env_file)

    message = str(caught.value)
    assert message.startswith("MODEL_REGISTRY_DATABASE_URL is not set: ")
    assert "model-registry dev" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("DATABASE_URL", "mysql://user@host/models", "is not a PostgreSQL address"),
        ("DATABASE_URL", "localhost:5432", "is not a PostgreSQL address"),
        ("DATABASE_POOL_SIZE", "many", "valid integer"),
        ("DATABASE_POOL_SIZE", "0", "greater than or equal to 1"),
        ("DATABASE_LOCK_TIMEOUT_SECONDS", "-1", "greater than 0"),
        ("S3_BUCKET", "ab", "at least 3 characters"),
        ("DOWNLOAD_MODE", "both", "'stream' or 'redirect'"),
        ("PRESIGN_EXPIRY_SECONDS", "604801", "less than or equal to 604800"),
        ("LOG_LEVEL", "LOUD", "'DEBUG', 'INFO'"),
    ],
)
def test_a_bad_value_is_answered_with_the_variable_and_the_rule(
    name: str, value: str, complaint: str, env_file: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PREFIX + name, value)

    with pytest.raises(ConfigurationError) as caught:
        load_settings(env_file)

    message = str(caught.value)
    assert message.startswith(f"{PREFIX}{name}: ")
    assert complaint in message
    assert "\n" not in message


def test_every_bad_value_is_named_at_once(env_file: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_REGISTRY_DOWNLOAD_MODE", "both")
    monkeypatch.setenv("MODEL_REGISTRY_LOG_FORMAT", "xml")

    with pytest.raises(ConfigurationError, match=r"MODEL_REGISTRY_DOWNLOAD_MODE: .*; MODEL_REGISTRY_LOG_FORMAT: "):
        load_settings(env_file)


# Secrets


def test_secrets_are_not_shown(env_file: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_REGISTRY_S3_SECRET_ACCESS_KEY", "opensesame")

    settings = load_settings(env_file)

    for shown in (repr(settings), str(settings), settings.model_dump_json()):
        assert "letmein" not in shown
        assert "opensesame" not in shown


def test_a_complaint_about_an_address_does_not_show_its_password(
    env_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_REGISTRY_DATABASE_URL", "postgres//user:letmein@host/models")

    with pytest.raises(ConfigurationError) as caught:
        load_settings(env_file)

    assert "letmein" not in str(caught.value)
    assert caught.value.__cause__ is None
