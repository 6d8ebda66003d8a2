"""Become a server that ends when its parent does.

Run by file path with ``python -I -S`` in front of every server, so that it starts in about 20 ms. It uses the standard
library only and imports nothing of this project.

    child.py PARENT_PID exec|watch DEATH_SIGNAL USER_ID PROGRAM [ARGUMENT ...]

``exec`` asks the kernel to send DEATH_SIGNAL when the parent dies, and becomes PROGRAM. ``watch`` is for systems whose
kernel cannot do this: it stays as PROGRAM's parent and polls. USER_ID is the user to change to first, or ``-``.
"""

import ctypes
import os
import signal
import sys
import time
from types import FrameType
from typing import NoReturn

# <linux/prctl.h>, <linux/capability.h>, <linux/securebits.h>
PR_SET_PDEATHSIG = 1
PR_SET_SECUREBITS = 28
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
SECBIT_NO_SETUID_FIXUP = 1 << 2
CAPABILITY_VERSION_3 = 0x20080522
CAPABILITIES = {"DAC_OVERRIDE": 1, "KILL": 5, "SETGID": 6, "SETUID": 7, "SETPCAP": 8}

WATCH_SECONDS = 0.1


def main() -> NoReturn:
    parent, mode, death_signal, user, *command = sys.argv[1:]
    if user != "-":
        become_user(int(user))
    if mode == "watch":
        watch(int(parent), int(death_signal), command)
    # After the change of user, which would clear the request.
    prctl(PR_SET_PDEATHSIG, int(death_signal))
    if os.getppid() != int(parent):
        sys.exit("The parent ended before its child began.")
    os.execv(command[0], command)  # noqa: S606


def become_user(user_id: int) -> None:
    """Change from root to `user_id`, because PostgreSQL refuses to run as root.

    The process keeps CAP_DAC_OVERRIDE, so that it can reach programs and data below folders that only root may enter
    (``/root``), without a change of permissions. `setpriv` can do all of this too, but is not installed everywhere.
    """
    try:
        if sys.platform == "linux":
            require_capabilities()
            # Keeps the capabilities when the user changes, and makes access(2) respect them afterwards: PostgreSQL asks
            # access(2) whether it may run its own binary.
            prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP)
        os.setgroups([])
        os.setgid(user_id)
        os.setuid(user_id)
        if sys.platform == "linux":
            keep_only(CAPABILITIES["DAC_OVERRIDE"])
    except OSError as error:
        sys.exit(
            f"PostgreSQL refuses to run as root, and root may not become user {user_id} here ({error.strerror}): "
            "start as an ordinary user instead."
        )


def require_capabilities() -> None:
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()
    check(libc().capget(header, sets))
    effective = sets[0]
    missing = [f"CAP_{name}" for name, number in CAPABILITIES.items() if not effective >> number & 1]
    if missing:
        sys.exit(
            "PostgreSQL refuses to run as root, and changing to another user takes capabilities that root does not "
            f"have here ({', '.join(missing)}): start as an ordinary user, or grant them."
        )


def keep_only(capability: int) -> None:
    """Drop every capability except one, and let that one pass through execv."""
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    bit = 1 << capability
    check(libc().capset(header, (ctypes.c_uint32 * 6)(bit, bit, bit, 0, 0, 0)))
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability)


def watch(parent: int, death_signal: int, command: list[str]) -> NoReturn:
    """Act as the server's parent: pass signals on, and send it `death_signal` when our own parent is gone."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)
    # Blocked for now, so that no signal ends this process before it can pass signals on to the server.
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    server = os.posix_spawn(command[0], command, os.environ, setsigmask=())

    def forward(signal_number: int, frame: FrameType | None) -> None:
        os.kill(server, signal_number)

    for number in signals:
        signal.signal(number, forward)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
    while True:
        ended, status = os.waitpid(server, os.WNOHANG)
        if ended:
            sys.exit(os.waitstatus_to_exitcode(status) & 0xFF)
        if os.getppid() != parent:
            os.kill(server, death_signal)
        time.sleep(WATCH_SECONDS)


def libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def prctl(option: int, *values: int) -> None:
    arguments = [ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)[:4]]
    check(libc().prctl(option, *arguments))


def check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


if __name__ == "__main__":
    main()
