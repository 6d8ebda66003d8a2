"""The specified behaviour of the registry, in plain Python: one client, no clock, and a store that never fails.

Every method does what a request should do, or raises `Refused` with the slug of the problem and changes nothing
visible.
"""

import hashlib
import itertools
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from packaging.version import InvalidVersion
from packaging.version import Version as Pep440

from tests.support.checker import manifest_digest

Json = dict[str, Any]


class Refused(Exception):
    def __init__(self, slug: str) -> None:
        super().__init__(slug)
        self.slug = slug


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def merged(target: Any, patch: Any) -> Any:
    """Apply a merge patch (RFC 7396)."""
    if not isinstance(patch, dict):
        return patch
    both = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            both.pop(name, None)
        else:
            both[name] = merged(both.get(name), value)
    return both


def changed(now: Json, patch: Json, name: str) -> Json:
    """Apply one object of a patch; null removes the whole object."""
    after: Json = merged(now, patch.get(name, {})) or {}
    return after


@dataclass
class Version:
    """A version.

    `pinned` are the contents of a pending version that were stored before it, `sent` those that arrived since. `born`
    and `removed` are moments.
    """

    model_name: str
    label: str
    number: int
    born: int
    files: dict[str, bytes]
    params: Json
    metadata: Json = field(default_factory=dict)
    description: str | None = None
    tags: Json = field(default_factory=dict)
    state: str = "pending"
    is_expired: bool = False
    is_yanked: bool = False
    reason: str | None = None
    removed: int = 0
    is_purged: bool = False
    pinned: set[bytes] = field(default_factory=set)
    sent: set[bytes] = field(default_factory=set)
    revision: int = 0
    """Grows with every change. The ETag changes exactly when the revision does."""

    @property
    def parsed(self) -> Pep440 | None:
        try:
            return Pep440(self.label)
        except InvalidVersion:
            return None

    @property
    def precedence(self) -> tuple[bool, Pep440, int]:
        return self.parsed is not None, self.parsed or Pep440("0"), self.number

    @property
    def is_prerelease(self) -> bool:
        return self.parsed is not None and self.parsed.is_prerelease

    @property
    def size_bytes(self) -> int:
        return sum(map(len, self.files.values()))

    @property
    def digest(self) -> str:
        return "sha256:" + manifest_digest({path: (sha256(data), len(data)) for path, data in self.files.items()})

    def same_as(self, files: Mapping[str, bytes], params: Json) -> bool:
        return self.files == files and self.params == params


@dataclass
class Model:
    """`history` contains the targets of each alias, from the first move to the last; `None` if it was dropped."""

    is_provisional: bool = True
    next_number: int = 1
    versions: dict[str, Version] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    history: dict[str, list[str | None]] = field(default_factory=dict)
    description: str | None = None
    tags: Json = field(default_factory=dict)

    def in_state(self, state: str = "ready") -> list[Version]:
        """Return the versions in a state, highest precedence first."""
        there = [each for each in self.versions.values() if each.state == state and not each.is_expired]
        return sorted(there, key=lambda each: each.precedence, reverse=True)

    @property
    def latest(self) -> Version | None:
        candidates = [each for each in self.in_state() if not each.is_yanked]
        return max(candidates, key=lambda each: (not each.is_prerelease, each.precedence), default=None)


class Registry:
    def __init__(self) -> None:
        self.models: dict[str, Model] = {}
        self.events: list[tuple[str, str, str | None, Json]] = []
        self._moments = itertools.count()

    # Reads

    @property
    def versions(self) -> list[Version]:
        return [version for model in self.models.values() for version in model.versions.values()]

    def is_stored(self, content: bytes) -> bool:
        """Return whether a push of these bytes need not send them."""
        return any(
            content in (version.pinned if version.state == "pending" else version.files.values())
            for version in self.versions
            if not version.is_purged
        )

    def known(self, name: str) -> Model:
        """Return a model that a client created, or in which a version was ready."""
        model = self.models.get(name)
        if model is None or model.is_provisional:
            raise Refused("model-not-found")
        return model

    def missing(self, name: str, what: str = "version-not-found") -> Refused:
        return Refused(what if name in self.models and self.models[name].in_state() else "model-not-found")

    def find(self, name: str, selector: str) -> Version:
        """Return the version that a read of a label, `latest` or `@alias` gives."""
        model = self.models.get(name, Model())
        if selector == "latest":
            found = model.latest
        else:
            label = model.aliases.get(selector[1:], "") if selector.startswith("@") else selector
            found = next((each for each in model.in_state() if each.label == label), None)
        if found is None:
            raise self.missing(name, "alias-not-found" if selector.startswith("@") else "version-not-found")
        return found

    def held(self, name: str, label: str) -> Version:
        """Return the version in any state."""
        found = self.models[name].versions.get(label) if name in self.models else None
        if found is None or found.is_expired:
            raise self.missing(name)
        return found

    def held_ready(self, name: str, label: str) -> Version:
        found = self.held(name, label)
        if found.state == "pending":
            raise Refused("version-not-available")
        if found.state == "removed":
            raise self.missing(name)
        return found

    # Registering and pushing

    def register(self, name: str, label: str, files: Collection[tuple[str, bytes]], params: Json) -> Version:
        taken = self.models.get(name, Model()).versions.get(label)
        if taken is not None and not taken.is_expired:
            raise Refused("version-exists")
        version = self._take_label(name, label, dict(files), params)
        if not can_lie_together([path for path, _ in files]):
            self._discard(version)
            raise Refused("invalid-field")
        self._publish(version)
        return version

    def reserve(
        self, name: str, label: str | None, files: Mapping[str, bytes], params: Json, description: str | None
    ) -> tuple[Version, bool]:
        """Return the version that a push resumes or creates, and whether it is new."""
        if not can_lie_together(files):
            raise Refused("invalid-field")
        taken = self.models.get(name, Model()).versions.get(label or "")
        if taken is not None and not taken.is_expired:
            if not taken.same_as(files, params) or taken.state == "removed":
                raise Refused("version-exists")
            version = taken
        else:
            version = self._take_label(name, label, dict(files), params)
        if version.state == "pending":
            version.description = description
            version.revision += 1
            version.pinned |= {content for content in files.values() if self.is_stored(content)}
        return version, version is not taken

    def send(self, name: str, label: str, content: bytes, meant: bytes) -> None:
        """Send bytes through the service, for a file that was declared as `meant`."""
        version = self.held(name, label)
        if version.state != "pending":
            raise Refused("version-exists")
        if len(content) != len(meant):
            raise Refused("size-mismatch")
        if content != meant:
            raise Refused("digest-mismatch")
        version.sent.add(content)

    def commit(self, name: str, label: str) -> Version:
        version = self.held(name, label)
        if version.state == "removed":
            raise Refused("version-not-available")
        if version.state == "pending":
            if not version.pinned | version.sent >= set(version.files.values()):
                raise Refused("upload-incomplete")
            self._publish(version)
        return version

    def _take_label(self, name: str, label: str | None, files: dict[str, bytes], params: Json) -> Version:
        if any(other.lower() == name.lower() and other != name for other in self.models):
            raise Refused("model-name-taken")
        model = self.models.setdefault(name, Model())
        number = model.next_number
        while label is None and str(number) in model.versions:
            number += 1
        model.next_number = number + 1
        version = Version(name, label or str(number), number, next(self._moments), files, params)
        model.versions[version.label] = version
        return version

    def _publish(self, version: Version) -> None:
        version.state = "ready"
        version.revision += 1
        self.models[version.model_name].is_provisional = False
        details = {"digest": version.digest, "file_count": len(version.files)}
        self._record("version.registered", version.model_name, version.label, details)

    def _discard(self, version: Version) -> None:
        model = self.models[version.model_name]
        del model.versions[version.label]
        if model.is_provisional and not model.versions:
            del self.models[version.model_name]

    # Changes of a version

    def patch_version(self, name: str, label: str, patch: Json) -> Version:
        version = self.held_ready(name, label)
        if patch:
            version.description = patch.get("description", version.description)
            version.tags = changed(version.tags, patch, "tags")
            version.metadata = changed(version.metadata, patch, "additional_metadata")
            version.revision += 1
            self._record("version.updated", name, label, {"patch": patch})
        return version

    def yank(self, name: str, label: str, reason: str | None) -> Version:
        version = self.held_ready(name, label)
        if not version.is_yanked or version.reason != reason:
            version.is_yanked, version.reason = True, reason
            version.revision += 1
            self._record("version.yanked", name, label, {"reason": reason})
        return version

    def unyank(self, name: str, label: str) -> Version:
        version = self.held_ready(name, label)
        if version.is_yanked:
            version.is_yanked, version.reason = False, None
            version.revision += 1
            self._record("version.unyanked", name, label)
        return version

    def remove(self, name: str, label: str, *, force: bool, purge: bool, may_be_pending: bool) -> None:
        version = self.held(name, label)
        if (version.state == "removed" and not purge) or (version.state == "pending" and not may_be_pending):
            raise self.missing(name)
        aliases = self.aliases_of(version)
        if aliases and not force:
            raise Refused("version-aliased")
        if version.state == "pending":
            self._discard(version)
            self._record("version.discarded", name, label)
            return
        if version.state == "ready":
            for alias in aliases:
                self._point(self.models[name], alias, None)
            version.state = "removed"
            version.removed = next(self._moments)
            version.revision += 1
            self._record("version.removed", name, label, {"dropped_aliases": aliases} if aliases else {})
        if purge and not version.is_purged:
            self.purge(version)

    def purge(self, version: Version) -> None:
        version.is_purged = True
        version.revision += 1
        self._record("version.purged", version.model_name, version.label)

    def restore(self, name: str, label: str) -> Version:
        version = self.held(name, label)
        if version.state == "pending":
            raise Refused("version-not-available")
        if version.is_purged:
            raise Refused("version-purged")
        if version.state == "removed":
            version.state = "ready"
            version.revision += 1
            self._record("version.restored", name, label)
        return version

    # Aliases

    def aliases_of(self, version: Version) -> list[str]:
        aliases = self.models[version.model_name].aliases
        return sorted(alias for alias, label in aliases.items() if label == version.label)

    def move(self, name: str, moves: Mapping[str, str], *, or_else: str | None = None) -> None:
        """Point aliases at labels, all or none; `or_else` is the refusal if everything else is right."""
        for label in moves.values():
            target = self.models.get(name, Model()).versions.get(label)
            if target is None or target.is_expired or target.state != "ready":
                self.known(name)
                is_there = target is not None and not target.is_expired
                raise Refused("version-not-available" if is_there else "version-not-found")
        if or_else is not None:
            raise Refused(or_else)
        model = self.models[name]
        was = {alias: model.aliases.get(alias) for alias in moves}
        for version in model.versions.values():
            version.revision += version.label in {*was.values(), *moves.values()}
        for alias, label in moves.items():
            self._point(model, alias, label)
            self._record("alias.moved", name, label, {"alias": alias, "from": was[alias], "to": label})

    def roll_back(self, name: str, alias: str, *, or_else: str | None) -> None:
        now = self._pointed(name, alias)
        before = [label for label in self.models[name].history[alias] if label not in {None, now}]
        if not before:
            raise Refused("no-previous-target")
        self.move(name, {alias: before[-1] or ""}, or_else=or_else)

    def drop(self, name: str, alias: str, *, or_else: str | None) -> None:
        label = self._pointed(name, alias)
        if or_else is not None:
            raise Refused(or_else)
        self._point(self.models[name], alias, None)
        self.models[name].versions[label].revision += 1
        self._record("alias.dropped", name, label, {"alias": alias, "from": label})

    def _pointed(self, name: str, alias: str) -> str:
        if alias not in self.known(name).aliases:
            raise Refused("alias-not-found")
        return self.models[name].aliases[alias]

    def _point(self, model: Model, alias: str, label: str | None) -> None:
        model.history.setdefault(alias, []).append(label)
        if label is None:
            del model.aliases[alias]
        else:
            model.aliases[alias] = label

    # Models

    def create(self, name: str, description: str | None, tags: Json) -> None:
        if any(other.lower() == name.lower() and other != name for other in self.models):
            raise Refused("model-name-taken")
        model = self.models.setdefault(name, Model())
        if not model.is_provisional:
            raise Refused("model-exists")
        model.is_provisional, model.description, model.tags = False, description, tags
        self._record("model.created", name)

    def patch_model(self, name: str, patch: Json) -> None:
        model = self.known(name)
        if patch:
            model.description = patch.get("description", model.description)
            model.tags = changed(model.tags, patch, "tags")
            self._record("model.updated", name, None, {"patch": patch})

    def delete(self, name: str) -> None:
        if self.known(name).versions:
            raise Refused("model-in-use")
        del self.models[name]
        self._record("model.deleted", name)

    # Time and the collector

    def let_leases_expire(self) -> None:
        for version in self.versions:
            version.is_expired = version.state == "pending"

    def collect(self, *, purges: bool) -> None:
        """Collect. `purges`: the time of everything removed has come, in the order of its removal."""
        for version in sorted(self.versions, key=lambda version: version.removed):
            if version.is_expired:
                self._discard(version)
            elif purges and version.state == "removed" and not version.is_purged:
                self.purge(version)

    def _record(self, action: str, name: str, label: str | None = None, details: Json | None = None) -> None:
        self.events.append((action, name, label, details or {}))


def can_lie_together(paths: Collection[str]) -> bool:
    """Return whether a file system that ignores case can hold all of these paths."""
    folded = [path.casefold() for path in paths]
    return len(set(folded)) == len(folded) and not any(
        one.startswith(f"{other}/") for one in folded for other in folded
    )
