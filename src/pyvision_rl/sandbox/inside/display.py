"""Every way to show something: ``display``, IPython's names, PIL's and OpenCV's viewers.

In: values. Out: pictures given to ``capture``, and text written to the cell's output. IPython is
never imported, whether installed or not: its display names are stood in for. Loaded by the child
only; imports nothing of ours.
"""

from __future__ import annotations

import builtins
import contextlib
import importlib
import io
import sys
import types
from typing import Any

import numpy as np
from matplotlib._pylab_helpers import Gcf
from matplotlib.figure import Figure
from PIL import Image, ImageShow

from . import notes
from .capture import CAPTURE

# A copy for this file's functions: model code may change or empty the original.
__builtins__ = dict(vars(builtins))  # type: ignore[assignment]

_WINDOWS = (
    "namedWindow moveWindow resizeWindow destroyWindow destroyAllWindows setWindowTitle "
    "setWindowProperty startWindowThread"
)
"""OpenCV's functions that only arrange windows."""


def show(*values: object, **options: object) -> None:
    """Show each value as the last expression of a cell is shown."""
    for value in values:
        if isinstance(value, Image.Image):
            CAPTURE.image(value)
        elif isinstance(value, _Picture):
            CAPTURE.image(value.image)
        elif isinstance(value, Figure):
            CAPTURE.figure(value)
            Gcf.destroy_fig(value)
        elif value is not None:
            picture = _png(value)
            if picture is None:
                sys.stdout.write(f"{value!r}\n")
            else:
                CAPTURE.image(picture)


def _png(value: object) -> Image.Image | None:
    """The picture that a value draws of itself, as IPython asks for it; or None."""
    draw = getattr(type(value), "_repr_png_", None)
    data = None if draw is None else draw(value)
    if isinstance(data, tuple):  # with metadata
        data = data[0]
    if not isinstance(data, bytes):
        return None
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        return image


class _Words:
    """Stands in for IPython's texts: shows its source."""

    def __init__(self, data: object = "", *args: object, **options: object) -> None:
        self.data = data

    def __repr__(self) -> str:
        """The source as it was given."""
        return str(self.data)


class _Picture:
    """Stands in for ``IPython.display.Image``: takes encoded bytes or a file's name."""

    def __init__(self, data: Any = None, filename: Any = None, **options: object) -> None:
        if data is None and filename is None:
            raise ValueError("Image wants data or filename")
        if isinstance(data, Image.Image):
            self.image = data
            return
        if isinstance(data, bytes):
            data = io.BytesIO(data)
        with Image.open(filename if data is None else data) as image:
            image.load()
            self.image = image


def cv2_imshow(window: object, pixels: Any = None) -> None:
    """Show an OpenCV array (blue first), its values read as ``cv2.imshow`` reads them."""
    array = np.asarray(window if pixels is None else pixels)
    if array.dtype.kind == "f":
        array = array * 255.0
    elif array.dtype.kind in "iu" and array.dtype.itemsize > 1:
        array = array // 256
    array = np.clip(np.nan_to_num(array), 0, 255).astype(np.uint8)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim == 3 and array.shape[2] in (3, 4):
        array = array[..., 2::-1]
    elif array.ndim != 2:
        raise ValueError(f"imshow: an array of shape {array.shape} is no image")
    image = Image.fromarray(np.ascontiguousarray(array))
    notes.label(image, window if pixels is None else pixels)
    CAPTURE.image(image)


def patch_cv2(load: bool = False) -> None:
    """Let OpenCV, if it is loaded or is to be, show its pictures here."""
    if load and "cv2" not in sys.modules:
        with contextlib.suppress(ImportError):
            importlib.import_module("cv2")
    cv2: Any = sys.modules.get("cv2")
    if cv2 is None or getattr(cv2, "imshow", None) is cv2_imshow:
        return
    cv2.setNumThreads(1)
    cv2.imshow = cv2_imshow
    cv2.waitKey = cv2.waitKeyEx = cv2.pollKey = lambda *_: -1
    for name in _WINDOWS.split():
        setattr(cv2, name, lambda *args, **options: None)


def install() -> None:
    """Let the viewers of PIL, IPython and OpenCV show their pictures here."""

    def show_image(image: Image.Image, *args: Any, **kwargs: Any) -> None:
        """Show the image to whoever asked for the code to be run."""
        CAPTURE.image(image)

    def shown(image: Image.Image, *args: Any, **kwargs: Any) -> bool:
        """Show the image, and say that a viewer was found."""
        CAPTURE.image(image)
        return True

    image_class: Any = Image.Image
    image_class.show = show_image
    viewers: Any = ImageShow
    viewers.show = shown
    _stand_in()
    patch_cv2()


def _stand_in() -> None:
    """Put the display names of IPython where imports find them."""
    top, names, core = (types.ModuleType(f"IPython{end}") for end in ("", ".display", ".core"))
    shown = types.ModuleType("IPython.core.display")
    for module in (top, core):
        module.__path__ = []
    members: dict[str, Any] = {"display": show, "Image": _Picture}
    members["clear_output"] = lambda *args, **options: None
    members |= dict.fromkeys(("HTML", "Markdown", "Pretty", "Latex", "Math", "Code"), _Words)
    for module in (names, shown):
        vars(module).update(members)
    vars(core).update(display=shown)
    vars(top).update(display=names, core=core, get_ipython=lambda: None)
    # matplotlib asks for the version before it asks for the shell, of which there is none.
    vars(top).update(version_info=(9, 0, 0), __version__="9.0.0")
    for module in (top, names, core, shown):
        sys.modules[module.__name__] = module
