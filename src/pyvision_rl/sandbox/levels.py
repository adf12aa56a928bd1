"""Isolation levels: which walls each has, which level a machine allows, and what to say when not.

In: for each wall why it cannot be put up here, as the zygote found by trying. Out: the level to run
at, or a ``SandboxError`` that names what the kernel lacks and what to do. Nothing is weakened
silently: without isolation nothing runs unless ``sandbox.allow_unsafe`` says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pyvision_rl.errors import ConfigError, SandboxError

Level = Literal["full", "ns", "ll", "unsafe"]

WALLS: dict[Level, tuple[str, ...]] = {
    "full": ("namespaces", "landlock", "seccomp"),
    "ns": ("namespaces", "seccomp"),
    "ll": ("landlock", "seccomp"),
    "unsafe": (),
}
"""The walls of each level, besides resource limits; the best level first."""

REMEDIES = {
    "namespaces": (
        "needs real root with CAP_SYS_ADMIN, or user namespaces for everyone: check the sysctls "
        "user.max_user_namespaces (> 0), kernel.unprivileged_userns_clone (1, on Debian) and "
        "kernel.apparmor_restrict_unprivileged_userns (0, on Ubuntu); in a container, a seccomp "
        "profile that allows unshare and mount, such as --security-opt seccomp=unconfined"
    ),
    "landlock": (
        "needs Linux 5.13 or later with CONFIG_SECURITY_LANDLOCK, and landlock in the kernel's "
        "lsm= boot parameter"
    ),
    "seccomp": "needs Linux with CONFIG_SECCOMP_FILTER, on x86_64 or aarch64",
}
"""What a wall asks of the machine."""
UNSAFE_REMEDY = (
    "sandbox.allow_unsafe = true runs model code without isolation, with this user's rights; "
    "do that only where there is nothing to lose"
)


@dataclass(frozen=True, slots=True)
class Isolation:
    """What holds a session of one zygote."""

    level: Level
    missing: Mapping[str, str]
    """For each wall why it cannot be put up here; an empty text if it can."""
    tried: tuple[str, ...] = ()
    """Attacks that a session of this zygote tried in vain."""

    def __str__(self) -> str:
        """The walls in one line, and those that are not there with the reason."""
        lacks = [
            f"no {wall} ({self.missing[wall] or 'not asked for'})"
            for wall in WALLS["full"]
            if wall not in WALLS[self.level]
        ]
        return f"{self.level}: " + ", ".join([*WALLS[self.level], "resource limits", *lacks])


class UnsafeSandboxWarning(UserWarning):
    """Model code runs without isolation."""


def check_level(level: str, allow_unsafe: bool) -> None:
    """Check that the config asks for what it allows.

    Raises:
        ConfigError: Level unsafe is named without ``sandbox.allow_unsafe``.
    """
    if level == "unsafe" and not allow_unsafe:
        raise ConfigError('sandbox.level = "unsafe" needs sandbox.allow_unsafe = true')


def choose(wanted: str, allow_unsafe: bool, missing: Mapping[str, str]) -> Level:
    """Return the level to run at.

    Args:
        wanted: A level, or "best" for the first whose walls can all be put up.
        allow_unsafe: Whether "best" may end at no isolation.
        missing: For each wall why it cannot be put up; an empty text if it can.

    Raises:
        SandboxError: No allowed level can be had; says why, and what to do about it.
    """
    for level, walls in WALLS.items():
        if wanted not in ("best", level) or (level == "unsafe" and not allow_unsafe):
            continue
        if not any(missing[wall] for wall in walls):
            return level
    needed = WALLS["full"] if wanted == "best" else WALLS[wanted]  # type: ignore[index]
    lines = [f"  {wall}: {missing[wall]}; {REMEDIES[wall]}" for wall in needed if missing[wall]]
    what = "no isolation is possible here" if wanted == "best" else f"level {wanted} is not"
    what += "" if wanted == "best" else " possible here"
    raise SandboxError(
        f"the sandbox refuses to start: {what}\n" + "\n".join([*lines, f"  {UNSAFE_REMEDY}"])
    )
