"""Attacks 51-66: code that reads what is not its own, or changes what should stay."""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from attack_bench import Arena
from attack_records import DONE, Attack, Expect, words

from pyvision_rl.types import ExecStatus

ROOT = Path(__file__).parents[2]
HOST = "{host}"
ABSENT = words("ENOENT")
NO_READ = {"ll": words("EACCES")}
OURS = "it would change the machine that runs the tests"
CHANGES = words("ENOENT", "EROFS", "EACCES", "EPERM")
"""The host's own files are absent, and the library's are read-only and owned by somebody else."""
NO_CHANGE = {"ll": words("EACCES", "EPERM", "EROFS")}
"""EROFS: some machines have a root that is read-only to everybody."""

READS = (
    Attack(
        "051",
        "host_shadow",
        "for path in TARGETS: attempt(open, path)",
        ABSENT,
        at=NO_READ,
        control=DONE,
        paths=("{host}/canary.txt", "/etc/passwd", "/etc/shadow", "/etc/hostname"),
    ),
    Attack(
        "052a",
        "list_data_folders",
        "for path in TARGETS: attempt(os.listdir, path)",
        ABSENT,
        at=NO_READ,
        control=DONE,
        paths=(HOST, str(ROOT / "src"), str(ROOT / "tests")),
    ),
    Attack(
        "052b",
        "list_home_and_roots",
        """
        for path in TARGETS:
            try:
                names = os.listdir(path)
            except OSError as error:
                print(errno.errorcode[error.errno])
                continue
            roots = [sys.prefix, sys.base_prefix, *sys.path, CACHE]
            roots += [os.path.realpath(root) for root in roots]
            for name in names:
                own = os.path.join(path, name)
                if not any(root == own or root.startswith(own + "/") for root in roots):
                    print("FOREIGN")
            print("LIBRARY")
        """,
        words("ENOENT", "LIBRARY", "EACCES"),
        at=NO_READ,
        control=words("FOREIGN", "LIBRARY"),
        # An environment inside the checkout lies on the way to the interpreter.
        paths=(HOST, str(Path.home()), str(ROOT), str(ROOT.parent), "/home", "/var", "/srv"),
    ),
    Attack(
        "052c",
        "existence",
        "for path in TARGETS: attempt(os.stat, path)",
        ABSENT,
        # Landlock does not cover what stat says: whoever guesses a name learns that it exists.
        at={"ll": DONE},
        control=DONE,
        paths=("{host}/canary.txt", "/etc/passwd", str(ROOT / "pyproject.toml")),
    ),
    Attack(
        "057b",
        "way_up",
        """
        for start in ("", "/proc/self/cwd/", "/proc/self/root/", "/dev/", "/tmp/"):
            attempt(open, start + "../" * 12 + HOST + "/canary.txt")
        """,
        ABSENT,
        at=NO_READ,
        control=DONE,
    ),
    Attack(
        "058",
        "way_through_proc",
        """
        for link in ("self/root", "self/cwd", "1/root", "1/cwd", f"{os.getppid()}/root"):
            up = "/" if link.endswith("root") else "/" + "../" * 12
            attempt(open, f"/proc/{link}{up}{HOST}/canary.txt")
        """,
        words("ENOENT", "EACCES"),
        at=NO_READ,
        control=words("DONE", "EACCES"),  # process 1 of the machine may be closed even to root
        root=True,
    ),
    Attack(
        "059",
        "memory_of_others",
        """
        for pid in (ZYGOTE, DRIVER):
            attempt(open, f"/proc/{pid}/mem", "rb")
        """,
        words("ENOENT", "EACCES"),
        at=NO_READ,
        control=DONE,
    ),
    Attack(
        "064",
        "open_by_handle",
        "attempt(raw, 'open_by_handle_at', -1, bytes(24), 0)",
        words("EPERM"),
        control=words("EBADF", "EINVAL"),
        root=True,
    ),
)

WRITES = (
    Attack(
        "053a",
        "write_outside",
        """
        for path in TARGETS:
            attempt(open, path + "/attack_053.txt", "w")
        if len(TARGETS) == 1:
            os.unlink(TARGETS[0] + "/attack_053.txt")
        """,
        CHANGES,
        at=NO_CHANGE,
        control=DONE,
        paths=(HOST, "/usr", "/usr/lib", "/etc", "/", sys.prefix, sys.base_prefix),
    ),
    Attack(
        "053b",
        "write_kernel_settings",
        """
        for name in ("kernel/core_pattern", "kernel/hostname", "vm/overcommit_memory"):
            attempt(lambda: os.close(os.open("/proc/sys/" + name, os.O_WRONLY)))
        """,
        words("EACCES", "EROFS", "ENOENT"),
        control=DONE,
        root=True,
    ),
    Attack(
        "054",
        "remove_everything",
        """
        # Only where the host's own throw-away file cannot be removed is anything else tried.
        try:
            os.unlink(HOST + "/victim.txt")
        except OSError:
            tried = 0
            for folder, folders, files in os.walk("/", topdown=False):
                for name in files + folders:
                    path = os.path.join(folder, name)
                    try:
                        os.unlink(path) if name in files else os.rmdir(path)
                    except OSError:
                        pass
                    tried += 1
                if tried > 2000:
                    break
            import json, wave
            print("KEPT" if all(map(os.path.exists, TARGETS)) else "LOST")
        else:
            print("DELETED")
        """,
        words("KEPT"),
        control=words("DELETED"),
        paths=(np.__file__, os.__file__),
    ),
    Attack(
        "055a",
        "change_mode",
        "for path in TARGETS: attempt(os.chmod, path, 0o666)",
        CHANGES,
        at=NO_CHANGE,
        control=DONE,
        paths=("{host}/victim.txt", "/usr", "/etc", np.__file__),
    ),
    Attack(
        "055b",
        "change_owner",
        "for path in TARGETS: attempt(os.chown, path, os.getuid(), os.getgid())",
        CHANGES,
        at=NO_CHANGE,
        control=DONE,
        paths=("{host}/victim.txt", "/usr", "/etc", np.__file__),
    ),
    Attack(
        "055c",
        "change_times",
        "for path in TARGETS: attempt(os.utime, path)",
        CHANGES,
        at=NO_CHANGE,
        control=DONE,
        paths=("{host}/victim.txt", "/usr", "/etc", np.__file__),
    ),
    Attack(
        "055d",
        "change_attributes",
        "for path in TARGETS: attempt(os.setxattr, path, 'user.attack', b'1')",
        CHANGES,
        at=NO_CHANGE,
        control=words("DONE", "ENOTSUP"),
        paths=("{host}/victim.txt", "/usr", "/etc", np.__file__),
    ),
    Attack(
        "055e",
        "change_mode_raw",
        "for path in TARGETS: attempt(raw, 'fchmodat2', -100, path.encode(), 0o600, 0)",
        words("ENOENT", "EROFS", "EPERM", "EACCES", "ENOSYS"),
        at={"ll": words("EPERM", "EACCES", "ENOSYS")},
        control=words("DONE", "ENOSYS"),
        paths=("{host}/victim.txt", "/usr", np.__file__),
    ),
    Attack(
        "055f",
        "truncate",
        "for path in TARGETS: attempt(os.truncate, path, 1)",
        CHANGES,
        at=NO_CHANGE,
        control=DONE,
        paths=("{host}/victim.txt", np.__file__),
    ),
    Attack(
        "055g",
        "rename_and_remove",
        """
        for path in TARGETS:
            attempt(os.rename, path, path + ".moved")
            attempt(os.unlink, path + ".moved")
            attempt(os.mkdir, path + ".folder")
        if len(TARGETS) == 1:
            os.rmdir(TARGETS[0] + ".folder")
        """,
        CHANGES,
        at={"ll": words("EACCES", "EPERM", "ENOENT", "EROFS")},
        control=DONE,
        paths=("{host}/victim.txt", np.__file__),
    ),
    Attack(
        "056",
        "device_node",
        """
        for kind, number in ((0o20600, os.makedev(1, 3)), (0o60600, os.makedev(7, 0))):
            attempt(os.mknod, f"node{kind}", kind, number)
        """,
        words("EPERM"),
        at=NO_CHANGE,
        control=DONE,
        root=True,
    ),
    Attack(
        "057a",
        "hard_link",
        "for path in TARGETS: attempt(os.link, path, f'link{hash(path)}')",
        words("ENOENT", "EXDEV", "EPERM", "EACCES"),
        at=NO_CHANGE,
        control=words("DONE", "EXDEV"),
        paths=("{host}/victim.txt", "/usr/bin/env"),
    ),
    Attack(
        "057c",
        "symbolic_link",
        "os.symlink(HOST + '/canary.txt', 'link')\nattempt(open, 'link')",
        ABSENT,
        at={"ll": Expect((ExecStatus.RAISED,), error="PermissionError|Read-only")},
        control=DONE,
    ),
    Attack(
        "063a",
        "change_library",
        "for module in (np, plt, Image, os): attempt(open, module.__file__, 'a')",
        words("EROFS", "EACCES"),
        at=NO_CHANGE,
        no_control=OURS,
    ),
    Attack(
        "063b",
        "code_for_the_next_start",
        """
        for folder in TARGETS:
            for name in ("attack.pth", "sitecustomize.py", "usercustomize.py"):
                attempt(open, os.path.join(folder, name), "w")
        """,
        words("EROFS", "EACCES", "ENOENT"),
        at={"ll": words("EACCES", "ENOENT", "EROFS")},
        no_control=OURS,
        paths=(
            *{sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")},
            str(Path(np.__file__).parent.parent),
        ),
    ),
    Attack(
        "063c",
        "matplotlib_cache",
        """
        import matplotlib
        for folder in (matplotlib.get_cachedir(), matplotlib.get_configdir(), *TARGETS):
            name = os.path.join(folder, "fontlist-v999.json")
            kept = os.path.realpath(name).startswith(os.getcwd() + "/")
            print("OWN") if kept else attempt(open, name, "w")
        """,
        words("EROFS", "EACCES", "ENOENT", "OWN"),
        at={"ll": words("EACCES", "ENOENT", "EROFS")},
        no_control=OURS,
        paths=(matplotlib.get_cachedir(),),
    ),
)
ATTACKS = (*READS, *WRITES)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: a.id)
def test_attack(arena: Arena, attack: Attack) -> None:
    arena.repel(attack)


@pytest.mark.parametrize("attack", [a for a in ATTACKS if a.control], ids=lambda a: a.id)
def test_control(unsafe: Arena, attack: Attack) -> None:
    unsafe.show(attack)
