"""Clients that do everything at random, and record the responses.

Each has a ledger of its own. They share what people would tell each other: which versions exist, and which pushes are
unfinished.
"""

import asyncio
import base64
import io
import random
import tarfile
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.resilience.soak.contents import choose, choose_volatile, content, content_of, digest_of, sha256
from tests.resilience.soak.tally import Tally
from tests.support.checker import manifest_digest
from tests.support.ledger import NOT_CONNECTED, Ledger

MODELS = ("m0", "m1", "m2")
ALIASES = ("champion", "challenger", "canary")
EPOCH_SECONDS = 4
_RECENT = 60
# Only one transaction at a time can change each of them.
_VOLATILE_MODELS = 8

Label = tuple[str, str]


@dataclass(frozen=True)
class Push:
    """A push as its client intends it; `files` are {path: name of the content}."""

    model: str
    version: str | None
    files: Mapping[str, str]
    proxied: bool
    metadata: Mapping[str, Any]

    @property
    def digests(self) -> dict[str, str]:
        return {path: digest_of(name) for path, name in self.files.items()}

    def body(self) -> dict[str, Any]:
        files = [
            {"path": path, "size_bytes": len(content(name)), "sha256": f"sha256:{digest_of(name)}"}
            for path, name in self.files.items()
        ]
        named = {"version": self.version} if self.version else {}
        transfer = "proxied" if self.proxied else "direct"
        return named | {"files": files, "transfer": transfer, "additional_metadata": dict(self.metadata)}


@dataclass
class World:
    """What the clients tell each other."""

    began_at: float = field(default_factory=time.monotonic)
    recent: deque[Label] = field(default_factory=lambda: deque(maxlen=_RECENT))
    ready: deque[Label] = field(default_factory=lambda: deque(maxlen=_RECENT))
    left: deque[Push] = field(default_factory=lambda: deque(maxlen=20))
    missing: list[tuple[Label | None, str]] = field(default_factory=list)
    """Downloads that got a 500. With no grace time, that is correct for a version that is purged meanwhile."""
    flashes: int = 0
    ids: dict[Label, int] = field(default_factory=dict)

    @property
    def epoch(self) -> int:
        return int((time.monotonic() - self.began_at) / EPOCH_SECONDS)


class Client:
    def __init__(
        self,
        number: int,
        *,
        urls: Sequence[str],
        world: World,
        ledger: Ledger,
        tally: Tally,
        chance: random.Random,
        weights: Mapping[str, float],
    ) -> None:
        self._number = number
        self._urls = urls
        self._world = world
        self._ledger = ledger
        self._tally = tally
        self._chance = chance
        self.done = 0
        known: dict[str, Callable[[], Awaitable[None]]] = {
            "register": self.register,
            "push": self.push,
            "resume": self.resume,
            "corrupt": self.push_wrong_bytes,
            "flash": self.flash,
            "remove": self.remove,
            "purge": self.purge,
            "restore": self.restore,
            "yank": self.yank,
            "unyank": self.unyank,
            "patch": self.patch,
            "alias": self.move_alias,
            "swap": self.swap_aliases,
            "rollback": self.roll_back_alias,
            "unalias": self.drop_alias,
            "read": self.read,
            "download": self.download,
            "archive": self.download_archive,
        }
        self._operations = [known[name] for name in weights]
        self._weights = list(weights.values())

    async def run(self, until: asyncio.Event) -> None:
        limits = httpx.Limits(max_keepalive_connections=10)
        async with httpx.AsyncClient(limits=limits, timeout=20) as self._http:
            while not until.is_set():
                (operation,) = self._chance.choices(self._operations, self._weights)
                await operation()
                self.done += 1

    # Asking

    async def _ask(
        self, kind: str, method: str, path: str, *, attempt: int | None = None, **request: Any
    ) -> httpx.Response | None:
        """Return the response of some replica; `None` if none came, and then the outcome is unknown."""
        request.setdefault("timeout", self._chance.choice((3, 20)))
        for url in self._chance.sample(self._urls, len(self._urls)):
            try:
                answer = await self._http.request(method, url + path, **request)
            except httpx.ConnectError:
                continue  # no replica there at the moment; another one may be, as behind a balancer
            except httpx.TransportError:
                self._tally.count(kind, None)
                return None
            await self._saw(kind, answer)
            return answer
        if attempt is not None:
            self._ledger.ack(attempt, NOT_CONNECTED)
        await asyncio.sleep(0.2)
        return None

    async def _saw(self, kind: str, answer: httpx.Response) -> None:
        status = answer.status_code
        self._tally.count(kind, status)
        if status < 400:
            return
        problem = _problem(answer)
        self._tally.problems[f"{kind} {status} {problem}"] += 1
        if status == 503 and "retry-after" in answer.headers:
            await asyncio.sleep(0.1)
        elif status == 500 and (kind == "archive" or kind.startswith("get ")):
            self._world.missing.append((_label_in(answer.request.url.path), str(answer.request.url)))
        elif status >= 500:
            self._tally.complain(
                "M7",
                f"{answer.request.method} {answer.request.url} was {status} {answer.text[:300]} "
                f"(request {answer.headers.get('x-request-id')})",
            )

    def _ack(self, attempt: int, answer: httpx.Response | None, **facts: Any) -> None:
        if answer is not None:
            self._ledger.ack(attempt, answer.status_code, **facts)

    def _ack_info(self, attempt: int, label: Label, answer: httpx.Response | None, **facts: Any) -> None:
        """Record a response that is a version, if it is a success."""
        if answer is not None and answer.status_code < 300:
            info = answer.json()
            self._check_info(info)
            facts |= {name: info[name] for name in ("id", "version", "digest", "state")}
            if info["state"] == "ready":
                first = self._world.ids.setdefault((info["model_name"], info["version"]), info["id"])
                if first != info["id"]:
                    self._tally.complain("M2", f"{label} was {first}, and is {info['id']}")
        self._ack(attempt, answer, **facts)

    def _check_info(self, info: Mapping[str, Any]) -> None:
        """M1 for readers: the manifest in a response has the digest that the response shows."""
        files = {file["path"]: (file["sha256"].removeprefix("sha256:"), file["size_bytes"]) for file in info["files"]}
        is_whole = info["file_count"] == len(files) and (files or info["purged_at"] is None)
        if is_whole and info["digest"] is not None and info["digest"] != f"sha256:{manifest_digest(files)}":
            self._tally.complain("M1", f"{info['model_name']} {info['version']} shows files of another digest: {info}")

    # Choosing

    def _model(self) -> str:
        if self._chance.random() < 0.1:
            return f"fresh-{self._world.epoch}"
        return self._chance.choice(MODELS)

    def _new_label(self) -> Label:
        """Return a label that other clients want too."""
        label = self._model(), f"{self._world.epoch}.{self._chance.randrange(12)}"
        self._world.recent.append(label)
        return label

    def _label(self) -> Label:
        """Return a label that exists, or existed, or that a client is registering."""
        known = self._world.ready if self._chance.random() < 0.75 else self._world.recent
        return self._chance.choice(known or [(MODELS[0], "0.0")])

    def _files(self) -> dict[str, str]:
        count = self._chance.choice((1, 1, 1, 2, 4))
        return {f"dir/file-{index}": choose(self._chance, self._world.epoch) for index in range(count)}

    def _mark(self) -> str:
        return f"{self._number}-{self.done}-{self._chance.randrange(10**6)}"

    # Registering

    async def register(self) -> None:
        label = self._new_label()
        if await self._register(label, self._files()):
            self._world.ready.append(label)

    async def _register(self, label: Label, files: Mapping[str, str]) -> bool:
        mark = self._mark()
        key = mark if self._chance.random() < 0.6 else None
        parts = [("model_file", (path, content(name))) for path, name in files.items()]
        data = {"model_name": label[0], "version": label[1], "additional_metadata": f'{{"by": "{mark}"}}'}
        headers = {"Idempotency-Key": key} if key else {}
        for _ in range(4 if key else self._chance.choice((1, 2))):
            attempt = self._ledger.attempt("register", *label, files=_digests(files), key=key)
            answer = await self._ask(
                "register", "POST", "/register_model", attempt=attempt, data=data, files=parts, headers=headers
            )
            self._ack_info(attempt, label, answer)
            if answer is not None and answer.status_code != 503:
                if key and answer.status_code == 409 and answer.json().get("state") == "ready":
                    await self._check_not_ours(label, mark)
                return answer.status_code == 201
        return False

    async def _check_not_ours(self, label: Label, mark: str) -> None:
        """M2: a repeated request with the same Idempotency-Key does not conflict with itself."""
        info = await self._ask("info", "GET", f"/get_model_info/{label[0]}/{label[1]}")
        if info is not None and info.status_code == 200 and info.json()["additional_metadata"].get("by") == mark:
            self._tally.complain("M2", f"{label} is what {mark} registered, and to say it again was a 409")

    # Pushing

    async def push(self) -> None:
        model, version = self._new_label()
        named = version if self._chance.random() < 0.8 else None
        push = Push(model, named, self._files(), self._chance.random() < 0.3, {"by": self._number})
        await self._push(push, abandoned=self._chance.random() < 0.25)

    async def resume(self) -> None:
        """Resume a push that a client left."""
        if self._world.left:
            await self._push(self._world.left.pop())

    async def push_wrong_bytes(self) -> None:
        """Push bytes that differ from the declared ones, in a label of its own: never ready, then corrected."""
        push = Push(self._model(), f"0.{self._mark()}", self._files(), self._chance.random() < 0.3, {"by": "corrupt"})
        await self._push(push, corrupt=True)
        if self._chance.random() < 0.5:
            await self._push(push)

    async def _push(
        self, push: Push, *, abandoned: bool = False, corrupt: bool = False, is_shared: bool = True
    ) -> bool:
        """Reserve, send and commit; gives up if that leads nowhere."""
        path = f"/v1/models/{push.model}/versions"
        attempt = self._ledger.attempt("reserve", push.model, push.version or "")
        reserved = await self._ask("reserve", "POST", path, attempt=attempt, json=push.body())
        self._ack(attempt, reserved)
        if reserved is None or reserved.status_code >= 300:
            return False
        pending = reserved.json()
        label = push.model, pending["version"]
        push = Push(push.model, pending["version"], push.files, push.proxied, push.metadata)
        if pending["state"] == "ready":
            attempt = self._ledger.attempt("push", *label, files=push.digests)
            self._ack_info(attempt, label, reserved)
            return True
        if is_shared:
            self._world.recent.append(label)
        etags: dict[str, list[dict[str, Any]]] = {}
        for upload in pending["uploads"]:
            if abandoned and self._chance.random() < 0.4:
                self._world.left.append(push)
                return False
            data = content(push.files[upload["path"]])
            if corrupt and data:
                data = _damaged(data)
            await self._send(upload, data, etags)
        return await self._commit(
            push, label, etags if self._chance.random() < 0.5 else {}, corrupt=corrupt, is_shared=is_shared
        )

    async def _send(self, upload: dict[str, Any], data: bytes, etags: dict[str, list[dict[str, Any]]]) -> None:
        if upload["already_stored"]:
            return
        if upload["method"] == "multipart":
            await self._send_parts(upload, data, etags)
        elif upload["method"] == "proxy":
            url = httpx.URL(upload["url"])
            await self._ask("put file", "PUT", url.raw_path.decode(), content=data)
        else:
            await self._store(upload, data)

    async def _send_parts(self, upload: dict[str, Any], data: bytes, etags: dict[str, list[dict[str, Any]]]) -> None:
        path, size = f"/v1/uploads/{upload['upload_id']}", upload["part_size"]
        status = await self._ask("upload status", "GET", path)
        if status is None or status.status_code != 200:
            return
        there = {part["part_number"]: part["etag"] for part in status.json()["parts"]}
        pieces = {number: data[(number - 1) * size : number * size] for number in range(1, -(-len(data) // size) + 1)}
        wanted = [number for number in pieces if number not in there]
        if wanted:
            signed = await self._ask("sign parts", "POST", f"{path}/parts", json={"part_numbers": wanted})
            if signed is None or signed.status_code != 200:
                return
            for part in signed.json()["parts"]:
                etag = await self._store(part, pieces[part["part_number"]])
                if etag is not None:
                    there[part["part_number"]] = etag
        etags[upload["upload_id"]] = [{"part_number": number, "etag": etag} for number, etag in there.items()]

    async def _store(self, request: dict[str, Any], data: bytes) -> str | None:
        """Send one presigned PUT; returns the ETag if the store accepted it."""
        try:
            answer = await self._http.put(request["url"], content=data, headers=request["headers"])
        except httpx.TransportError:
            self._tally.count("store put", None)
            return None
        self._tally.count("store put", answer.status_code)
        return answer.headers["etag"] if answer.status_code == 200 else None

    async def _commit(
        self, push: Push, label: Label, parts: dict[str, list[dict[str, Any]]], *, corrupt: bool, is_shared: bool
    ) -> bool:
        path = f"/v1/models/{label[0]}/versions/{label[1]}"
        for _ in range(4):
            attempt = self._ledger.attempt("push", *label, files=push.digests)
            answer = await self._ask(
                "commit", "POST", f"{path}/commit", attempt=attempt, json={"parts": parts} if parts else {}
            )
            if answer is None or answer.status_code == 503:
                self._ack(attempt, answer)
                continue
            if answer.status_code == 202:
                await asyncio.sleep(0.2)
                continue
            self._ack_info(attempt, label, answer)
            if answer.status_code == 200 and is_shared:
                self._world.ready.append(label)
            if answer.status_code == 422 and _problem(answer).endswith("-mismatch") and not corrupt:
                self._tally.complain("M1", f"good bytes of {label} were refused: {answer.text}")
            if answer.status_code == 409 and is_shared:
                self._world.left.append(push)
            return answer.status_code == 200
        return False

    async def flash(self) -> None:
        """Register, read and purge the same bytes over and over, so that their last reference goes."""
        label = f"volatile-{self._chance.randrange(_VOLATILE_MODELS)}", f"9.{self._mark()}"
        count = self._chance.choice((1, 2))
        files = {f"v{index}": choose_volatile(self._chance, self._world.flashes + index) for index in range(count)}
        self._world.flashes += count
        if self._chance.random() < 0.5:
            is_ready = await self._register(label, files)
        else:
            is_ready = await self._push(Push(*label, files, self._chance.random() < 0.5, {}), is_shared=False)
        if is_ready:
            await asyncio.sleep(self._chance.uniform(0, 0.3))
            await self._read_back(label, files)
        if self._chance.random() < 0.8:
            await self._purge(label)
        else:
            self._world.ready.append(label)

    async def _read_back(self, label: Label, files: Mapping[str, str]) -> None:
        """M1 at once: an acknowledged version that no other client knows is there and complete."""
        for path, name in files.items():
            answer = await self._ask("read back", "GET", f"/get_model/{label[0]}/{label[1]}", params={"path": path})
            if answer is not None and answer.status_code == 200:
                self._check_bytes(label, answer.content, digest_of(name))
            elif answer is not None and answer.status_code != 503:
                self._tally.complain("M1", f"{label} was acknowledged, and {path} was {answer.status_code} at once")

    # Versions

    async def remove(self) -> None:
        label = self._label()
        attempt = self._ledger.attempt("remove", *label)
        path, params = f"/remove_model/{label[0]}/{label[1]}", {"force": self._chance.random() < 0.5}
        answer = await self._ask("remove", "DELETE", path, attempt=attempt, params=params)
        self._ack_removed(attempt, answer)

    async def purge(self) -> None:
        await self._purge(self._label())

    async def _purge(self, label: Label) -> None:
        attempt = self._ledger.attempt("purge", *label)
        params = {"purge": True, "force": self._chance.random() < 0.7}
        answer = await self._ask(
            "purge", "DELETE", f"/v1/models/{label[0]}/versions/{label[1]}", attempt=attempt, params=params
        )
        self._ack_removed(attempt, answer)

    def _ack_removed(self, attempt: int, answer: httpx.Response | None) -> None:
        # A cancelled push leaves nothing behind, and frees its label.
        cancelled = answer is not None and answer.status_code == 200 and answer.json()["ready_at"] is None
        self._ack(attempt, answer, cancelled=cancelled)

    async def restore(self) -> None:
        await self._change("restore", self._label())

    async def yank(self) -> None:
        await self._change("yank", self._label(), reason=self._mark())

    async def unyank(self) -> None:
        await self._change("unyank", self._label())

    async def _change(self, operation: str, label: Label, **body: Any) -> None:
        attempt = self._ledger.attempt(operation, *label, **body)
        answer = await self._ask(
            operation,
            "POST",
            f"/v1/models/{label[0]}/versions/{label[1]}/{operation}",
            attempt=attempt,
            **({"json": body} if body else {}),
        )
        self._ack_info(attempt, label, answer)

    async def patch(self) -> None:
        label = self._label()
        path = f"/v1/models/{label[0]}/versions/{label[1]}"
        headers = {}
        if self._chance.random() < 0.5:
            seen = await self._ask("get version", "GET", path)
            if seen is None or seen.status_code != 200:
                return
            headers["If-Match"] = seen.headers["etag"]
        description = self._mark()
        attempt = self._ledger.attempt("patch", *label, description=description)
        answer = await self._ask(
            "patch", "PATCH", path, attempt=attempt, headers=headers, json={"description": description}
        )
        self._ack_info(attempt, label, answer)

    # Aliases

    async def move_alias(self) -> None:
        model, version = self._label()
        alias = self._chance.choice(ALIASES)
        path, headers = f"/v1/models/{model}/aliases/{alias}", {}
        if self._chance.random() < 0.5:
            seen = await self._ask("get alias", "GET", path)
            if seen is None:
                return
            headers = {"If-Match": seen.headers["etag"]} if seen.status_code == 200 else {"If-None-Match": "*"}
        attempt = self._ledger.attempt("alias", model, moves=[[alias, version]])
        answer = await self._ask("alias", "PUT", path, attempt=attempt, headers=headers, json={"version": version})
        self._ack_moved(attempt, answer)

    async def roll_back_alias(self) -> None:
        model, alias = self._chance.choice(MODELS), self._chance.choice(ALIASES)
        attempt = self._ledger.attempt("alias", model, moves=[[alias, None]])
        answer = await self._ask("rollback", "POST", f"/v1/models/{model}/aliases/{alias}/rollback", attempt=attempt)
        self._ack_moved(attempt, answer)

    async def swap_aliases(self) -> None:
        model = self._chance.choice(MODELS)
        versions = [version for name, version in self._world.ready if name == model][-10:]
        if not versions:
            return
        moves = [[alias, self._chance.choice(versions)] for alias in ALIASES[:2]]
        attempt = self._ledger.attempt("alias", model, moves=moves)
        body = {"moves": [{"alias": alias, "version": version} for alias, version in moves]}
        answer = await self._ask("swap", "POST", f"/v1/models/{model}/aliases:swap", attempt=attempt, json=body)
        self._ack_moved(attempt, answer)

    def _ack_moved(self, attempt: int, answer: httpx.Response | None) -> None:
        facts = {}
        if answer is not None and answer.status_code < 300:
            said = answer.json()
            facts["moved"] = [
                [alias["alias"], alias["version"], alias["generation"]] for alias in said.get("items", [said])
            ]
        self._ack(attempt, answer, **facts)

    async def drop_alias(self) -> None:
        model, alias = self._chance.choice(MODELS), self._chance.choice(ALIASES)
        attempt = self._ledger.attempt("unalias", model, alias=alias)
        self._ack(attempt, await self._ask("unalias", "DELETE", f"/v1/models/{model}/aliases/{alias}", attempt=attempt))

    # Reading

    async def read(self) -> None:
        model, version = self._label()
        alias = self._chance.choice(ALIASES)
        kind, path = self._chance.choice(
            [
                ("list", f"/list_models?model_name={model}&limit=20"),
                ("search", "/v1/versions?filter=size_bytes%20%3E%20100&limit=20"),
                ("models", "/v1/models?limit=50"),
                ("versions", f"/v1/models/{model}/versions?state=removed&limit=20"),
                ("model", f"/v1/models/{model}"),
                ("aliases", f"/v1/models/{model}/aliases"),
                ("history", f"/v1/models/{model}/aliases/{alias}/history"),
                ("info", f"/get_model_info/{model}/{version}"),
                ("info", f"/get_model_info/{model}/@{alias}"),
                ("latest", f"/get_latest_model_info/{model}"),
            ]
        )
        answer = await self._ask(kind, "GET", path)
        if answer is None or answer.status_code != 200:
            return
        said = answer.json()
        if kind in {"info", "latest"}:
            self._check_info(said)
            if said["state"] != "ready":
                self._tally.complain("M3", f"{path} shows a version that is {said['state']}")
        elif kind == "list" and sum(row["is_latest"] for row in said) > 1:
            self._tally.complain("M2", f"{path} has several that are the latest: {said}")

    async def download(self) -> None:
        await self._download(self._label())

    async def _download(self, label: Label) -> None:
        """Download one file: whole, a range of it, or from storage by a signed URL; checks M1 for readers."""
        model, version = label
        info = await self._ask("info", "GET", f"/get_model_info/{model}/{version}")
        if info is None or info.status_code != 200 or not info.json()["files"]:
            return
        file = self._chance.choice(info.json()["files"])
        digest = file["sha256"].removeprefix("sha256:")
        how = self._chance.choice(("stream", "stream", "range", "redirect"))
        headers, params = {}, {"path": file["path"]}
        start, stop = 0, file["size_bytes"]
        if how == "range" and stop > 1:
            start, stop = sorted(self._chance.sample(range(stop + 1), 2))
            headers["Range"] = f"bytes={start}-{stop - 1}"
        if how == "redirect":
            params["redirect"] = "true"
        answer = await self._ask(
            f"get {how}", "GET", f"/get_model/{model}/{version}", params=params, headers=headers, follow_redirects=False
        )
        if answer is None:
            self._tally.broken_downloads += 1
            return
        if answer.status_code == 307:
            await self._from_store(answer.headers["location"], label, digest)
        elif answer.status_code == 200:
            self._check_bytes(label, answer.content, digest)
            if answer.headers["etag"] != f'"{digest}"' or _repr_digest(answer) != digest:
                self._tally.complain("M1", f"{label} {file['path']} was {digest}, and its ETag is other")
        elif answer.status_code == 206 and answer.content != content_of(digest)[start:stop]:
            self._tally.complain("M1", f"{label} {file['path']} gave other bytes for {headers}")

    async def _from_store(self, url: str, label: Label, digest: str) -> None:
        try:
            answer = await self._http.get(url)
        except httpx.TransportError:
            self._tally.broken_downloads += 1
            return
        self._tally.count("store get", answer.status_code)
        if answer.status_code == 200:
            self._check_bytes(label, answer.content, digest)

    def _check_bytes(self, label: Label, data: bytes, digest: str) -> None:
        self._tally.downloads += 1
        self._tally.downloaded_bytes += len(data)
        if sha256(data) != digest:
            self._tally.complain("M1", f"a whole 200 of {label} has {len(data)} bytes that are not {digest}")

    async def download_archive(self) -> None:
        model, version = self._label()
        answer = await self._ask("archive", "GET", f"/v1/models/{model}/versions/{version}/archive.tar")
        if answer is None or answer.status_code != 200:
            return
        with tarfile.open(fileobj=io.BytesIO(answer.content)) as archive:
            members = {each.name: archive.extractfile(each) for each in archive.getmembers()}
            found = {name: file.read() for name, file in members.items() if file is not None}
        info = await self._ask("get version", "GET", f"/v1/models/{model}/versions/{version}")
        if info is None or info.status_code != 200 or info.json()["purged_at"] is not None:
            return
        shown = {file["path"]: file["sha256"].removeprefix("sha256:") for file in info.json()["files"]}
        self._tally.downloads += len(found)
        self._tally.downloaded_bytes += len(answer.content)
        if set(found) != set(shown):
            self._tally.complain("M1", f"the archive of {model} {version} has {sorted(found)}, not {sorted(shown)}")
        wrong = [path for path, data in found.items() if sha256(data) not in shown.values()]
        if wrong:
            self._tally.complain("M1", f"the archive of {model} {version} has other bytes in {wrong}")


class Follower:
    """Reads the events by their tokens, from the beginning to the end, while replicas come and go."""

    def __init__(self, urls: Sequence[str], tally: Tally, chance: random.Random) -> None:
        self._urls = urls
        self._tally = tally
        self._chance = chance
        self._token = ""
        self.seen: list[int] = []

    async def run(self, until: asyncio.Event) -> None:
        """Follow until told to stop, and then until there are no more events."""
        async with httpx.AsyncClient(timeout=10) as http:
            while True:
                is_last = until.is_set()
                url = f"{self._chance.choice(self._urls)}/v1/events"
                params = {"limit": self._chance.choice((1, 7, 100))} | ({"after": self._token} if self._token else {})
                try:
                    answer = await http.get(url, params=params)
                except httpx.TransportError:
                    await asyncio.sleep(0.2)
                    continue
                self._tally.count("events", answer.status_code)
                if answer.status_code != 200:
                    if answer.status_code != 503:
                        self._tally.complain("M7", f"the events were {answer.status_code} {answer.text[:300]}")
                    await asyncio.sleep(0.2)
                    continue
                page = answer.json()
                self._token = page["next_page_token"]
                self.seen += [event["id"] for event in page["items"]]
                self._tally.events_followed = len(self.seen)
                if not page["items"]:
                    if is_last:
                        return
                    await asyncio.sleep(0.2)


def _digests(files: Mapping[str, str]) -> dict[str, str]:
    return {path: digest_of(name) for path, name in files.items()}


def _damaged(data: bytes) -> bytes:
    """Return bytes of the same length with one wrong byte."""
    return data[:-1] + bytes([data[-1] ^ 1])


def _problem(answer: httpx.Response) -> str:
    if answer.headers.get("content-type") != "application/problem+json":
        return "not a problem"
    kind: str = answer.json()["type"]
    return kind.rpartition(":")[2]


def _label_in(path: str) -> Label | None:
    """Return the version that the path of a download names."""
    words = path.strip("/").split("/")
    if words[0] == "get_model":
        return words[1], words[2]
    return (words[2], words[4]) if words[:2] == ["v1", "models"] and len(words) > 4 else None


def _repr_digest(answer: httpx.Response) -> str:
    encoded = answer.headers["repr-digest"].removeprefix("sha-256=:").removesuffix(":")
    return base64.b64decode(encoded).hex()
