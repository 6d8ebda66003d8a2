"""What clients do, one operation of each kind: its preparation, its request, and its visible result."""

from dataclasses import dataclass

import httpx

from tests.resilience.faults.measures import MIB, Client, Files

MODEL = "m"
NEW = "2.0"
SMALL: Files = {"model.bin": b"weights" * 50, "conf/labels.txt": b"yes\nno\n"}
ONE_PUT: Files = {"model.bin": b"w" * MIB}
PARTS: Files = {"model.bin": b"weights " * (9 * MIB // 8)}
# The settings for which a client pushes `PARTS` in parts, and nothing else.
IN_PARTS = {"MULTIPART_THRESHOLD_BYTES": str(2 * MIB), "MULTIPART_PART_BYTES": str(5 * MIB)}


@dataclass(frozen=True)
class Operation:
    """One operation of a client. After any outcome, the user repeats the same request."""

    async def prepare(self, client: Client) -> None:
        """Create what is there before: a version, and an alias that points at it."""
        assert (await client.register(MODEL, "1.0")).status_code == 201
        assert (await client.move(MODEL, "champion", "1.0")).status_code == 201

    async def ask(self, client: Client) -> httpx.Response:
        raise NotImplementedError

    async def see(self, client: Client) -> None:
        """Check that the operation is done."""
        raise NotImplementedError


@dataclass(frozen=True)
class Registering(Operation):
    files: Files

    async def ask(self, client: Client) -> httpx.Response:
        return await client.register(MODEL, NEW, self.files, key="one-registration")

    async def see(self, client: Client) -> None:
        info = (await client.ask("GET", f"/get_model_info/{MODEL}/{NEW}")).json()
        assert (info["state"], info["file_count"]) == ("ready", len(self.files))
        for path, content in self.files.items():
            answer = await client.ask("GET", f"/get_model/{MODEL}/{NEW}", params={"path": path})
            assert answer.content == content


@dataclass(frozen=True)
class Pushing(Registering):
    transfer: str = "direct"

    async def ask(self, client: Client) -> httpx.Response:
        return await client.push(MODEL, NEW, self.files, transfer=self.transfer)


@dataclass(frozen=True)
class Reserving(Pushing):
    """Only the beginning of a push; `see` does the rest."""

    async def ask(self, client: Client) -> httpx.Response:
        return await client.reserve(MODEL, NEW, self.files, transfer=self.transfer)

    async def see(self, client: Client) -> None:
        assert (await client.push(MODEL, NEW, self.files)).status_code == 200
        await super().see(client)


@dataclass(frozen=True)
class Committing(Pushing):
    """Only the end of a push."""

    async def prepare(self, client: Client) -> None:
        await super().prepare(client)
        reserved = await client.reserve(MODEL, NEW, self.files)
        assert await client.send(reserved.json()["uploads"], self.files) is None

    async def ask(self, client: Client) -> httpx.Response:
        return await client.commit(MODEL, NEW)

    async def see(self, client: Client) -> None:
        assert (await client.push(MODEL, NEW, self.files)).status_code == 200
        await super().see(client)


@dataclass(frozen=True)
class Moving(Operation):
    async def prepare(self, client: Client) -> None:
        await super().prepare(client)
        assert (await client.register(MODEL, NEW)).status_code == 201

    async def ask(self, client: Client) -> httpx.Response:
        return await client.move(MODEL, "champion", NEW)

    async def see(self, client: Client) -> None:
        assert (await client.ask("GET", f"/get_model_info/{MODEL}/@champion")).json()["version"] == NEW


@dataclass(frozen=True)
class Swapping(Moving):
    async def prepare(self, client: Client) -> None:
        await super().prepare(client)
        assert (await client.move(MODEL, "shadow", NEW)).status_code == 201

    async def ask(self, client: Client) -> httpx.Response:
        moves = [{"alias": "champion", "version": NEW}, {"alias": "shadow", "version": "1.0"}]
        return await client.ask("POST", f"/v1/models/{MODEL}/aliases:swap", json={"moves": moves})

    async def see(self, client: Client) -> None:
        await super().see(client)
        assert (await client.ask("GET", f"/get_model_info/{MODEL}/@shadow")).json()["version"] == "1.0"


@dataclass(frozen=True)
class Removing(Operation):
    purge: bool = False

    async def prepare(self, client: Client) -> None:
        assert (await client.register(MODEL, NEW)).status_code == 201

    async def ask(self, client: Client) -> httpx.Response:
        return await client.remove(MODEL, NEW, purge=self.purge)

    async def see(self, client: Client) -> None:
        assert (await client.ask("GET", f"/get_model_info/{MODEL}/{NEW}")).status_code == 404
        removed = (await client.ask("GET", f"/v1/models/{MODEL}/versions", params={"state": "removed"})).json()
        assert [item["version"] for item in removed["items"]] == [NEW]
        # Its bytes are deleted for good, or not at all.
        assert (await client.restore(MODEL, NEW)).status_code == (409 if self.purge else 200)


REGISTER = Registering(SMALL)
PUSH = Pushing(SMALL)
OPERATIONS: dict[str, Operation] = {
    "register": REGISTER,
    "register one put": Registering(ONE_PUT),
    "register in parts": Registering(PARTS),
    "push": PUSH,
    "push in parts": Pushing(PARTS),
    "push through us": Pushing(SMALL, transfer="proxied"),
    "reserve": Reserving(SMALL),
    "commit": Committing(SMALL),
    "move": Moving(),
    "swap": Swapping(),
    "remove": Removing(),
    "purge": Removing(purge=True),
}
