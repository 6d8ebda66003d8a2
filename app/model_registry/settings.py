"""Everything that can be set, from the environment (`MODEL_REGISTRY_…`) or from a `.env` file."""

import difflib
import os
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from dotenv import dotenv_values
from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "MODEL_REGISTRY_"

# Kubernetes tells every pod about the Services around it; for one called model-registry these look like settings:
# MODEL_REGISTRY_SERVICE_HOST, MODEL_REGISTRY_SERVICE_PORT_HTTP, MODEL_REGISTRY_PORT_8000_TCP_ADDR.
_KUBERNETES = re.compile(r"(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)")
_OF_THE_CLIENT = frozenset({"URL", "CACHE_DIR", "CACHE_BYTES", "TIMEOUT_SECONDS", "RETRY_SECONDS"})


class ConfigurationError(Exception):
    """The service cannot start with these settings; the message is one sentence that says what to do."""


class UnknownSettingWarning(UserWarning):
    """A name in the environment that looks like one of our settings and is none."""


class Settings(BaseSettings):
    """Settings of the service; `docs/settings.md` and `.env.example` list them, and a test keeps the three in step."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True, allow_inf_nan=False
    )

    database_url: SecretStr = Field(
        description="PostgreSQL, as postgresql://user:password@host:5432/database.",
    )
    database_pool_size: int = Field(8, ge=1, le=1000, description="Connections to PostgreSQL per worker process.")
    database_pool_timeout_seconds: float = Field(
        2, gt=0, description="Wait for a connection that answers at most so long: free, still alive, or made."
    )
    database_connect_timeout_seconds: float = Field(
        5, gt=0, description="Wait for PostgreSQL to accept us; the shorter of the two counts."
    )
    database_statement_timeout_seconds: float = Field(5, gt=0, description="No single statement takes longer.")
    database_lock_timeout_seconds: float = Field(2, gt=0, description="Wait for a row that another holds.")

    s3_endpoint_url: str | None = Field(
        None, description="The S3 server as the service reaches it; empty for AWS itself."
    )
    s3_public_endpoint_url: str | None = Field(
        None, description="The S3 server as clients reach it, for presigned URLs; empty for the same address."
    )
    s3_bucket: str = Field("models", min_length=3, max_length=63, description="The bucket for the models' bytes.")
    s3_region: str = Field("us-east-1", min_length=1, description="The bucket's region.")
    s3_access_key_id: str | None = Field(
        None, description="Access key; empty for the usual AWS chain (environment, profile, instance or pod identity)."
    )
    s3_secret_access_key: SecretStr | None = Field(None, description="The secret of the access key.")
    s3_max_connections: int = Field(64, ge=1, description="Connections to S3 per worker process.")
    s3_connect_timeout_seconds: float = Field(
        5, gt=0, description="Wait for S3 to accept a connection; a short call has twice as long in all."
    )
    s3_read_timeout_seconds: float = Field(
        30, gt=0, description="Wait for a download to begin, and for its next bytes from S3."
    )
    s3_operation_timeout_seconds: float = Field(60, gt=0, description="No single S3 call takes longer.")

    download_mode: Literal["stream", "redirect"] = Field(
        "stream", description="stream: bytes pass through the service. redirect: clients are sent to S3."
    )
    presign_expiry_seconds: int = Field(900, ge=1, le=604_800, description="How long a presigned URL is good for.")
    public_url: str = Field(
        "",
        pattern=r"^(https?://[^\s/]+(/[^\s]*)?)?$",
        description="This service as clients reach it, for URLs to itself; empty for what each request says.",
    )
    allowed_hosts: str = Field("*", description="Host names that requests may use, comma-separated; * for any.")

    max_upload_bytes: int = Field(200 * 1024**3, ge=1, description="The largest file that is taken.")
    max_metadata_bytes: int = Field(1024**2, ge=2, le=64 * 1024**2, description="The largest metadata document.")
    upload_lease_seconds: float = Field(
        900, ge=1, description="An upload that nobody continues is given up after so long, and frees its label."
    )
    commit_wait_seconds: float = Field(
        30, gt=0, description="A commit that verifies for longer answers 202, and goes on by itself."
    )
    multipart_threshold_bytes: int = Field(
        64 * 1024**2, ge=1, le=5 * 1024**3, description="Files over this are pushed in parts, by presigned URLs."
    )
    multipart_part_bytes: int = Field(
        16 * 1024**2, ge=5 * 1024**2, le=5 * 1024**3, description="The size of such a part; larger for huge files."
    )
    upload_buffer_slots: int = Field(
        12, ge=1, description="Buffers of 8 MiB for uploads in flight, shared by all requests of a worker process."
    )
    body_idle_timeout_seconds: float = Field(
        30, gt=0, description="A client that sends or takes nothing for so long in the middle of a body is given up."
    )

    min_upload_bytes_per_second: float = Field(
        1024, ge=0, description="A client that sends more slowly, over such a time, is given up: others wait for it."
    )
    max_requests_in_flight: int = Field(
        1000, ge=1, description="A worker process answers so many requests at once, and others with a 503."
    )
    max_buffered_bytes: int = Field(
        128 * 1024**2, ge=1, description="JSON bodies that a worker process reads at once, all together."
    )
    max_pending_versions: int = Field(
        1000, ge=1, description="So many versions may somebody have pending at a time; more are answered with a 429."
    )

    purge_after_seconds: float = Field(
        30 * 24 * 3600, ge=0, description="A removed version can be restored for so long."
    )
    gc_interval_seconds: float = Field(300, gt=0, description="The collector runs this often.")
    gc_grace_seconds: float = Field(
        24 * 3600,
        ge=0,
        description="Bytes stay so long after nothing refers to them: longer than a URL or a download lives.",
    )

    shutdown_delay_seconds: float = Field(
        5,
        ge=0,
        description="On SIGTERM, answer as before but not ready for so long, until balancers send elsewhere.",
    )
    shutdown_grace_seconds: int = Field(
        25, ge=1, description="Then requests in flight have so long to finish before they are cut."
    )

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="How much is logged.")
    log_format: Literal["console", "json"] = Field("console", description="console for people, json for collectors.")

    @field_validator("database_url")
    @classmethod
    def _is_postgresql(cls, value: SecretStr) -> SecretStr:
        scheme, separator, rest = value.get_secret_value().partition("://")
        if scheme not in {"postgresql", "postgres", "postgresql+asyncpg"} or not separator or not rest:
            raise ValueError("is no PostgreSQL address; write postgresql://user:password@host:5432/database")
        return SecretStr(f"postgresql+asyncpg://{rest}")

    @field_validator("log_level", mode="before")
    @classmethod
    def _any_case(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value

    @property
    def hosts(self) -> list[str]:
        return [host.strip().lower() for host in self.allowed_hosts.split(",") if host.strip()]


def load_settings(env_file: Path = Path(".env"), **overrides: Any) -> Settings:
    """Settings from overrides, the environment and the file, in this order.

    Raises `ConfigurationError` in one sentence; warns (`UnknownSettingWarning`) of names in the environment that are
    close to a setting and are none.
    """
    _check_names(env_file, os.environ)
    try:
        return Settings(_env_file=env_file, **overrides)
    except ValidationError as error:
        raise ConfigurationError(_sentence(error)) from None


def _check_names(env_file: Path, environment: Mapping[str, str]) -> None:
    if env_file.is_file():
        for name in _unknown(dotenv_values(env_file)):
            raise ConfigurationError(f"{env_file} sets {_suggestion(name)}")
    for name in _unknown(environment):
        warnings.warn(f"The environment sets {_suggestion(name)}", UnknownSettingWarning, stacklevel=3)


def _unknown(names: Iterable[str]) -> list[str]:
    known = {name.upper() for name in Settings.model_fields} | _OF_THE_CLIENT
    ours = [name.upper() for name in names if name.upper().startswith(PREFIX)]
    return [name for name in ours if (short := name[len(PREFIX) :]) not in known and not _KUBERNETES.fullmatch(short)]


def _suggestion(name: str) -> str:
    short = name[len(PREFIX) :]
    near = difflib.get_close_matches(short, [field.upper() for field in Settings.model_fields], n=1)
    hint = f"; did you mean {PREFIX}{near[0]}?" if near else "; docs/settings.md lists them all."
    return f"{name}, which is no setting{hint}"


def _sentence(error: ValidationError) -> str:
    missing = [item for item in error.errors() if item["type"] == "missing"]
    if missing:
        return (
            f"{PREFIX}DATABASE_URL is not set: point it and {PREFIX}S3_ENDPOINT_URL at PostgreSQL and S3 "
            "(.env.example shows every setting), or run `model-registry dev`, which brings its own."
        )
    complaints = [
        f"{PREFIX}{str(item['loc'][0]).upper()}: {item['msg'].removeprefix('Value error, ')}" for item in error.errors()
    ]
    return "; ".join(complaints) + "."
