"""What is loaded before any session starts, so that no session has to load it.

In: names of libraries. Out: their modules in ``sys.modules``, warm and without threads; and the
code of those of our own that need a library that may never be loaded.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Iterable
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType
from typing import Any

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
    "av": "av .video",
}
"""What is loaded for a library that is named to be preloaded, where that is not its name alone."""


class Late:
    """Finds modules of this folder when the folder itself can no longer be seen."""

    def __init__(self) -> None:
        """Read those that are not imported yet."""
        self._codes: dict[str, CodeType] = {}
        for _, name, _ in pkgutil.iter_modules(
            sys.modules[__package__].__path__, f"{__package__}."
        ):
            if name not in sys.modules:
                loader: Any = importlib.util.find_spec(name).loader  # type: ignore[union-attr]
                self._codes[name] = loader.get_code(name)

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Return how to make the module, if it is one of these; the import system asks."""
        loader: Any = self
        return ModuleSpec(name, loader) if name in self._codes else None

    def create_module(self, spec: ModuleSpec) -> None:
        """Leave it to the import system."""

    def exec_module(self, module: ModuleType) -> None:
        """Run the code of the module."""
        exec(self._codes[module.__name__], module.__dict__)


def load(names: Iterable[str]) -> None:
    """Load libraries; an empty name stands for what every session has.

    Raises:
        ImportError: One is not installed.
    """
    for name in names:
        for module in PARTS.get(name, name).split():
            importlib.import_module(module, __package__)
