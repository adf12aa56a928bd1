"""Attacks 34-50: code that ends, signals or multiplies processes."""

from __future__ import annotations

import pytest
from attack_bench import Arena, arena_at
from attack_records import DONE, Attack, Expect, died, words

from pyvision_rl.errors import SandboxError
from pyvision_rl.sandbox.launch import EXTRAS, installed
from pyvision_rl.types import ExecStatus

CONFIG = {"options": {"preload": installed(EXTRAS)}}
"""All libraries preloaded: their threads and files would show here."""
SELF = "it harms its own session only"
NOBODY = "it would end every process of the machine"
REACHED = "print('REACHED' if reached else 'NOBODY')"
NO_FORK = words("EPERM")

ENDS = (
    Attack("034", "hard_exit", "os._exit(0)", died("status 0"), no_control=SELF),
    Attack(
        "035",
        "exit",
        "sys.exit(3)",
        Expect(output=r"sys\.exit\(3\)"),
        no_control=SELF,
    ),
    Attack("036", "segfault", "ctypes.string_at(0)", died("SIGSEGV"), no_control=SELF),
    Attack(
        "037",
        "abort",
        "os.abort()",
        # The first process of a pid namespace ignores its own SIGABRT; abort() then faults.
        died("SIGSEGV|SIGABRT"),
        no_control=SELF,
    ),
    Attack(
        "038a",
        "kill_itself",
        "os.kill(os.getpid(), 9)\nprint('ALIVE')",
        words("ALIVE"),
        at={"ll": Expect((ExecStatus.OOM, ExecStatus.DIED), error="killed")},
        no_control=SELF,
    ),
)

STOPS = (
    Attack(
        "038b",
        "stop_itself",
        "os.kill(os.getpid(), signal.SIGSTOP)\nprint('ALIVE')",
        words("ALIVE"),
        at={"ll": Expect((ExecStatus.KILLED,), error="limit")},
        no_control=SELF,
        limits={"wall_s": 0.6, "grace_s": 0.3},
    ),
)

SIGNALS = (
    # Signal 0 first: where it reaches somebody, the real one is not sent.
    Attack(
        "039",
        "kill_everybody",
        """
        try:
            os.kill(-1, 0)
        except OSError as error:
            print(errno.errorcode[error.errno])
            attempt(os.kill, -1, 9)
        else:
            print("REACHES OTHERS")
        """,
        words("ESRCH"),
        at={"ll": words("EPERM", "ESRCH")},
        no_control=NOBODY,
    ),
    Attack(
        "040a",
        "kill_the_zygote",
        "attempt(os.kill, ZYGOTE, 9)",
        words("ESRCH"),
        at={"ll": words("EPERM")},
        no_control="test_control_040_the_zygote_can_be_killed is the control",
    ),
    Attack(
        "040b",
        "signal_the_driver",
        "attempt(os.kill, DRIVER, 0)",
        words("ESRCH"),
        at={"ll": words("EPERM")},
        control=DONE,
    ),
    Attack(
        "040c",
        "kill_the_parent",
        "attempt(os.kill, os.getppid() or ZYGOTE, 9)",
        words("ESRCH"),
        at={"ll": words("EPERM")},
        no_control="test_control_040_the_zygote_can_be_killed is the control",
    ),
    Attack(
        "040d",
        "signal_any_pid",
        """
        reached = []
        for pid in range(1, 40_000):
            try:
                os.kill(pid, 0)
            except OSError:
                continue
            if pid != os.getpid():
                reached.append(pid)
        """
        + REACHED,
        words("NOBODY"),
        control=words("REACHED"),
    ),
    Attack(
        "040e",
        "signal_through_a_pidfd",
        """
        def stab():
            fd = os.pidfd_open(ZYGOTE)
            signal.pidfd_send_signal(fd, 0)
        attempt(stab)
        """,
        words("EPERM"),
        control=DONE,
    ),
    Attack(
        "040f",
        "signal_one_thread_of_the_zygote",
        "attempt(raw, 'tgkill', ZYGOTE, ZYGOTE, 0)",
        words("ESRCH"),
        at={"ll": words("EPERM")},
        control=DONE,
    ),
)

FORKS = (
    Attack("041", "fork", "attempt(forked, os.fork)", NO_FORK, control=DONE),
    Attack(
        "042",
        "subprocess",
        "import subprocess\nattempt(subprocess.run, ['/bin/true'])",
        NO_FORK,
        control=DONE,
    ),
    Attack(
        "043",
        "multiprocessing",
        """
        import multiprocessing
        def start():
            process = multiprocessing.get_context("fork").Process(target=os.getpid)
            process.start()
            process.join()
        attempt(start)
        """,
        NO_FORK,
        control=DONE,
    ),
    Attack(
        "044a",
        "posix_spawn",
        "attempt(lambda: os.waitpid(os.posix_spawn('/bin/true', ['true'], {}), 0))",
        NO_FORK,
        control=DONE,
    ),
    Attack("044b", "system", "print(os.system('true'))", words("32512", "-1"), control=words("0")),
    Attack(
        "044c",
        "vfork_raw",
        "attempt(raw, 'vfork') if 'vfork' in NR else print('ENOSYS')",
        words("EPERM", "ENOSYS"),
        no_control="a raw vfork that works destroys the stack of its caller",
    ),
    Attack(
        "044d",
        "clone3_raw",
        "attempt(raw, 'clone3', 0, 0)",
        words("ENOSYS"),
        control=words("EINVAL"),
    ),
    Attack(
        "044e",
        "clone_raw",
        "attempt(forked, lambda: raw('clone', signal.SIGCHLD, 0, 0, 0, 0))",
        NO_FORK,
        control=DONE,
    ),
    Attack(
        "044f",
        "exec",
        "attempt(os.execv, '/bin/true', ['true'])",
        words("EPERM", "EACCES"),
        control=died("status 0"),
    ),
    Attack(
        "044g",
        "exec_by_descriptor",
        "attempt(raw, 'execveat', -1, b'', 0, 0, 0)",
        words("EPERM", "EACCES", "ENOSYS"),
        control=words("ENOENT", "EBADF", "EFAULT"),
    ),
)

BOUNDS = (
    Attack(
        "046",
        "thousand_threads",
        """
        threading.stack_size(2**16)
        started = []
        def start():
            for _ in range(1000):
                thread = threading.Thread(target=time.sleep, args=(99,), daemon=True)
                thread.start()
                started.append(thread)
            time.sleep(0.5)
        attempt(start)
        """,
        words("RuntimeError"),
        # All sessions of an ordinary user share one limit on threads: the watchdog sees to it.
        at={
            "ll": Expect(
                (ExecStatus.OK, ExecStatus.KILLED),
                error="^$|too many threads",
                output="^(RuntimeError\n)?$",
            )
        },
        no_control="the watchdog bounds threads without isolation too",
        limits={"memory_mb": 16_384},
    ),
    Attack(
        "047",
        "all_descriptors",
        """
        taken = []
        def take():
            for _ in range(10_000):
                taken.append(os.dup(0))
        attempt(take)
        """,
        words("EMFILE"),
        no_control="the bound is a resource limit, which holds without isolation too",
    ),
    Attack("048a", "nice", "attempt(os.nice, -5)", words("EPERM"), control=DONE, root=True),
    Attack(
        "048b",
        "real_time_scheduling",
        "attempt(os.sched_setscheduler, 0, os.SCHED_BATCH, os.sched_param(0))\n"
        "attempt(os.sched_setscheduler, 0, os.SCHED_FIFO, os.sched_param(1))",
        words("EPERM"),
        control=words("DONE", "EPERM"),
        root=True,
    ),
    Attack(
        "048c",
        "priority_of_others",
        "attempt(os.setpriority, os.PRIO_PROCESS, ZYGOTE, 1)",
        words("EPERM", "ESRCH"),
        control=DONE,
    ),
    Attack(
        "049",
        "raised_limits",
        """
        import resource
        for kind in (resource.RLIMIT_AS, resource.RLIMIT_NPROC, resource.RLIMIT_NOFILE):
            hard = resource.getrlimit(kind)[1]
            attempt(resource.setrlimit, kind, (hard + 1, hard + 1))
        """,
        words("ValueError", "EPERM"),
        no_control="limits bind without isolation too, unless the user has CAP_SYS_RESOURCE",
    ),
    Attack(
        "050",
        "daemon",
        """
        def daemon():
            pid = os.fork()
            if pid == 0:
                os.setsid()
                if os.fork() == 0:
                    time.sleep(30)
                os._exit(0)
            os.waitpid(pid, 0)
        attempt(daemon)
        """,
        NO_FORK,
        control=DONE,
    ),
)
ATTACKS = (*ENDS, *STOPS, *SIGNALS, *FORKS, *BOUNDS)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: a.id)
def test_attack(arena: Arena, attack: Attack) -> None:
    zygote = arena.sandbox.pid
    arena.repel(attack)
    assert arena.sandbox.pid == zygote, "the zygote is another one now"


@pytest.mark.parametrize("attack", [a for a in ATTACKS if a.control], ids=lambda a: a.id)
def test_control(unsafe: Arena, attack: Attack) -> None:
    unsafe.show(attack)


def test_control_040_the_zygote_can_be_killed() -> None:
    with arena_at("unsafe") as arena, pytest.raises(SandboxError):
        arena.cells(arena.preamble(), "attempt(os.kill, ZYGOTE, 9)\ntime.sleep(5)")


@pytest.mark.parametrize("code", ["os._exit(0)", "ctypes.string_at(0)", "os.abort()"])
def test_attacks_034_to_037_an_end_is_noticed_at_once(arena: Arena, code: str) -> None:
    [_, result] = arena.cells(arena.preamble(), code)
    assert result.status is ExecStatus.DIED
    assert result.duration_s < 2
