"""What an attack is: numbered code, what must come of it at each level, and its positive control.

In: tables in the ``test_attacks_*`` files. Out: ``Attack`` and ``Expect`` records, and the prelude
that every session runs before the attack. Numbers follow the list of 100 attacks; letters mark the
parts of one number. An expectation names a status and the errno or words, never just "failed".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pyvision_rl.types import ExecStatus

LEVELS = ("full", "ns", "ll")
LOST = (ExecStatus.KILLED, ExecStatus.DIED, ExecStatus.OOM, ExecStatus.VIOLATION)
"""After these the variables are gone, and the next cell starts afresh."""


@dataclass(frozen=True, slots=True)
class Expect:
    """What must come back."""

    status: tuple[ExecStatus, ...] = (ExecStatus.OK,)
    words: frozenset[str] = frozenset()
    """If any: the output consists of these words only, and of one at least."""
    error: str = ""
    """A regular expression that is found in the error."""
    output: str = ""
    """A regular expression that is found in the output."""


def words(*allowed: str) -> Expect:
    """The code ends in order, and every outcome that it prints is one of these."""
    return Expect(words=frozenset(allowed))


def raised(error: str) -> Expect:
    """The code ends with this error; its variables are kept."""
    return Expect((ExecStatus.RAISED,), error=error)


def died(error: str) -> Expect:
    """The interpreter is gone, and the error says how."""
    return Expect((ExecStatus.DIED,), error=error)


def broken(error: str) -> Expect:
    """The session broke the protocol and was ended for it."""
    return Expect((ExecStatus.VIOLATION,), error=error)


TIMEOUT = Expect((ExecStatus.TIMEOUT,), error="limit")
KILLED = Expect((ExecStatus.KILLED,), error="limit")
DONE = words("DONE")


@dataclass(frozen=True, slots=True)
class Attack:
    """One attack."""

    number: str
    name: str
    code: str
    blocked: Expect
    at: Mapping[str, Expect] = field(default_factory=dict)
    """Level -> what must come back there instead."""
    control: Expect | None = None
    """What the same code does where nothing isolates it."""
    no_control: str = ""
    """Why there is no positive control."""
    root: bool = False
    """The control needs root: without it the kernel refuses the call to everybody."""
    contact: bool = False
    """The control reaches a listener of the test."""
    limits: Mapping[str, Any] = field(default_factory=dict)
    paths: tuple[str, ...] = ()
    """``TARGETS`` of the code; the control gets only those in the throw-away folder ``{host}``."""
    only: tuple[str, ...] = LEVELS
    """Levels that this attack makes sense at."""

    def __post_init__(self) -> None:
        assert (self.control is None) != (not self.no_control), f"{self.id}: control or reason"

    @property
    def id(self) -> str:
        return f"attack_{self.number}_{self.name}"

    def expected(self, level: str) -> Expect:
        return self.at.get(level, self.blocked)


PRELUDE = """
import ctypes, errno, os, signal, socket, struct, sys, threading, time
keep = 42
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long
_X86 = dict(
    clone=56, clone3=435, ptrace=101, process_vm_readv=310, process_vm_writev=311, unshare=272,
    setns=308, mount=165, umount2=166, fsopen=430, open_tree=428, pivot_root=155, chroot=161,
    io_uring_setup=425, bpf=321, keyctl=250, add_key=248, perf_event_open=298, userfaultfd=323,
    open_by_handle_at=304, kexec_load=246, init_module=175, finit_module=313, delete_module=176,
    settimeofday=164, swapoff=168, sethostname=170, syslog=103, personality=135, shmget=29,
    shmctl=31, semget=64, semctl=66, msgget=68, msgctl=71, mq_open=240, mq_unlink=241,
    pidfd_open=434, pidfd_getfd=438, pidfd_send_signal=424, tgkill=234, setuid=105, quotactl=179,
    memfd_secret=447, kcmp=312, fanotify_init=300, ioprio_set=251, execveat=322, capset=126,
    vfork=58, memfd_create=319, process_madvise=440, lookup_dcookie=212, rt_sigqueueinfo=129,
    move_pages=279, migrate_pages=256, sched_setscheduler=144, prlimit64=302, fcntl=72,
    landlock_create_ruleset=444, mount_setattr=442, setxattr=188, utimensat=280, fchmodat2=452,
)
_ARM = dict(
    clone=220, clone3=435, ptrace=117, process_vm_readv=270, process_vm_writev=271, unshare=97,
    setns=268, mount=40, umount2=39, fsopen=430, open_tree=428, pivot_root=41, chroot=51,
    io_uring_setup=425, bpf=280, keyctl=219, add_key=217, perf_event_open=241, userfaultfd=282,
    open_by_handle_at=265, kexec_load=104, init_module=105, finit_module=273, delete_module=106,
    settimeofday=170, swapoff=225, sethostname=161, syslog=116, personality=92, shmget=194,
    shmctl=195, semget=190, semctl=191, msgget=186, msgctl=187, mq_open=180, mq_unlink=181,
    pidfd_open=434, pidfd_getfd=438, pidfd_send_signal=424, tgkill=131, setuid=146, quotactl=60,
    memfd_secret=447, kcmp=272, fanotify_init=262, ioprio_set=30, execveat=281, capset=91,
    memfd_create=279, process_madvise=440, lookup_dcookie=18, rt_sigqueueinfo=138,
    move_pages=239, migrate_pages=238, sched_setscheduler=119, prlimit64=261, fcntl=25,
    landlock_create_ruleset=444, mount_setattr=442, setxattr=5, utimensat=88, fchmodat2=452,
)
NR = _ARM if os.uname().machine == 'aarch64' else _X86

def attempt(call, *args, **options):
    'Print what came of the call in one word.'
    try:
        call(*args, **options)
    except OSError as error:
        print(errno.errorcode.get(error.errno, type(error).__name__))
    except Exception as error:
        print(type(error).__name__)
    else:
        print('DONE')

def raw(name, *args):
    'Make a system call past the C library.'
    ctypes.set_errno(0)
    words = [a if isinstance(a, (bytes, ctypes.Array)) else ctypes.c_long(a) for a in args]
    result = LIBC.syscall(ctypes.c_long(NR[name]), *words)
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result

def forked(fork):
    'Fork, and end the new process at once.'
    pid = fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
"""
"""Model code: ``attempt`` prints one word (``DONE``, an errno, the type of an exception)."""
