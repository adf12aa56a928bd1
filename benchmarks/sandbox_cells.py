"""What every arm of the sandbox benchmark runs: the cells, the picture, the request loop.

In: requests of ``benchmarks.sandbox`` on standard input, one JSON object a line. Out: one JSON
object a line. Imports numpy and Pillow only: the Jupyter arm loads it in another environment.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from PIL import Image

NAME = "image_clue_0"
IMPORTS = "import numpy as np\nfrom PIL import Image\nimport matplotlib.pyplot as plt\n"
"""What a session has loaded when it starts; arms that start bare run it."""
TRIVIAL = "1"
PRINT = "print(1)"
SHOW = (
    f"crop = {NAME}.crop((100, 100, 500, 500))\n"
    "plt.figure()\nplt.imshow(crop)\nplt.axis('off')\nplt.show()"
)
"""At matplotlib's own figure size, 640x480."""
LIFECYCLE = (PRINT, f"small = {NAME}.resize((256, 256))\nprint(small.size)", SHOW)
TINY_SHOW = f"plt.imshow({NAME}.crop((112, 56, 168, 112)))\nplt.show()"
"""What the tiny runs' policies write."""
TOUCH = f"{NAME}.getpixel((5, 5))"
HANGS = {
    "loop": "while True: pass",
    "C loop": "sum(range(10**12))",
    "SIGINT ignored": (
        "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass"
    ),
}


class Pictures:
    """Pictures of one size that differ in content, so that no two have one hash."""

    def __init__(self, size: tuple[int, int], *, noise: bool = False, seed: int = 0) -> None:
        """Draw the one they all vary.

        Args:
            size: Width and height.
            noise: Every pixel is random, which PNG encoders give up on soonest. Otherwise a
                smooth picture with some grain: its PNG has 1.6 bytes a pixel and takes as long to
                make as a colour photograph's.
            seed: Of the picture.
        """
        width, height = size
        rng = np.random.default_rng(seed)
        coarse = rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC))
        grain = rng.normal(0.0, 4.0, (height, width, 1))
        self._pixels = np.clip(smooth + grain, 0, 255).astype(np.uint8)
        if noise:
            self._pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        self._count = 0

    def __next__(self) -> Image.Image:
        """Return a picture that was not there before."""
        self._count += 1
        pixels = self._pixels.copy()
        pixels[0, :4, 0] = [self._count >> shift & 255 for shift in (0, 8, 16, 24)]
        return Image.fromarray(pixels)


def serve(ops: Mapping[str, Callable[..., Any]]) -> None:
    """Answer requests until standard input ends: ``{"op": name, ...arguments}``."""
    # What code prints by accident must not look like an answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"answer": ops[request.pop("op")](**request)}
        except Exception:  # noqa: BLE001 - whatever it was, the other side reports it
            answer = {"error": traceback.format_exc()[-4000:]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
