"""What is loaded before any session starts, so that no session has to load it.

In: names of libraries. Out: their modules in ``sys.modules``, warm and without threads.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable

EVERY = (
    "base64 collections datetime functools io itertools json math operator random re statistics "
    "string textwrap time typing numpy numpy.random numpy.linalg numpy.fft matplotlib.pyplot "
    "matplotlib.patches PIL.Image PIL.ImageChops PIL.ImageColor PIL.ImageDraw PIL.ImageEnhance "
    "PIL.ImageFilter PIL.ImageFont PIL.ImageOps PIL.ImageStat PIL.PngImagePlugin "
    "PIL.JpegImagePlugin"
)
PARTS = {
    "": EVERY,
    "scipy": "scipy.ndimage scipy.signal",
    "skimage": "skimage.filters skimage.measure skimage.color skimage.transform",
}
"""What is loaded of a library that is named to be preloaded, where that is not its name."""


def load(names: Iterable[str]) -> None:
    """Load libraries; an empty name stands for what every session has.

    Raises:
        ImportError: One is not installed.
    """
    for name in names:
        for module in PARTS.get(name, name).split():
            importlib.import_module(module)
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(1)
