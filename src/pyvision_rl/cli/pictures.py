"""Pictures on the terminal itself, where it can show them.

In: images of a run. Out: what makes kitty, iTerm2 or a sixel terminal draw them, as something rich
prints; nothing on any other terminal, nor into a file. What is sent is encoded here from pixels: no
byte of a model's reaches the terminal. Finds out what the terminal can by its environment only.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image
from rich.console import Console, ConsoleOptions, RenderResult
from rich.control import Control
from rich.segment import ControlType, Segment

from pyvision_rl.errors import TaskError
from pyvision_rl.media import open_image
from pyvision_rl.types import Media

PROTOCOLS = ("kitty", "iterm", "sixel")
MAX_SIDE = 480
"""Pixels; larger pictures are scaled down."""
_CHUNK = 4096
"""Characters that kitty takes at a time."""
_BAND = 6
"""Rows of pixels in a line of sixels."""
_SIXEL_TERMS = ("foot", "mlterm", "yaft", "xterm-sixel", "contour")


def protocol_of(environment: Mapping[str, str]) -> str | None:
    """Return how the terminal of an environment takes pictures; None if it takes none we know."""
    term, program = environment.get("TERM", ""), environment.get("TERM_PROGRAM", "")
    if environment.get("TMUX") or term.startswith(("screen", "tmux")):
        # They pass none of it on unless they are told to.
        return None
    if environment.get("KITTY_WINDOW_ID") or term in ("xterm-kitty", "xterm-ghostty"):
        return "kitty"
    if program in ("iTerm.app", "WezTerm") or environment.get("LC_TERMINAL") == "iTerm2":
        return "iterm"
    return "sixel" if term.startswith(_SIXEL_TERMS) else None


def pictures(protocol: str | None = None) -> Callable[[Media], Picture | None]:
    """Return what makes something rich can print of an image.

    Args:
        protocol: One of ``PROTOCOLS``, "none", or None: as this process's environment says.
    """
    chosen = protocol_of(os.environ) if protocol is None else protocol
    encode = {"kitty": kitty, "iterm": iterm, "sixel": sixel}.get(chosen or "")

    def picture(media: Media) -> Picture | None:
        if encode is None or media.kind != "image" or media.source is None:
            return None
        try:
            image = open_image(media)
        except TaskError:
            # A file that is gone or broken: its size is printed all the same.
            return None
        image.thumbnail((MAX_SIDE, MAX_SIDE))
        return Picture(encode(image))

    return picture


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture as a terminal is told to draw it."""

    code: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield it as a control code: it has no width, and goes to terminals only."""
        if console.is_terminal:
            # Of no effect itself; it marks the text as one that is not to be measured.
            yield Control((ControlType.CARRIAGE_RETURN,))
            yield Segment(self.code, None, [(ControlType.CARRIAGE_RETURN,)])
            yield Segment.line()


def kitty(image: Image.Image) -> str:
    """Return an image by kitty's graphics protocol: PNG in pieces, no answer asked for."""
    data = _png(image)
    pieces = [data[k : k + _CHUNK] for k in range(0, len(data), _CHUNK)]
    told = []
    for number, piece in enumerate(pieces):
        more = int(number + 1 < len(pieces))
        head = f"a=T,f=100,q=2,m={more}" if number == 0 else f"m={more}"
        told.append(f"\x1b_G{head};{piece}\x1b\\")
    return "".join(told)


def iterm(image: Image.Image) -> str:
    """Return an image by iTerm2's protocol, at its own size."""
    data = _png(image)
    size = f"width={image.width}px;height={image.height}px"
    return f"\x1b]1337;File=inline=1;{size};preserveAspectRatio=1:{data}\x07"


def sixel(image: Image.Image) -> str:
    """Return an image as sixels of at most 255 colours."""
    reduced = image.convert("RGB").quantize(255)
    indices = np.asarray(reduced)
    palette = (reduced.getpalette() or [])[: 3 * (int(indices.max()) + 1)]
    colors = [
        f"#{k};2;" + ";".join(str(round(value * 100 / 255)) for value in palette[3 * k : 3 * k + 3])
        for k in range(len(palette) // 3)
    ]
    size = f'"1;1;{image.width};{image.height}'
    return f"\x1bP0;1q{size}{''.join(colors)}{'-'.join(_bands(indices))}\x1b\\"


def _bands(indices: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Iterator[str]:
    """Yield six rows of pixels at a time, colour after colour."""
    for top in range(0, indices.shape[0], _BAND):
        rows = indices[top : top + _BAND]
        weights = 1 << np.arange(rows.shape[0])
        yield "$".join(
            f"#{color}{_repeated(((rows == color) * weights[:, None]).sum(0))}"
            for color in np.unique(rows)
        )


def _repeated(bits: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> str:
    """Return columns of a colour as characters, runs of equal ones shortened."""
    edges = np.flatnonzero(np.diff(bits)) + 1
    starts = [0, *edges.tolist()]
    ends = [*edges.tolist(), len(bits)]
    runs = [(chr(63 + int(bits[a])), b - a) for a, b in zip(starts, ends, strict=True)]
    return "".join(c * n if n < 4 else f"!{n}{c}" for c, n in runs)


def _png(image: Image.Image) -> str:
    out = BytesIO()
    image.save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode("ascii")
