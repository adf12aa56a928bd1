"""Become a command that does not outlive the process that started it.

In: the starter's process id and a command, as words. Out: nothing; this process becomes the
command. Run by its path, so that it loads nothing of the package. A command may die at any point
and be gone on with, so it is killed outright. Where there is no Linux, the command outlives.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Tie this process to its parent, and run the command in it."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The parent may have died before it was tied to.
    if os.getppid() == int(sys.argv[1]):
        os.execvp(sys.argv[2], sys.argv[2:])
    sys.exit(1)


if __name__ == "__main__":
    main()
