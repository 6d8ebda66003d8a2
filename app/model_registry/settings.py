"""The settings of the service, from the environment (`MODEL_REGISTRY_…`) or from a `.env` file."""

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

# Kubernetes sets variables in every pod for the Services of its namespace. If one is called model-registry, these look
# like settings: MODEL_REGISTRY_SERVICE_HOST, MODEL_REGISTRY_SERVICE_PORT_HTTP, MODEL_REGISTRY_PORT_8000_TCP_ADDR.
_KUBERNETES = re.compile(r"(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)")
_OF_THE_CLIENT = frozenset({"URL", "CACHE_DIR", "CACHE_BYTES", "TIMEOUT_SECONDS", "RETRY_SECONDS"})


class ConfigurationError(Exception):
    """The service cannot start with these settings. The message is one sentence that says what to do."""


class UnknownSettingWarning(UserWarning):
    """A name in the environment looks like a setting and is not one."""


class Settings(BaseSettings):
    """Settings of the service. `docs/settings.md` and `.env.example` list them; a test compares the three."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True, allow_inf_nan=False
    )

    database_url: SecretStr = Field(
        description="Address of PostgreSQL: postgresql://user:password@host:5432/database.",
    )
    database_pool_size: int = Field(
        8, ge=1, le=1000, description="Maximum connections to PostgreSQL per worker process."
    )
    database_pool_timeout_seconds: float = Field(
        2, gt=0, description="Maximum seconds to wait for a usable connection."
    )
    database_connect_timeout_seconds: float = Field(
        5, gt=0, description="Maximum seconds to open a connection; the pool timeout also applies."
    )
    database_statement_timeout_seconds: float = Field(5, gt=0, description="Maximum seconds for one SQL statement.")
    database_lock_timeout_seconds: float = Field(2, gt=0, description="Maximum seconds to wait for a locked row.")

    s3_endpoint_url: str | None = Field(None, description="URL of the S3 server that the service uses; empty for AWS.")
    s3_public_endpoint_url: str | None = Field(
        None, description="URL of the S3 server that clients use, for presigned URLs; empty for the same URL."
    )
    s3_bucket: str = Field(
        "models", min_length=3, max_length=63, description="Bucket that stores the bytes of the models."
    )
    s3_region: str = Field("us-east-1", min_length=1, description="Region of the bucket.")
    s3_access_key_id: str | None = Field(
        None, description="Access key; empty for the default AWS chain (environment, profile, instance, pod identity)."
    )
    s3_secret_access_key: SecretStr | None = Field(None, description="Secret of the access key.")
    s3_max_connections: int = Field(64, ge=1, description="Maximum connections to S3 per worker process.")
    s3_connect_timeout_seconds: float = Field(
        5, gt=0, description="Maximum seconds to connect to S3; a short call may take twice as long in total."
    )
    s3_read_timeout_seconds: float = Field(
        30, gt=0, description="Maximum seconds to wait for the first or the next bytes of a download from S3."
    )
    s3_operation_timeout_seconds: float = Field(60, gt=0, description="Maximum seconds for one S3 call.")

    download_mode: Literal["stream", "redirect"] = Field(
        "stream", description="stream: the service sends the bytes. redirect: the service sends clients to S3."
    )
    presign_expiry_seconds: int = Field(900, ge=1, le=604_800, description="Seconds until a presigned URL expires.")
    public_url: str = Field(
        "",
        pattern=r"^(https?://[^\s/]+(/[^\s]*)?)?$",
        description="URL of this service that clients use, for links to itself; empty to take it from each request.",
    )
    allowed_hosts: str = Field("*", description="Host names that requests may use, separated by commas; * allows all.")

    max_upload_bytes: int = Field(200 * 1024**3, ge=1, description="Maximum size of a file.")
    max_metadata_bytes: int = Field(1024**2, ge=2, le=64 * 1024**2, description="Maximum size of a metadata document.")
    upload_lease_seconds: float = Field(
        900, ge=1, description="Seconds after which an abandoned upload expires and its label is free again."
    )
    commit_wait_seconds: float = Field(
        30, gt=0, description="Maximum seconds that a commit waits for verification; then it returns 202 and continues."
    )
    multipart_threshold_bytes: int = Field(
        64 * 1024**2,
        ge=1,
        le=5 * 1024**3,
        description="Maximum size of a file that a push uploads in one request; larger files go in parts.",
    )
    multipart_part_bytes: int = Field(
        16 * 1024**2,
        ge=5 * 1024**2,
        le=5 * 1024**3,
        description="Size of a part; parts of very large files are larger.",
    )
    upload_buffer_slots: int = Field(
        12, ge=1, description="Number of 8 MiB buffers for uploads, shared by all requests of a worker process."
    )
    body_idle_timeout_seconds: float = Field(
        30, gt=0, description="Maximum seconds for which a client may send or receive nothing in the middle of a body."
    )

    min_upload_bytes_per_second: float = Field(
        1024, ge=0, description="Minimum speed of an upload over the idle timeout; a slower upload gets a 408."
    )
    max_requests_in_flight: int = Field(
        1000, ge=1, description="Maximum requests that a worker process handles at once; others get a 503."
    )
    max_buffered_bytes: int = Field(
        128 * 1024**2, ge=1, description="Maximum bytes of JSON bodies that a worker process holds at once."
    )
    max_pending_versions: int = Field(
        1000, ge=1, description="Maximum pending versions of one actor; more pushes get a 429."
    )

    purge_after_seconds: float = Field(
        30 * 24 * 3600, ge=0, description="Seconds during which a removed version can be restored."
    )
    gc_interval_seconds: float = Field(300, gt=0, description="Seconds between two runs of the collector.")
    gc_grace_seconds: float = Field(
        24 * 3600,
        ge=0,
        description="Seconds to keep unreferenced bytes: more than a presigned URL or a download lasts.",
    )

    shutdown_delay_seconds: float = Field(
        5,
        ge=0,
        description="Seconds to keep serving after SIGTERM while /readyz fails, so that load balancers notice.",
    )
    shutdown_grace_seconds: int = Field(
        25, ge=1, description="Maximum seconds for requests in flight to finish after that delay."
    )

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="Minimum level of the events in the log."
    )
    log_format: Literal["console", "json"] = Field(
        "console", description="console is for people, json for log collectors."
    )

    @field_validator("database_url")
    @classmethod
    def _is_postgresql(cls, value: SecretStr) -> SecretStr:
        scheme, separator, rest = value.get_secret_value().partition("://")
        if scheme not in {"postgresql", "postgres", "postgresql+asyncpg"} or not separator or not rest:
            raise ValueError("is not a PostgreSQL address; write postgresql://user:password@host:5432/database")
        return SecretStr(f"postgresql+asyncpg://{rest}")

    @field_validator("log_level", mode="before")
    @classmethod
    def _any_case(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value

    @property
    def hosts(self) -> list[str]:
        return [host.strip().lower() for host in self.allowed_hosts.split(",") if host.strip()]


def load_settings(env_file: Path = Path(".env"), **overrides: Any) -> Settings:
    """Return the settings from the overrides, the environment and the file; the first that has a value wins.

    Raises `ConfigurationError` for a value that is missing or not allowed, and for an unknown name in the file. Warns
    (`UnknownSettingWarning`) about an unknown name in the environment.
    """
    _reject_unknown_names(env_file, os.environ)
    try:
        return Settings(_env_file=env_file, **overrides)
    except ValidationError as error:
        raise ConfigurationError(_sentence(error)) from None


def _reject_unknown_names(env_file: Path, environment: Mapping[str, str]) -> None:
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
    hint = f"; did you mean {PREFIX}{near[0]}?" if near else "; docs/settings.md lists all settings."
    return f"{name}, which is not a setting{hint}"


def _sentence(error: ValidationError) -> str:
    missing = [item for item in error.errors() if item["type"] == "missing"]
    if missing:
        return (
            f"{PREFIX}DATABASE_URL is not set: set it and {PREFIX}S3_ENDPOINT_URL to the addresses of PostgreSQL "
            "and S3 (.env.example shows every setting), or run `model-registry dev`, which starts both."
        )
    complaints = [
        f"{PREFIX}{str(item['loc'][0]).upper()}: {item['msg'].removeprefix('Value error, ')}" for item in error.errors()
    ]
    return "; ".join(complaints) + "."
