"""Run a command that dies with its parent, as another user if wanted. Executed as a script, standard library only.

Usage: ``python -I -S guard.py PARENT_PID USER COMMAND [ARGUMENT...]``; USER ``-`` keeps the user.
A separate program and not ``preexec_fn``: forking a threaded Python with ``preexec_fn`` can deadlock, and warns from 3.12 on.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import signal
import sys

PR_SET_PDEATHSIG = 1


def become(name: str) -> None:
    """Give up root for good; order matters, groups cannot be changed any more once the user is."""
    account = pwd.getpwnam(name)
    os.setgroups([])
    os.setgid(account.pw_gid)
    os.setuid(account.pw_uid)
    os.environ["HOME"] = account.pw_dir


def die_with(parent_pid: int) -> None:
    """Ask the kernel for SIGKILL when the parent ends; after ``become``, because a change of user clears the wish."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent_pid:  # it ended before the kernel knew our wish
        sys.exit(1)


def main() -> None:
    parent_pid, user, *command = sys.argv[1:]
    if user != "-":
        become(user)
    die_with(int(parent_pid))
    os.execvp(command[0], command)  # noqa: S606  running the given command is what this file is for


if __name__ == "__main__":
    main()
