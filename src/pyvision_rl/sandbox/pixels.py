"""The pixels of bound images, decoded once and shared by the sessions that bind them.

In: ``Media``. Out: raw RGB bytes, or a sealed file of them that can be passed to another process.
What was used last is kept within a bound. Belongs to one event loop.
"""

from __future__ import annotations

import fcntl
import os
from collections import OrderedDict
from collections.abc import Mapping

from pyvision_rl.errors import SandboxError, TaskError
from pyvision_rl.media import open_image
from pyvision_rl.types import Media

KEPT_BYTES = 2**28
"""Of decoded images whose pixels are not in memory anyway."""
KEPT_FILES = 16
LARGE_BYTES = 2**17
"""Fewer go through a socket at less cost."""
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class PixelStore:
    """Pixels by content."""

    def __init__(self) -> None:
        self._decoded: OrderedDict[str, bytes] = OrderedDict()
        self._num_bytes = 0
        self._files: OrderedDict[str, int] = OrderedDict()

    def pixels(self, media: Media) -> bytes:
        """Return the raw RGB pixels of an image.

        Raises:
            SandboxError: It cannot be read.
        """
        if isinstance(media.source, bytes):
            return media.source
        found = self._decoded.pop(media.sha256, None)
        if found is None:
            try:
                found = open_image(media).tobytes()
            except TaskError as error:
                raise SandboxError(f"a bound image cannot be read: {error}") from error
            self._num_bytes += len(found)
        self._decoded[media.sha256] = found
        while self._num_bytes > KEPT_BYTES and len(self._decoded) > 1:
            self._num_bytes -= len(self._decoded.popitem(last=False)[1])
        return found

    def file(self, media: Media) -> int:
        """Return a descriptor of a file of the pixels that nobody can change; it stays ours.

        It may be closed when other files are asked for: pass it on at once.

        Raises:
            SandboxError: The image cannot be read.
            OSError: No such file can be made.
        """
        fd = self._files.pop(media.sha256, None)
        if fd is None:
            fd = _sealed(self.pixels(media))
        self._files[media.sha256] = fd
        while len(self._files) > KEPT_FILES:
            os.close(self._files.popitem(last=False)[1])
        return fd

    def files(self, images: Mapping[str, Media]) -> dict[str, int]:
        """Return a descriptor, as ``file`` gives it, for those images that are worth one.

        Raises:
            SandboxError: An image cannot be read.
        """
        large = [n for n, m in images.items() if 3 * m.width * m.height >= LARGE_BYTES]
        try:
            return {name: self.file(images[name]) for name in large[:KEPT_FILES]}
        except OSError:
            return {}  # no such files here, or too many are open: the stream carries pixels too

    def close(self) -> None:
        """Forget everything. Idempotent."""
        while self._files:
            os.close(self._files.popitem()[1])
        self._decoded.clear()
        self._num_bytes = 0


def _sealed(pixels: bytes) -> int:
    fd = os.memfd_create("pixels", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(pixels)
        while view:
            view = view[os.write(fd, view) :]
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd
