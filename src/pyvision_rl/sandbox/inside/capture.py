"""What model code shows: figures and images, taken as raw RGB pixels. This is a pyplot backend.

In: ``plt.show()``, ``fig.show()``, images from ``display``, figures left open. Out: each that is
within the limits, sent at once and named in the model's namespace. Loaded by the child only;
imports nothing of ours.

Making a figure's axes costs several times what drawing a small image costs, so the zygote makes
``SPARES`` default figures before it forks, and a ``plt.figure()`` that says no more than a
``figsize`` takes one of them when no rcParam was changed since. The code gets the very objects it
would have made, only earlier.
"""

from __future__ import annotations

import builtins
import contextlib
import functools
import operator
from collections.abc import Callable
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib._pylab_helpers import Gcf
from matplotlib.backend_bases import FigureManagerBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from . import notes
from .protocol import Origin

# A copy for this file's functions: model code may change or empty the original.
__builtins__ = dict(vars(builtins))  # type: ignore[assignment]

SPARES = 4


class Capture:
    """Takes the images shown by one cell, bounded in number and size."""

    def __init__(self) -> None:
        self.namespace: dict[str, Any] = {}
        self.write: Callable[[str], object] = len
        """Where the words about images that were not kept go."""
        self.send: Callable[[tuple[int, int], Origin, bytes], object] = lambda *_: None
        """Where images go: size, source, RGB pixels."""
        self.next_image = 0
        """k of the next ``image_clue_k``."""
        self.max_images = 0
        self.max_pixels = 0
        self.max_aspect = 1
        self._num_images = 0
        self._excess = 0
        self._figures: dict[int, Any] = {}

    def begin(self) -> None:
        """Start a cell: nothing is shown yet."""
        self._num_images, self._excess, self._figures = 0, 0, {}

    def finish(self, show: bool) -> None:
        """End a cell: show the figures left open, or drop them."""
        if Gcf.figs:
            if show:
                FigureManager.pyplot_show()
            Gcf.destroy_all()
        if self._excess:
            noun = "image was" if self._excess == 1 else "images were"
            excess, self._excess = self._excess, 0
            self.write(f"[{excess} more {noun} not shown: the limit is {self.max_images}]\n")

    def image(self, image: Image.Image) -> None:
        """Show a PIL image."""
        if self._admit(*image.size):
            note = _known(notes.image_note, image)
            rgb = opaque(image)
            self._add(rgb, rgb.tobytes(), note)

    def figure(self, figure: Any) -> None:
        """Show a figure, once unless it was changed in between."""
        if id(figure) in self._figures and not figure.stale:
            return
        self._figures[id(figure)] = figure
        canvas: Any = figure.canvas
        if not isinstance(canvas, FigureCanvasAgg):
            canvas = FigureCanvasAgg(figure)
        if not self._admit(*canvas.get_width_height()):
            return
        canvas.draw()
        pixels: Any = np.asarray(canvas.buffer_rgba())  # [height, width, 4]
        height, width = pixels.shape[:2]
        note = _known(notes.figure_note, figure, height)
        if figure.get_facecolor()[3] == 1 and figure.get_frameon():
            # An opaque background leaves nothing transparent: the alpha channel is dropped.
            raw = pixels[..., :3].tobytes()
            self._add(Image.frombytes("RGB", (width, height), raw), raw, note)
        else:
            rgb = opaque(Image.fromarray(pixels))
            self._add(rgb, rgb.tobytes(), note)

    def _admit(self, width: int, height: int) -> bool:
        if self._num_images >= self.max_images:
            self._excess += 1
            return False
        if not 0 < width * height <= self.max_pixels:
            why = f"the limit is {self.max_pixels} pixels"
        elif max(width, height) > self.max_aspect * min(width, height):
            why = f"one side may be at most {self.max_aspect} times the other"
        else:
            return True
        self.write(f"[an image of {width}x{height} pixels was not shown: {why}]\n")
        return False

    def _add(self, image: Image.Image, raw: bytes, note: Origin) -> None:
        # The pixels are taken now: the code may draw on its image later in the same cell.
        name = f"image_clue_{self.next_image}"
        self._num_images += 1
        self.next_image += 1
        self.namespace[name] = image
        notes.tag(image, name)
        self.send(image.size, note, raw)


def _known(find: Callable[..., Origin], *shown: Any) -> Origin:
    """What is known of a picture: a tag that model code broke says nothing."""
    try:
        return find(*shown)
    except Exception:  # noqa: BLE001 - whatever the broken tag made it raise
        return None


CAPTURE = Capture()
"""The one capture of this process; pyplot finds its backend by module, so it is a global."""


class FigureManager(FigureManagerBase):
    """A figure known to pyplot; showing it captures and closes it, as a notebook does."""

    def show(self) -> None:
        """Capture this figure."""
        CAPTURE.figure(self.canvas.figure)
        Gcf.destroy(self)

    @classmethod
    def pyplot_show(cls, *args: Any, **kwargs: Any) -> None:
        """Capture all open figures, in order of their numbers."""
        for number in sorted(Gcf.figs):
            Gcf.figs[number].show()


class FigureCanvas(FigureCanvasAgg):
    """Draws with Agg."""

    manager_class = FigureManager


class _Spares:
    """Default figures made before the fork, each with a default axes that it does not show yet."""

    def __init__(self) -> None:
        self.figures: list[Figure] = []
        self.axes: dict[Figure, Any] = {}
        self._params: list[Any] = []

    def make(self, count: int) -> None:
        for _ in range(count):
            figure: Any = Figure()
            FigureCanvas(figure)
            axes = figure.add_subplot()
            figure._axstack.remove(axes)
            figure._localaxes.remove(axes)
            if not callable(figure._add_axes_internal):  # what will put the axes back
                raise TypeError
            self.figures.append(figure)
            self.axes[figure] = axes
        self._params = list(dict.values(matplotlib.rcParams))

    def fresh(self) -> bool:
        """Whether no rcParam was set since the spares were made; compares identities."""
        values = dict.values(matplotlib.rcParams)
        return len(values) == len(self._params) and all(map(operator.is_, values, self._params))

    def drop(self) -> None:
        self.figures, self.axes = [], {}


_SPARE = _Spares()
_BARE = {"dpi": None, "facecolor": None, "edgecolor": None, "frameon": True}
"""What ``plt.figure()`` passes on when it is called without arguments, beside ``figsize``."""
_UNSHARED = {"sharex": None, "sharey": None}
"""What ``plt.subplots()`` passes on for its one axes."""


def new_figure_manager(
    num: int, *args: Any, FigureClass: type[Figure] = Figure, **kwargs: Any
) -> FigureManagerBase:
    """Return the manager of a new figure; pyplot calls this by name."""
    figures, size = _SPARE.figures, kwargs.get("figsize")
    bare = not args and kwargs == {"figsize": size, **_BARE} and _is_size(size)
    if figures and FigureClass is Figure and bare and _SPARE.fresh():
        figure = figures.pop()
        if size is not None:
            figure.set_size_inches(size, forward=False)
    else:
        figure = FigureClass(*args, **kwargs)
    return FigureManager(FigureCanvas(figure), num)


def _is_size(size: Any) -> bool:
    """Whether a default figure can be given this size; what is odd is for matplotlib to judge."""
    if type(size) not in (tuple, list):
        return size is None
    return len(size) == 2 and all(type(n) in (int, float) and 0 < n < 1e4 for n in size)


def _spare_axes(figure: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The axes made in advance, placed in ``figure``, if the call would make the same; or None."""
    axes = _SPARE.axes.pop(figure, None)
    if axes is None or figure.axes or not _SPARE.fresh():
        return None
    if not args and not kwargs:
        axes.set_subplotspec(axes.get_subplotspec())  # margins may have been changed meanwhile
    elif len(args) == 1 and kwargs == _UNSHARED and _is_whole(args[0]):
        axes.set_subplotspec(args[0])
    else:
        return None
    return figure._add_axes_internal(axes, (type(axes), dict(kwargs)))


def _is_whole(spec: Any) -> bool:
    """Whether a subplot spec is the only cell of its grid."""
    return hasattr(spec, "get_geometry") and spec.get_geometry() == (1, 1, 0, 0)


def opaque(image: Image.Image) -> Image.Image:
    """Return the image in 8-bit RGB, transparency laid on white, 16-bit grey scaled down."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def install(params: dict[str, Any]) -> None:
    """Make this module the pyplot backend, apply rcParams, and warm what every figure needs.

    Raises:
        KeyError: A name that is no rcParam.
        ValueError: A value that matplotlib refuses.
    """
    plt.switch_backend(f"module://{__name__}")
    rcparams: Any = matplotlib.rcParams
    rcparams.update(params)

    @functools.wraps(matplotlib.use)
    def use(*args: Any, **kwargs: Any) -> None:
        """Change nothing: figures go to the sandbox whatever the code asks for."""

    matplotlib.use = use
    plt.switch_backend = use
    _warm()


def _warm() -> None:
    """Draw one figure (fonts, transforms, resampling), then make the spares."""
    figure, axes = plt.subplots()
    axes.imshow(Image.new("RGB", (64, 64)))
    axes.set_title("warm")
    figure.canvas.draw()
    plt.close("all")
    make = Figure.add_subplot
    # The spares lean on two private lists of Figure; without them figures are made when asked for.
    with contextlib.suppress(AttributeError, TypeError):
        _SPARE.make(SPARES)

        @functools.wraps(make)
        def add_subplot(self: Figure, *args: Any, **kwargs: Any) -> Any:
            axes = _spare_axes(self, args, kwargs) if self in _SPARE.axes else None
            return make(self, *args, **kwargs) if axes is None else axes

        patched: Any = Figure
        patched.add_subplot = add_subplot
        return
    _SPARE.drop()
