"""The files that clients send: a few contents at a time, so that bytes are shared, removed and stored again."""

import functools
import hashlib
import random

MIB = 1024**2
# Inline, buffered, one presigned PUT; and above the thresholds for parts, the service's and the clients'.
_SIZES = (0, 300, 40_000, 200_000, MIB, 5 * MIB + 1000, 9 * MIB)
_WEIGHTS = (1, 6, 6, 4, 4, 4, 3)
_VOLATILE = 2
_VOLATILE_TIMES = 16

_names: dict[str, str] = {}


@functools.lru_cache(maxsize=100)
def content(name: str) -> bytes:
    """Return the bytes that have this name: the same at each call."""
    maker = random.Random(name)
    if name.startswith("volatile"):
        size = maker.choice((300, 90_000))
    else:
        (size,) = maker.choices(_SIZES, _WEIGHTS)
    data = maker.randbytes(size)
    _names[sha256(data)] = name
    return data


def content_of(digest: str) -> bytes:
    """Return the bytes that have this sha256, among those created so far."""
    return content(_names[digest])


@functools.lru_cache(maxsize=10_000)
def digest_of(name: str) -> str:
    """Return the sha256 of the bytes that have this name."""
    return sha256(content(name))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def choose(chance: random.Random, epoch: int) -> str:
    """Choose one of a few current contents; each is replaced after a while."""
    return f"shared-{epoch - chance.choice((0, 0, 0, 1))}-{chance.randrange(5)}"


def choose_volatile(chance: random.Random, chosen: int) -> str:
    """Choose one of a few contents that are mostly registered and purged at once, so that few versions have it.

    The contents change after a fixed number of choices (`chosen` counts them), at any speed of the machine.
    """
    return f"volatile-{chosen // _VOLATILE_TIMES - chance.randrange(2)}-{chance.randrange(_VOLATILE)}"
