"""The settings of the client, from arguments, the environment, and the file that `login` writes, in this order."""

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
    """Return `~/.config/model-registry/config.json`, or the path below XDG_CONFIG_HOME."""
    return _home("XDG_CONFIG_HOME", ".config") / "config.json"


def default_cache_dir() -> Path:
    """Return `~/.cache/model-registry`, or the path below XDG_CACHE_HOME."""
    return _home("XDG_CACHE_HOME", ".cache")


def _home(variable: str, folder: str) -> Path:
    # The XDG base directory specification says to ignore paths that are not absolute.
    named = Path(os.environ.get(variable, ""))
    if named.is_absolute():
        return named / "model-registry"
    try:
        home = Path.home()
    except RuntimeError:
        home = Path("/")  # the user is unknown to the system, as in containers
    return home / folder / "model-registry"


class Settings(BaseModel):
    """The settings of a client."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    url: str = DEFAULT_URL
    cache_dir: Path = Field(default_factory=default_cache_dir)
    cache_bytes: int = Field(default=20 * 1024**3, ge=0)
    """Maximum size of the cache. 0 turns it off."""
    timeout_seconds: float = Field(default=45, gt=0)
    """Maximum seconds without a byte, before or within a response."""
    retry_seconds: float = Field(default=60, ge=0)

    @classmethod
    def load(cls, **arguments: object) -> Self:
        """Load the settings. Arguments that are `None` are ignored. Raises `UsageError` for an invalid value."""
        given: dict[str, object] = {
            name: os.environ[variable] for name, variable in _NAMES.items() if os.environ.get(variable)
        }
        given |= {name: value for name, value in arguments.items() if value is not None}
        try:
            values = {**_from_file(config_path()), **given}
        except UsageError:
            # With a URL the file is not necessary: in a container the home directory may be unreadable.
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
    """Save `url` for later runs, and return the path of the file, which only its owner can read."""
    path = config_path()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # The message about an unreadable file tells people to run `login`.
    try:
        known = _from_file(path)
    except UsageError:
        known = {}
    values = {**known, "url": url.rstrip("/")}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 - created with its mode
        json.dump(values, file, indent=2)
    temporary.replace(path)
    return path


def _from_file(path: Path) -> Mapping[str, object]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({error}). Correct it, or run `model-registry login URL`.") from None
    if not isinstance(values, dict):
        raise UsageError(f"{path} is not a JSON object. Correct it, or run `model-registry login URL`.")
    return values
