"""Program that becomes a PostgreSQL program which dies with its parent; run by `embedded`.

    python -I -S launch.py PARENT_PID SIGNAL PROGRAM ARGUMENT...

It asks the kernel to send SIGNAL when the parent ends, and, as root, enters a user namespace first:
initdb and postgres refuse to run as uid 0, and inside the namespace they are another uid while
every file stays root's. So nothing is chowned and no parent directory is opened to others.

It imports nothing of Contree (the interpreter runs isolated) and refuses to go on when the parent
is gone already. Exit status 71 says that user namespaces are not allowed here.
"""

import ctypes
import os
import sys
from pathlib import Path

CLONE_NEWUSER = 0x10000000  # linux/sched.h
PR_SET_PDEATHSIG = 1  # linux/prctl.h
# initdb looks its user up: `daemon` is in every passwd file (Debian's base-passwd, and elsewhere),
# while 1000 is nobody on a bare machine, and 65534 is what unmapped owners are shown as.
INSIDE_ID = 1
EXIT_NO_USER_NAMESPACE = 71  # EX_OSERR of sysexits.h


def enter_user_namespace(libc: ctypes.CDLL) -> None:
    """Become uid and gid INSIDE_ID in our own eyes. Raises OSError where it is not allowed."""
    if libc.unshare(CLONE_NEWUSER) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    # A gid map may only be written once setgroups(2) is given up: user_namespaces(7).
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{INSIDE_ID} 0 1")
    Path("/proc/self/gid_map").write_text(f"{INSIDE_ID} 0 1")


def main(parent_pid: int, death_signal: int, command: list[str]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() == 0:
        try:
            enter_user_namespace(libc)
        except OSError as error:
            sys.stderr.write(f"user namespaces are not allowed here: {error}\n")
            sys.exit(EXIT_NO_USER_NAMESPACE)
    # After the namespace: a change of credentials clears the setting, prctl(2).
    libc.prctl(PR_SET_PDEATHSIG, death_signal)
    if os.getppid() != parent_pid:
        sys.exit(0)
    os.umask(0o077)
    os.execv(command[0], command)  # noqa: S606 - argument vector, no shell


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
