"""Where the registry is, and what is kept here: by arguments, else the environment, else the file of `login`."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model_registry_client.errors import UsageError

DEFAULT_URL = "http://localhost:8000"
_PREFIX = "MODEL_REGISTRY_"
_NAMES = {
    "url": f"{_PREFIX}URL",
    "cache_dir": f"{_PREFIX}CACHE_DIR",
    "cache_bytes": f"{_PREFIX}CACHE_BYTES",
    "timeout_seconds": f"{_PREFIX}TIMEOUT_SECONDS",
    "retry_seconds": f"{_PREFIX}RETRY_SECONDS",
}


def config_path() -> Path:
    """`~/.config/model-registry/config.json`, or below XDG_CONFIG_HOME."""
    return _home("XDG_CONFIG_HOME", ".config") / "config.json"


def default_cache_dir() -> Path:
    """`~/.cache/model-registry`, or below XDG_CACHE_HOME."""
    return _home("XDG_CACHE_HOME", ".cache")


def _home(variable: str, folder: str) -> Path:
    # The XDG base directory specification: what is not absolute is to be ignored.
    named = Path(os.environ.get(variable, ""))
    if named.is_absolute():
        return named / "model-registry"
    try:
        home = Path.home()
    except RuntimeError:
        home = Path("/")  # of a user whom the system does not know; containers say the same
    return home / folder / "model-registry"


class Settings(BaseModel):
    """What a client has to know."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    url: str = DEFAULT_URL
    cache_dir: Path = Field(default_factory=default_cache_dir)
    cache_bytes: int = Field(default=20 * 1024**3, ge=0)
    """What the cache may hold; 0 turns it off."""
    timeout_seconds: float = Field(default=45, gt=0)
    """Of silence, in an answer or before it."""
    retry_seconds: float = Field(default=60, ge=0)

    @classmethod
    def load(cls, **arguments: object) -> Self:
        """The settings in force; arguments that are `None` were not given. Raises `UsageError` for a bad value."""
        given: dict[str, object] = {
            name: os.environ[variable] for name, variable in _NAMES.items() if os.environ.get(variable)
        }
        given |= {name: value for name, value in arguments.items() if value is not None}
        try:
            values = {**_from_file(config_path()), **given}
        except UsageError:
            # Nobody needs the file who says where the registry is: a container has no home that it may read.
            if "url" not in given:
                raise
            values = given
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0])
            raise UsageError(
                f"{name}: {first['msg']}, not {first['input']!r} (from an argument, {_NAMES.get(name, name)} "
                f"or {config_path()})."
            ) from None


def save_url(url: str) -> Path:
    """Remember `url` for later runs; the file, which is for its owner alone."""
    path = config_path()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # A file that cannot be read is what people are told to mend in this way.
    try:
        known = _from_file(path)
    except UsageError:
        known = {}
    values = {**known, "url": url.rstrip("/")}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 - made with its mode, not changed to it
        json.dump(values, file, indent=2)
    temporary.replace(path)
    return path


def _from_file(path: Path) -> Mapping[str, object]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({error}): mend it, or run `model-registry login URL`.") from None
    if not isinstance(values, dict):
        raise UsageError(f"{path} holds no JSON object: mend it, or run `model-registry login URL`.")
    return values
