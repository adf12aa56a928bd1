"""Attacks 72-82: code that asks the kernel for more rights, or for those of others.

System calls get arguments that change nothing where the call is allowed: an errno of its own shows
that it got through.
"""

from __future__ import annotations

import platform

import pytest
from attack_bench import Arena, limits
from attack_records import DONE, Attack, Expect, words

from pyvision_rl.types import ExecStatus

X86 = platform.machine() == "x86_64"
DENIED = words("EPERM")
GONE = words("EPERM", "ENOSYS")
HARMFUL = "it would change the machine that runs the tests"
OTHERS = (
    Attack(
        "072",
        "ptrace",
        "attempt(raw, 'ptrace', 2, ZYGOTE, 0, 0)",
        GONE,
        control=words("ESRCH"),
    ),
    Attack(
        "073a",
        "read_other_memory",
        "for call in ('process_vm_readv', 'process_vm_writev'):\n"
        "    attempt(raw, call, ZYGOTE, 0, 0, 0, 0, 0)",
        GONE,
        control=DONE,
    ),
    Attack(
        "073b",
        "take_other_descriptors",
        "attempt(lambda: raw('pidfd_getfd', os.pidfd_open(ZYGOTE), 0, 0))",
        words("EPERM", "ENOSYS", "ESRCH"),
        control=DONE,
    ),
    Attack(
        "073c",
        "compare_other_kernel_objects",
        "attempt(raw, 'kcmp', ZYGOTE, ZYGOTE, 2, 0, 0)",
        GONE,
        control=words("DONE", "ENOSYS"),
    ),
    Attack(
        "073d",
        "advise_other_memory",
        "attempt(lambda: raw('process_madvise', os.pidfd_open(ZYGOTE), 0, 0, 20, 0))",
        words("EPERM", "ENOSYS", "ESRCH"),
        control=words("DONE", "EINVAL"),
        root=True,
    ),
    Attack(
        "073e",
        "limits_of_others",
        "import resource\nattempt(resource.prlimit, ZYGOTE, resource.RLIMIT_CORE)",
        words("EPERM", "ESRCH", "ENOSYS", "ProcessLookupError", "PermissionError"),
        control=DONE,
    ),
)

RIGHTS = (
    Attack(
        "074a",
        "new_user_namespace",
        "for flag in (0x10000000, 0x20000, 0x40000000): attempt(raw, 'unshare', flag)",
        GONE,
        control=DONE,
        root=True,
    ),
    Attack(
        "074b",
        "clone_into_namespaces",
        "attempt(forked, lambda: raw('clone', 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0))",
        GONE,
        control=DONE,
        root=True,
    ),
    Attack(
        "074c",
        "enter_namespace",
        "attempt(raw, 'setns', 0, 0)",
        GONE,
        control=words("EINVAL", "EBADF"),
    ),
    Attack(
        "075a",
        "mount",
        "attempt(raw, 'mount', b'none', b'.', b'no-such-file-system', 0, 0)",
        GONE,
        control=words("ENODEV"),
        root=True,
    ),
    Attack(
        "075b",
        "unmount",
        "attempt(raw, 'umount2', HOST.encode() + b'/folder', 2)",
        GONE,
        control=words("EINVAL"),
        root=True,
    ),
    Attack(
        "075c",
        "unmount_proc",
        """
        # Only where a folder that is no mount is refused is a real mount tried.
        try:
            raw("umount2", b".", 2)
        except OSError as error:
            print(errno.errorcode[error.errno])
            if error.errno in (errno.EPERM, errno.ENOSYS):
                attempt(raw, "umount2", b"/proc", 2)
        """,
        GONE,
        no_control=HARMFUL,
    ),
    Attack(
        "075d",
        "new_mount_interface",
        "attempt(raw, 'fsopen', b'no-such-file-system', 0)",
        GONE,
        control=words("ENODEV"),
        root=True,
    ),
    Attack(
        "075e",
        "clone_mount",
        "attempt(lambda: os.close(raw('open_tree', -100, b'/', 1)))",
        GONE,
        control=DONE,
        root=True,
    ),
    Attack(
        "075f",
        "change_root",
        "attempt(os.chroot, np.__file__)\nattempt(raw, 'pivot_root', b'/nothing', b'/nothing')",
        GONE,
        control=words("ENOTDIR", "ENOENT"),
        root=True,
    ),
    Attack(
        "076",
        "x32_call",
        "NR['x32'] = 0x40000000 + 39\nattempt(raw, 'x32')",
        words("ENOSYS"),
        no_control="few kernels take x32 calls",
    ),
    Attack(
        "078",
        "io_uring",
        "attempt(lambda: os.close(raw('io_uring_setup', 4, bytes(120))))",
        GONE,
        control=words("DONE", "EPERM"),  # a kernel may refuse it to everybody
    ),
    Attack(
        "079a",
        "bpf",
        "attempt(lambda: os.close(raw('bpf', 0, struct.pack('4I', 2, 4, 4, 1) + bytes(112), 128)))",
        GONE,
        control=DONE,
        root=True,
    ),
    Attack(
        "079b",
        "keyrings",
        "attempt(raw, 'keyctl', 0, -3, 0)\nattempt(raw, 'add_key', 0, 0, 0, 0, 0)",
        GONE,
        control=words("DONE", "ENOKEY", "EFAULT"),
    ),
    Attack(
        "079c",
        "perf",
        "attempt(lambda: os.close(raw('perf_event_open', struct.pack('IIQ', 1, 112, 0) + bytes(96),"
        " 0, -1, -1, 0)))",
        GONE,
        control=DONE,
        root=True,
    ),
    Attack(
        "079d",
        "userfaultfd",
        "attempt(lambda: os.close(raw('userfaultfd', 1)))",
        GONE,
        control=words("DONE", "ENOSYS"),
    ),
    Attack(
        "079e",
        "become_root",
        "attempt(os.setuid, 0)\nattempt(os.setresuid, 0, 0, 0)\nattempt(os.setgroups, [0])",
        DENIED,
        control=DONE,
        root=True,
    ),
    Attack(
        "079f",
        "modules",
        "attempt(raw, 'init_module', 0, 0, b'')\nattempt(raw, 'finit_module', -1, b'', 0)\n"
        "attempt(raw, 'delete_module', b'no_such_module', 2048)\n"
        "attempt(raw, 'kexec_load', 0, 99, 0, -1)",
        GONE,
        no_control=HARMFUL,
    ),
    Attack(
        "079g",
        "clock_and_names",
        "attempt(raw, 'settimeofday', 0, 0)\nattempt(raw, 'sethostname', 0, -1)\n"
        "attempt(raw, 'swapoff', HOST.encode())",
        GONE,
        control=words("DONE", "EINVAL", "EISDIR"),
        root=True,
    ),
    Attack("079h", "kernel_log", "attempt(raw, 'syslog', 10, 0, 0)", GONE, control=DONE, root=True),
    Attack(
        "079i",
        "file_watch",
        "attempt(lambda: os.close(raw('fanotify_init', 0, 0)))",
        GONE,
        control=words("DONE", "ENOSYS"),
        root=True,
    ),
    Attack(
        "079j",
        "capabilities",
        "attempt(raw, 'capset', struct.pack('II', 0x20080522, 0), struct.pack('6I', *[1] * 6))",
        DENIED,
        no_control="it changes the session's own process only",
    ),
    Attack(
        "079m",
        "capabilities_held",
        """
        NR["capget"] = 90 if NR is _ARM else 125
        held = ctypes.create_string_buffer(24)
        raw("capget", struct.pack("II", 0x20080522, 0), held)
        effective, permitted, _, *high = struct.unpack("6I", held.raw)
        print({0: "NONE", 4: "SEARCH"}.get(effective | permitted | high[0] | high[1], "MORE"))
        """,
        words("NONE"),
        # Root may have an interpreter that only root can read: 4 is CAP_DAC_READ_SEARCH, which
        # gives what Landlock allows, and that is the interpreter.
        at={"ll": words("NONE", "SEARCH")},
        control=words("MORE"),
        root=True,
    ),
    Attack(
        "079k",
        "quota_and_handles",
        "attempt(raw, 'quotactl', -1, 0, 0, 0)\nattempt(raw, 'migrate_pages', ZYGOTE, 0, 0, 0)",
        words("EPERM", "ENOSYS", "ESRCH"),
        no_control="the kernel may lack both",
    ),
    Attack(
        "079l",
        "execution_domain",
        "attempt(raw, 'personality', 0x0400000)",
        GONE,
        control=DONE,
    ),
    Attack(
        "080a",
        "posix_shared_memory",
        """
        import _posixshmem
        def share():
            os.close(_posixshmem.shm_open("/" + os.path.basename(SHARED), os.O_RDWR, 0o600))
        attempt(share)
        """,
        words("ENOENT"),
        at={"ll": words("EACCES")},
        control=DONE,
    ),
    Attack(
        "080b",
        "shared_folder",
        """
        def write():
            open(SHARED, "r+").close()
        attempt(write)
        """,
        words("ENOENT"),
        at={"ll": words("EACCES")},
        control=DONE,
    ),
    Attack(
        "080c",
        "system_v",
        """
        def share(get, control, *size):
            raw(control, raw(get, 0, *size, 0o600), 0, 0, 0)
        attempt(share, "shmget", "shmctl", 4096)
        attempt(share, "semget", "semctl", 1)
        attempt(share, "msgget", "msgctl")
        """,
        GONE,
        control=DONE,
    ),
    Attack(
        "080d",
        "message_queue",
        """
        def queue():
            os.close(raw("mq_open", b"pvrl-attack-080", os.O_CREAT | os.O_RDWR, 0o600, 0))
            raw("mq_unlink", b"pvrl-attack-080")
        attempt(queue)
        """,
        GONE,
        control=words("DONE", "EMFILE"),  # EMFILE: past the filter, stopped by a resource limit
    ),
    Attack(
        "081",
        "type_into_the_terminal",
        """
        import fcntl, termios
        attempt(os.open, "/dev/tty", os.O_RDWR)
        for fd in (0, 1, 2):
            attempt(fcntl.ioctl, fd, termios.TIOCSTI, b"x")
        """,
        words("ENXIO", "ENOENT", "EACCES", "ENOTTY", "EPERM", "EINVAL"),
        no_control="it would type into the terminal of whoever runs the tests",
    ),
    Attack(
        "082a",
        "no_new_rights_by_exec",
        "print(LIBC.prctl(39, 0, 0, 0, 0))",
        words("1"),
        no_control="the flag is set without isolation too",
    ),
    Attack(
        "082b",
        "set_user_id_program",
        "for path in TARGETS: attempt(os.execv, path, [path])",
        words("EPERM", "EACCES"),
        no_control="test_attack[attack_044f_exec] has it: what is run does not matter",
        paths=("/usr/bin/su", "/usr/bin/passwd", "/usr/bin/mount", "{host}/victim.txt"),
    ),
)
INT80 = Attack(
    "077",
    "call_by_the_32_bit_gate",
    """
    import mmap
    page = mmap.mmap(-1, 4096, prot=7)
    page.write(bytes([0xB8, 20, 0, 0, 0, 0xCD, 0x80, 0xC3]))
    start = ctypes.addressof(ctypes.c_char.from_buffer(page))
    print("DONE" if ctypes.CFUNCTYPE(ctypes.c_long)(start)() > 0 else "ENOSYS")
    """,
    Expect((ExecStatus.DIED,), error="SIGSYS|SIGSEGV"),
    control=words("DONE", "ENOSYS"),
)
ATTACKS = (*OTHERS, *RIGHTS, *((INT80,) if X86 else ()))


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: a.id)
def test_attack(arena: Arena, attack: Attack) -> None:
    arena.repel(attack)


@pytest.mark.parametrize("attack", [a for a in ATTACKS if a.control], ids=lambda a: a.id)
def test_control(unsafe: Arena, attack: Attack) -> None:
    unsafe.show(attack)


def test_shared_memory_of_a_session_is_its_own(arena: Arena) -> None:
    name = f"{arena.host.shared.name}-own"
    make = f"import _posixshmem, os\n_posixshmem.shm_open('/{name}', os.O_CREAT | os.O_RDWR, 0o600)"
    if arena.level == "ll":
        assert "Permission" in arena.cells(make)[0].error
        return

    async def scenario() -> tuple[str, str]:
        session = await arena.sandbox.open({}, limits(), 0)
        made = await session.run(make)
        assert not (arena.host.shared.parent / name).exists()
        other = (await arena.session("import os; sorted(os.listdir('/dev/shm'))"))[0]
        await session.close()
        return made.error, other.output

    assert arena.runner.run(scenario()) == ("", "[]\n")
