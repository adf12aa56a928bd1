"""The sandbox contract: what every backend promises, and what it never does.

In: Python source written by a model. Out: an ``Execution``. Whatever the code does (raise, loop,
allocate, exit, print a gigabyte) comes back as a status; only a failure of OUR machinery raises
``SandboxError``. A session belongs to one episode and is never reused. Rewards and reference
answers never come here: bindings hold public media only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from pyvision_rl.types import Execution, Media


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """What one code block may use."""

    cpu_s: float = 20.0
    """Computing time, of all threads together."""
    wall_s: float = 60.0
    """A backstop for code that waits; on a busy machine it is the computing time that counts."""
    grace_s: float = 1.0
    """Between the interrupt at a time limit (variables kept) and the kill (variables lost)."""
    memory_mb: int = 2048
    """Address space beyond what a session starts with."""
    scratch_mb: int = 64
    """Files in the session's scratch folder, of all cells together."""
    max_output_chars: int = 8000
    """Head and tail are kept; the cut is stated in the output."""
    max_images: int = 8
    max_pixels: int = 4_000_000
    """Per shown image."""
    max_aspect: int = 200
    """Longer side of a shown image / shorter side."""
    figure: Mapping[str, Any] = field(default_factory=dict)
    """matplotlib rcParams a session starts with."""


class Session(Protocol):
    """One episode's interpreter: variables persist from one ``run`` to the next."""

    async def run(self, code: str) -> Execution:
        """Run one block as a notebook cell.

        Shown pictures come back in order, and are bound as ``image_clue_k`` with k counting on
        from the images bound so far. After ``state_lost`` the next run starts afresh with the
        initial bindings and the images shown so far.

        Raises:
            SandboxError: The machinery failed; the code is not to blame.
        """
        ...

    async def close(self) -> None:
        """End the session and everything it started. Idempotent."""
        ...


class BranchableSession(Session, Protocol):
    """A session that can be continued in more than one way. A backend need not offer it."""

    async def fork(self) -> Session:
        """Return another session in the state that this one is in; neither sees the other.

        Raises:
            SandboxError: The backend's options do not allow it, or the state cannot be had twice.
        """
        ...


class Sandbox(Protocol):
    """Opens sessions."""

    async def open(
        self, bindings: Mapping[str, Media], limits: SandboxLimits, seed: int
    ) -> Session:
        """Return a session whose namespace holds ``bindings`` and np, plt, Image.

        Images are PIL images, videos are readers with the interface of decord's ``VideoReader``.
        The zygote's sessions hold matplotlib, io and base64 too, as the paper's do, and with a
        video VideoReader and cpu.

        Args:
            bindings: Python identifier -> image or video. Anything but ``Media`` is refused by
                type. A backend need not read videos.
            limits: Bounds of every block of this session.
            seed: ``random`` and ``numpy.random`` start from it.

        Raises:
            SandboxError: A name is no identifier, a value is no Media, or no session can start.
        """
        ...

    async def close(self) -> None:
        """End every session and the backend itself. Idempotent."""
        ...
