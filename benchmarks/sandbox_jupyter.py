"""The sandbox benchmark's second peer: IPython kernels, driven by jupyter_client.

Runs in an environment of its own that has ipykernel, jupyter_client, numpy, matplotlib and Pillow.
A session is one kernel over the default transport with the default inline backend; a cell ends when
the kernel says it is idle and its reply is there. Shown pictures are decoded to pixels, as the
other arms' are.
"""

from __future__ import annotations

import base64
import io
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ipykernel
import jupyter_client
from PIL import Image

from benchmarks.sandbox_cells import IMPORTS, NAME, PRINT, SHOW, TRIVIAL, Pictures, serve

WAIT_S = 60.0


class Kernel:
    """One session."""

    def __init__(self) -> None:
        """Start a kernel and wait until it answers."""
        self._manager = jupyter_client.KernelManager()
        # It warns about its transport every time.
        self._manager.start_kernel(stderr=subprocess.DEVNULL)
        self._client = self._manager.client()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=WAIT_S)

    def run(self, code: str) -> tuple[str, list[Image.Image]]:
        """Return what the code printed and showed.

        Raises:
            RuntimeError: It raised.
        """
        request = self._client.execute(code, store_history=False)
        text, shown = "", []
        while True:
            message = self._client.get_iopub_msg(timeout=WAIT_S)
            if message["parent_header"].get("msg_id") != request:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "stream":
                text += content["text"]
            elif kind == "display_data" and "image/png" in content["data"]:
                data = base64.b64decode(content["data"]["image/png"])
                shown.append(Image.open(io.BytesIO(data)).convert("RGB"))
            elif kind == "error":
                raise RuntimeError(content["evalue"])
            elif kind == "status" and content["execution_state"] == "idle":
                break
        while self._client.get_shell_msg(timeout=WAIT_S)["parent_header"]["msg_id"] != request:
            pass
        return text, shown

    def close(self) -> None:
        """Kill the kernel."""
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=True)


class Jupyter:
    """The operations that ``benchmarks.sandbox`` asks for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._warm: Kernel | None = None

    def info(self) -> dict[str, Any]:
        """Return what is measured."""
        versions = {"ipykernel": ipykernel.__version__, "python": platform.python_version()}
        versions["jupyter_client"] = jupyter_client.__version__
        return {"backend": "IPython kernel", "level": "none", "versions": versions}

    def start(self, n: int) -> list[float]:
        """Return seconds from nothing to the first result with the imports, ``n`` times."""
        seconds = []
        for _ in range(n):
            began = time.perf_counter()
            kernel = Kernel()
            kernel.run(IMPORTS + TRIVIAL)
            seconds.append(time.perf_counter() - began)
            kernel.close()
        return seconds

    def warm(self, size: tuple[int, int]) -> None:
        """Open the session that ``cells`` uses, with one picture, and show once."""
        file = self._folder / "picture.png"
        next(Pictures((size[0], size[1]))).save(file)
        self._warm = Kernel()
        self._warm.run(f"{IMPORTS}{NAME} = Image.open({str(file)!r}).convert('RGB')")
        self.cells("show", 1)

    def cells(self, what: str, n: int) -> list[float]:
        """Return seconds of ``n`` cells, ``print`` or ``show``, one after the other."""
        assert self._warm is not None, "warm first"
        seconds = []
        for _ in range(n):
            began = time.perf_counter()
            text, shown = self._warm.run(PRINT if what == "print" else SHOW)
            seconds.append(time.perf_counter() - began)
            assert (text, len(shown)) == (("1\n", 0) if what == "print" else ("", 1))
        return seconds

    def cool(self) -> None:
        """Close the session of ``warm``."""
        assert self._warm is not None, "warm first"
        self._warm.close()
        self._warm = None


def main() -> int:
    """Serve ``benchmarks.sandbox``."""
    with tempfile.TemporaryDirectory() as folder:
        # Neither the user's settings nor files in the user's folders.
        os.environ["IPYTHONDIR"] = os.environ["JUPYTER_CONFIG_DIR"] = folder
        os.environ["JUPYTER_RUNTIME_DIR"] = os.environ["JUPYTER_DATA_DIR"] = folder
        arm = Jupyter(Path(folder))
        names = ("info", "start", "warm", "cells", "cool")
        serve({name: getattr(arm, name) for name in names})
    return 0


if __name__ == "__main__":
    sys.exit(main())
