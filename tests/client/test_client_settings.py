"""Where the client reads its settings, and where it saves them."""

import json
import stat
from pathlib import Path

import pytest

from model_registry_client import Registry, Settings, UsageError
from model_registry_client.settings import config_path, save_url


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without settings."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "MODEL_REGISTRY_URL", "MODEL_REGISTRY_CACHE_BYTES"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_the_default_is_the_registry_of_make_dev(home: Path) -> None:
    settings = Settings.load(url=None)

    assert settings.url == "http://localhost:8000"
    assert settings.cache_dir == home / ".cache/model-registry"
    assert config_path() == home / ".config/model-registry/config.json"
    assert list(home.iterdir()) == []


def test_an_argument_overrides_the_environment_which_overrides_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    save_url("http://file:1/")
    assert Settings.load().url == "http://file:1"

    monkeypatch.setenv("MODEL_REGISTRY_URL", "http://environment:1")
    assert Settings.load().url == "http://environment:1"
    assert Settings.load(url="http://argument:1").url == "http://argument:1"

    with Registry() as registry:
        assert registry.base_url == "http://environment:1"


def test_an_empty_variable_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_REGISTRY_URL", "")

    assert Settings.load().url == "http://localhost:8000"


def test_xdg_folders_are_used_if_they_are_absolute(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "c"))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")

    assert save_url("http://r:1") == home / "c/model-registry/config.json"
    assert Settings.load().cache_dir == home / ".cache/model-registry"


def test_only_the_owner_can_read_the_saved_file_and_other_settings_stay() -> None:
    path = save_url("http://one:1")
    path.write_text(json.dumps({"url": "http://one:1", "cache_bytes": 5, "newer": True}))
    path.chmod(0o644)

    save_url("http://two:1")

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert json.loads(path.read_text()) == {"url": "http://two:1", "cache_bytes": 5, "newer": True}
    assert [each.name for each in path.parent.iterdir()] == ["config.json"]
    assert Settings.load().cache_bytes == 5


@pytest.mark.parametrize("text", ["{", "[]", "\x00"])
def test_a_damaged_file_is_named_and_login_replaces_it(text: str) -> None:
    path = save_url("http://one:1")
    path.write_text(text)

    with pytest.raises(UsageError, match=r"config\.json.*model-registry login"):
        Settings.load()
    save_url("http://two:1")

    assert Settings.load().url == "http://two:1"


def test_with_a_url_the_file_is_not_necessary(monkeypatch: pytest.MonkeyPatch) -> None:
    save_url("http://one:1").write_text("{")

    assert Settings.load(url="http://argument:1").url == "http://argument:1"
    monkeypatch.setenv("MODEL_REGISTRY_URL", "http://environment:1")
    assert Settings.load().url == "http://environment:1"


def test_a_user_without_a_home_has_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)

    assert Settings.load().cache_dir == Path("/.cache/model-registry")


def test_a_bad_value_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_REGISTRY_CACHE_BYTES", "much")

    with pytest.raises(UsageError, match=r"cache_bytes: .*'much'.*MODEL_REGISTRY_CACHE_BYTES"):
        Settings.load()


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000",
        "ftp://models",
        "http://",
        "models.example.org",
        "http://a:b",
        "http://a:0",
        "http://a:99999",
        "http://a/?b=c",
        "http://a/#b",
    ],
)
def test_a_string_that_is_not_a_url_is_refused_at_once(url: str) -> None:
    with pytest.raises(UsageError, match=r"is not (a|the) URL"):
        Registry(url)
