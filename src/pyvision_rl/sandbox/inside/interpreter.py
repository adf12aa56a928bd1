"""One episode's interpreter: runs cells as a notebook does and says what happened.

In: requests ``start`` and ``run`` from the driver. Out: what happens while it happens, then the end
of each request. Model code runs in this process with this process's rights; only what is bounded
here (output, images, time between interrupt and answer) is bounded. Loaded by the child only;
imports nothing of ours.
"""

from __future__ import annotations

import _socket
import ast
import base64
import builtins
import contextlib
import io
import linecache
import mmap
import os
import random
import re
import signal
import socket
import sys
import types
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from . import capture, display, notes, protocol
from .capture import CAPTURE
from .memory import Memory
from .output import Output, Wire
from .protocol import Frames, Origin
from .tracebacks import describe, explain, lines_of

# A copy for this file's functions: model code may change or empty the original.
__builtins__ = dict(vars(builtins))  # type: ignore[assignment]
# Bound now, for the same reason.
_parse, _signal, _sigmask = ast.parse, signal.signal, signal.pthread_sigmask
_UNBLOCK, _SIGINT, _timer = signal.SIG_UNBLOCK, signal.SIGINT, signal.setitimer

_SEMICOLON = re.compile(rb"[\s)]*;").match
RECURSION = 1000 - 11
"""Calls that a session may nest, on top of those that lead to its first cell."""


def install(figure: dict[str, Any]) -> None:
    """Prepare matplotlib, PIL, IPython's names and OpenCV for all interpreters to come.

    Raises:
        KeyError: A name that is no rcParam.
        ValueError: A value that matplotlib refuses.
    """
    notes.install()
    display.install()
    capture.install(figure)


class Interpreter:
    """A persistent namespace and the loop that serves it."""

    def __init__(self) -> None:
        self.module = types.ModuleType("__main__")
        self.namespace = self.module.__dict__
        self.namespace.update(__builtins__=builtins, np=np, plt=plt, Image=Image)
        self.namespace.update(matplotlib=matplotlib, io=io, base64=base64)
        self.namespace["display"] = display.show
        self.wire = Wire()
        self.output = Output(self.wire)
        self.error_chars = protocol.MIN_CHARS
        self._memory = Memory()
        self._fetched: dict[str, set[int]] = {}
        """Of each bound video, the frames that this cell asked for."""
        self._patch_cv2: Callable[[], None] = _nothing
        self._first = True
        self._armed = False
        self._interrupted = False

    def serve(self, given: socket.socket) -> None:
        """Answer requests until the driver closes the session."""
        # The bare type: no attribute of it can be replaced.
        sock = _socket.socket(fileno=given.detach())
        # The session's own folder is where modules are looked for first, as in a REPL.
        sys.modules["__main__"], sys.argv, sys.path[:0] = self.module, [""], [""]
        sys.stdout = sys.stderr = self.output
        vars(sys).update(__stdout__=self.output, __stderr__=self.output)
        builtins.input = _no_input
        vars(builtins).update(exit=sys.exit, quit=sys.exit)
        builtins.help = _Help()  # type: ignore[assignment]
        _signal(_SIGINT, self._interrupt)
        self.wire.attach(sock)
        while True:
            try:
                request, head, blob, fds = protocol.read_request(sock)
            except protocol.Ended:
                return
            flags, error = 0, ""
            self.wire.begin(request)
            self.output.begin()
            CAPTURE.begin()
            self._interrupted = False
            if head["op"] == "start":
                try:
                    self.bind(head["images"], blob, fds)
                    self.start(head)
                    self.bind_videos(head["videos"], fds)  # within the limits: any file may come
                except Exception as fault:  # noqa: BLE001 - the driver is told, and raises it
                    flags, error = protocol.FAILED, f"{type(fault).__name__}: {fault}"
                    error = error[: self.error_chars]
            else:
                raised, error = self.run(head["code"], head["number"])
                if advice := self._memory.settle():
                    self.output.write(f"{advice[1:]}\n")
                flags = protocol.RAISED * raised | protocol.INTERRUPTED * self._interrupted
                flags |= protocol.SPENT * self._memory.spent
                self._tell_fetched()
            self.wire.end(self._last(request, flags, error))

    def measure(self) -> None:
        """Let sessions have their memory beyond what is mapped now: libraries are not theirs."""
        with contextlib.suppress(OSError):  # there may be no /proc to ask
            self._memory = Memory()

    def bind(self, images: list[list[Any]], blob: memoryview, fds: list[int]) -> None:
        """Put images into the namespace.

        Args:
            images: For each its name, width, height, and whether its RGB pixels come in the next
                of ``fds`` instead of ``blob``.
            blob: The pixels of those images that come in it, one after the other.
            fds: Files that hold nothing but pixels; they are taken off the list and closed.
        """
        offset = 0
        for name, width, height, in_file in images:
            size = 3 * width * height
            if in_file:
                with mmap.mmap(fds[0], size, prot=mmap.PROT_READ) as file, memoryview(file) as raw:
                    image = Image.frombytes("RGB", (width, height), raw)
                os.close(fds.pop(0))
            else:
                image = Image.frombytes("RGB", (width, height), blob[offset : offset + size])
                offset += size
            notes.tag(image, name)
            self.namespace[name] = image

    def bind_videos(self, names: list[str], fds: list[int]) -> None:
        """Put readers of videos into the namespace.

        Args:
            names: Of the bindings.
            fds: Of each its file, open for reading.

        Raises:
            ValueError: A file cannot be read as a video.
        """
        if not names:
            return
        from . import video  # here, because it needs PyAV

        video.install()
        video.FETCHED = self._note_fetched
        notes.FRAMES_OF, self._patch_cv2 = video.frames_of, video.patch_cv2
        self.namespace.update(VideoReader=video.VideoReader, cpu=video.cpu)
        for name, fd in zip(names, fds, strict=True):
            self._fetched[name] = set()
            try:
                self.namespace[name] = video.open_video(fd, name)
            except video.VideoError as error:
                raise ValueError(f"{name}: {error}") from error

    def start(self, head: dict[str, Any]) -> None:
        """Take the seed and the limits of the session."""
        caps = protocol.caps(head["max_output_chars"])
        self.output.limit, self.error_chars = caps.output_chars, caps.error_chars
        self.output.begin()
        CAPTURE.namespace, CAPTURE.write = self.namespace, self.output.write
        CAPTURE.send = self._send_image
        for name in ("next_image", "max_images", "max_pixels", "max_aspect"):
            setattr(CAPTURE, name, head[name])
        if head["figure"]:
            matplotlib.rcParams.update(head["figure"])
        random.seed(head["seed"])
        np.random.seed(head["seed"] % 2**32)
        self._memory.allow(head["memory_mb"])

    def run(self, code: str, number: int) -> tuple[bool, str]:
        """Run one cell; return whether it raised, and the traceback."""
        try:
            self._memory.begin()
            return self._run(code, number)
        except MemoryError:
            self._armed = False
            return True, "MemoryError" + self._memory.lend()

    def _run(self, code: str, number: int) -> tuple[bool, str]:
        name = f"<cell {number}>"
        linecache.cache[name] = (len(code), None, lines_of(code), name)
        # Set again for each cell: an earlier one may have changed them.
        _signal(_SIGINT, self._interrupt)
        _sigmask(_UNBLOCK, (_SIGINT,))
        sys.stdout = sys.stderr = self.output
        raised, error = False, ""
        try:
            self._armed = True
            raised, error = self._guarded(code, name)
            _timer(signal.ITIMER_REAL, 0)  # one of the code's own must not go off between two cells
            self._armed = False
        except BaseException as fault:  # noqa: BLE001 - an interrupt while the error was described
            self._armed = False
            raised, error = True, type(fault).__name__
        if raised:
            CAPTURE.finish(show=False)
        return raised, error

    def _guarded(self, code: str, name: str) -> tuple[bool, str]:
        """Run the cell and describe its error, both interruptible: both may run model code."""
        try:
            try:
                self._execute(code, name)
            except SystemExit as end:
                code = "" if end.code is None else repr(end.code)
                self.output.write(f"[the cell ended with sys.exit({code})]\n")
            CAPTURE.finish(show=True)
        except BaseException as fault:  # noqa: BLE001 - whatever model code raises is its result
            advice = self._memory.lend() if isinstance(fault, MemoryError) else ""
            return True, describe(fault, self.error_chars - len(advice)) + advice
        return False, ""

    def _execute(self, code: str, name: str) -> None:
        if self._first:
            self._first = False
            # How deep code can recurse must not depend on who forked this process.
            sys.setrecursionlimit(RECURSION + _depth())
        try:
            tree = _parse(code, name)
        except SyntaxError as error:
            explain(error, code)
            raise
        if "cv2" in code:
            display.patch_cv2(load=True)
            self._patch_cv2()
        last, silent = None, False
        if tree.body and isinstance(tree.body[-1], ast.Expr):
            last = ast.Expression(tree.body.pop().value)  # type: ignore[attr-defined]
            silent = _silenced(lines_of(code), last.body)
        if tree.body:
            exec(compile(tree, name, "exec", dont_inherit=True), self.namespace)
        if last is not None:
            value = eval(compile(last, name, "eval", dont_inherit=True), self.namespace)
            if not silent:
                display.show(value)

    def _last(self, request: int, flags: int, error: str) -> bytes:
        """The frame that ends an answer."""
        output = self.output
        try:
            return protocol.done(request, flags, output.total, output.tail(), error)
        except MemoryError:  # the code caught its own, and kept everything
            self._memory.lend()
            return protocol.done(request, flags, output.total, "", error)

    def _interrupt(self, signum: int, frame: types.FrameType | None) -> None:
        """Stop the running cell, once; between cells do nothing."""
        if self._armed:
            self._armed = False
            self._interrupted = True
            if self.wire.busy:
                self.wire.interrupted = True
            else:
                raise KeyboardInterrupt

    def _note_fetched(self, name: str, numbers: Iterable[int]) -> None:
        found = self._fetched.get(name)
        if found is not None:
            found.update(numbers)

    def _tell_fetched(self) -> None:
        """Send which frames the cell asked for; numbers that model code spoiled say nothing."""
        wire = self.wire
        for name, numbers in self._fetched.items():
            try:
                if numbers:
                    claim = protocol.claim(name, sorted(numbers))
                    wire.send(protocol.frames(wire.request, claim, shown=False))
            except Exception:  # noqa: BLE001 - whatever the spoiled numbers made it raise
                continue
            finally:
                numbers.clear()

    def _send_image(self, size: tuple[int, int], note: Origin, pixels: bytes) -> None:
        wire = self.wire
        head = b""
        if isinstance(note, Frames):
            head, note = protocol.frames(wire.request, note, shown=True), None
        head += protocol.image(wire.request, size, self.output.total, note, len(pixels))
        wire.send(head, pixels)


def _nothing() -> None:
    """What there is to do to OpenCV without videos."""


class _Help:
    """The ``help`` that interactive Python has."""

    def __repr__(self) -> str:
        return "Type help(object) for help about object."

    def __call__(self, *subjects: object) -> None:
        import pydoc  # few ask for it

        pydoc.help(*subjects) if subjects else sys.stdout.write(f"{self!r}\n")


def _silenced(lines: list[str], last: ast.expr) -> bool:
    """Whether a semicolon follows the expression."""
    rest = "".join(lines[(last.end_lineno or 1) - 1 :]).encode("utf-8", "surrogatepass")
    return _SEMICOLON(rest, last.end_col_offset or 0) is not None


def _depth() -> int:
    """Calls under way as the interpreter counts them: those of C code too."""
    try:
        sys.setrecursionlimit(1)
    except RecursionError as error:  # "... at the recursion depth 9: the limit is too low"
        return int(re.findall(r"depth (\d+)", str(error))[0])
    return 0


def _no_input(prompt: object = "", /) -> NoReturn:
    raise EOFError("input() is not available")
