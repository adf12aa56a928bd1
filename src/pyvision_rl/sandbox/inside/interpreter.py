"""One episode's interpreter: runs cells as a notebook does and says what happened.

In: frames ``start`` and ``run`` from the driver. Out: one reply per frame. Model code runs in this
process with this process's rights; only what is bounded here (output, images, time between
interrupt and reply) is bounded. Loaded by the child only; imports nothing of ours.
"""

from __future__ import annotations

import ast
import builtins
import io
import linecache
import random
import re
import resource
import signal
import socket
import sys
import traceback
import types
from typing import Any, NoReturn

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib._pylab_helpers import Gcf
from matplotlib.figure import Figure
from PIL import Image

from . import protocol
from .capture import CAPTURE

SHOWN_FRAMES = 8
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
"""Where an object lies, as its repr says: left out of every text that a cell gives, because it
differs from run to run and says nothing."""


class Output(io.TextIOBase):
    """stdout and stderr of a cell in one text: its head and tail, however much is written."""

    encoding = "utf-8"

    def __init__(self) -> None:
        self.limit = protocol.MIN_CHARS
        self.begin()

    def begin(self) -> None:
        """Forget what was written."""
        self._head: list[str] = []
        self._head_left = self.limit
        self._tail: list[str] = []
        self._tail_chars = 0
        self._total = 0

    def write(self, text: str) -> int:
        """Keep what fits, and return the number of characters taken."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        count = len(text)
        text = _ADDRESS.sub("", text)  # here, and not at the end: a cut may fall into an address
        self._total += len(text)
        if self._head_left:
            self._head.append(text[: self._head_left])
            text = text[self._head_left :]
            self._head_left -= len(self._head[-1])
        if text:
            self._tail.append(text[-self.limit :])
            self._tail_chars += len(self._tail[-1])
            # Joined at twice the limit or many small pieces: memory and work stay bounded.
            if self._tail_chars > 2 * self.limit or len(self._tail) > 4096:
                self._tail = ["".join(self._tail)[-self.limit :]]
                self._tail_chars = len(self._tail[0])
        return count

    def writable(self) -> bool:
        """Return True."""
        return True

    def text(self) -> str:
        """Return what was written, cut in the middle to ``limit`` characters."""
        head, tail = "".join(self._head), "".join(self._tail)
        if self._total <= self.limit:
            return head + tail
        kept = self.limit - 40  # the words that state the cut are shorter than this
        first, last = kept // 2, kept - kept // 2
        note = f"\n[{self._total - kept} characters cut]\n"
        return head[:first] + note + (head + tail)[-last:]


def show(*values: object) -> None:
    """Show each value as the last expression of a cell is shown."""
    for value in values:
        if isinstance(value, Image.Image):
            CAPTURE.image(value)
        elif isinstance(value, Figure):
            CAPTURE.figure(value)
            Gcf.destroy_fig(value)
        elif value is not None:
            sys.stdout.write(f"{value!r}\n")


def describe(error: BaseException, limit: int) -> str:
    """Return a traceback that shows the model's own lines only, at most ``limit`` characters."""
    found: traceback.TracebackException | None
    # Lines of library files are not read: they are not shown.
    found = traceback.TracebackException(
        type(error), error, error.__traceback__, lookup_lines=False, compact=True
    )
    blocks: list[str] = []
    while found is not None and len(blocks) < 3:
        blocks.insert(0, _block(found, limit // 2 if blocks else limit))
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)
    text = "\n\nDuring handling of the above, another error occurred:\n\n".join(blocks)
    return text if len(text) <= limit else "..." + text[len(text) - limit + 3 :]


def _block(found: traceback.TracebackException, limit: int) -> str:
    message = _ADDRESS.sub("", "".join(found.format_exception_only()).rstrip("\n"))
    if len(message) > limit * 3 // 4:
        kept = limit * 3 // 8 - 3
        message = f"{message[:kept]} ... {message[-kept:]}"
    frames = [frame for frame in found.stack if frame.filename.startswith("<cell ")]
    if not frames:
        return message
    lines = ["Traceback (most recent call last):"]
    if len(frames) > SHOWN_FRAMES:
        lines.append(f"  ... {len(frames) - SHOWN_FRAMES} earlier calls")
    for frame in frames[-SHOWN_FRAMES:]:
        lines.append(f'  File "{frame.filename}", line {frame.lineno}, in {frame.name}')
        if frame.line:
            lines.append(f"    {frame.line}")
    return "\n".join([*lines, message])


class Interpreter:
    """A persistent namespace and the loop that serves it."""

    def __init__(self) -> None:
        self.module = types.ModuleType("__main__")
        self.namespace = self.module.__dict__
        self.namespace.update(__builtins__=builtins, np=np, plt=plt, Image=Image, display=show)
        self.output = Output()
        self.error_chars = protocol.MIN_CHARS
        self._armed = False
        self._interrupted = False

    def serve(self, sock: socket.socket) -> None:
        """Answer frames until the driver closes the session."""
        sys.modules["__main__"] = self.module
        sys.stdout = sys.stderr = self.output
        builtins.input = _no_input
        for name in ("exit", "quit"):
            setattr(builtins, name, sys.exit)
        signal.signal(signal.SIGINT, self._interrupt)
        while True:
            try:
                request, head, blob = protocol.read_request(sock)
            except protocol.Ended:
                return
            raised, error = False, ""
            self.output.begin()
            CAPTURE.begin()
            self._interrupted = False
            if head["op"] == "start":
                try:
                    self.start(head, blob)
                except Exception as fault:  # noqa: BLE001 - the driver is told, and raises it
                    raised, error = True, f"{type(fault).__name__}: {fault}"[: self.error_chars]
            else:
                raised, error = self.run(head["code"], head["number"])
            self._reply(sock, request, raised, error)

    def start(self, head: dict[str, Any], blob: memoryview) -> None:
        """Take the bindings, the seed and the limits of the session."""
        offset = 0
        for name, width, height in head["images"]:
            size = 3 * width * height
            pixels = blob[offset : offset + size]
            self.namespace[name] = Image.frombytes("RGB", (width, height), pixels)
            offset += size
        CAPTURE.namespace, CAPTURE.write = self.namespace, self.output.write
        CAPTURE.next_image = head["next_image"]
        CAPTURE.max_images, CAPTURE.max_pixels = head["max_images"], head["max_pixels"]
        caps = protocol.caps(head["max_output_chars"], 0, 0)
        self.output.limit, self.error_chars = caps.output_chars, caps.error_chars
        self.output.begin()
        if head["figure"]:
            matplotlib.rcParams.update(head["figure"])
        random.seed(head["seed"])
        np.random.seed(head["seed"] % 2**32)
        _limit_memory(head["memory_mb"])

    def run(self, code: str, number: int) -> tuple[bool, str]:
        """Run one cell; return whether it raised, and the traceback."""
        name = f"<cell {number}>"
        linecache.cache[name] = (len(code), None, code.splitlines(True), name)
        # Set again for each cell: an earlier one may have changed them.
        signal.signal(signal.SIGINT, self._interrupt)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT,))
        sys.stdout = sys.stderr = self.output
        raised, error = False, ""
        try:
            self._armed = True
            raised, error = self._guarded(code, name)
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
            return True, describe(fault, self.error_chars)
        return False, ""

    def _execute(self, code: str, name: str) -> None:
        tree = ast.parse(code, name)
        last = None
        if tree.body and isinstance(tree.body[-1], ast.Expr):
            last = ast.Expression(tree.body.pop().value)  # type: ignore[attr-defined]
        if tree.body:
            exec(compile(tree, name, "exec", dont_inherit=True), self.namespace)
        if last is not None:
            show(eval(compile(last, name, "eval", dont_inherit=True), self.namespace))

    def _interrupt(self, signum: int, frame: types.FrameType | None) -> None:
        """Stop the running cell, once; between cells do nothing."""
        if self._armed:
            self._armed = False
            self._interrupted = True
            raise KeyboardInterrupt

    def _reply(self, sock: socket.socket, request: int, raised: bool, error: str) -> None:
        images = CAPTURE.images
        head = {
            "raised": raised,
            "interrupted": self._interrupted,
            "output": self.output.text(),
            "error": error,
            "images": [[width, height] for width, height, _ in images],
        }
        blobs = [raw for _, _, raw in images]
        frame = protocol.pack(request, head, sum(map(len, blobs)))
        sock.sendall(b"".join([frame, *blobs]))


def _limit_memory(memory_mb: int) -> None:
    """Allow ``memory_mb`` of address space beyond what is mapped now."""
    with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - once per episode: no Path
        mapped = int(file.read().split()[0]) * resource.getpagesize()
    limit = mapped + memory_mb * 2**20
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _no_input(prompt: object = "", /) -> NoReturn:
    raise EOFError("input() is not available")
