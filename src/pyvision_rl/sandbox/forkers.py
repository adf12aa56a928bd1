"""Who forks the next session: the zygote, one with more libraries, or one that holds its images.

In: the images that sessions begin with, and the code they run. Out: a ``Forker``. A set of images
that a second session begins with gets a group of its own. A library that code imports is loaded
once, in a group beside the zygote, for all sessions to come: loading everything at the start would
take seconds, and every mapped library makes every fork dearer.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping

from pyvision_rl.errors import SandboxError
from pyvision_rl.sandbox.pixels import PixelStore
from pyvision_rl.sandbox.process import Forker, Group
from pyvision_rl.sandbox.videos import LIBRARY, videos_of
from pyvision_rl.types import Media

MAX_IMAGES = 16
"""In a group."""
_REMEMBERED = 256
"""Sets of images that were opened once, and wait for a second session."""
_IMPORT = re.compile(r"^[ \t]*(?:import|from)\s(.*)", re.MULTILINE)

Key = tuple[tuple[str, str], ...]
"""Names and contents of a set of images."""


class Forkers:
    """The zygote and the groups beside it. Belongs to one event loop and one zygote."""

    def __init__(
        self, zygote: Forker, pixels: PixelStore, libraries: Iterable[str], max_groups: int
    ) -> None:
        """Begin with the zygote alone.

        Args:
            zygote: Forks whatever has nothing better.
            pixels: Where images come from.
            libraries: What is loaded when code first imports it.
            max_groups: Sets of images held at the same time.
        """
        self.base = zygote
        """Forks sessions without images."""
        self._zygote = zygote
        self._pixels = pixels
        self._offered = set(libraries)
        self._loaded: set[str] = set()
        self._loading: asyncio.Task[None] | None = None
        self._max_groups = max_groups
        self._groups: OrderedDict[Key, Group] = OrderedDict()
        self._seen: OrderedDict[Key, None] = OrderedDict()
        self._making = asyncio.Lock()

    def notice(self, code: str) -> None:
        """Load what the code imports, for sessions to come."""
        if not self._offered or self._loading is not None or self._zygote.lost:
            return
        words = {word for line in _IMPORT.findall(code) for word in re.findall(r"\w+", line)}
        if found := words & self._offered:
            self._offered -= found
            self._loading = asyncio.get_running_loop().create_task(self._load(found))

    async def pick(self, bindings: Mapping[str, Media]) -> Forker:
        """Return who forks a session that begins with these images, and reads these videos.

        Raises:
            SandboxError: The zygote died, or an image cannot be read.
        """
        if self.base.lost:
            self.base = self._zygote
            self._offered |= self._loaded
            self._loaded.clear()
        videos = videos_of(bindings)
        if videos:
            await self._have(LIBRARY)
        images = {name: media for name, media in bindings.items() if name not in videos}
        key = tuple((name, media.sha256) for name, media in images.items())
        group = self._groups.get(key)
        if group is not None and not group.lost:
            self._groups.move_to_end(key)
            return group
        if not 0 < len(key) <= MAX_IMAGES or not self._max_groups:
            return self.base
        if key not in self._seen:
            self._seen[key] = None
            if len(self._seen) > _REMEMBERED:
                self._seen.popitem(last=False)
            return self.base
        async with self._making:
            if key not in self._groups or self._groups[key].lost:
                files = [self._pixels.file(media) for media in images.values()]
                self._groups[key] = await self.base.group(images, files)
            while len(self._groups) > self._max_groups:
                self._groups.popitem(last=False)[1].retire()
            return self._groups[key]

    async def close(self) -> None:
        """End every group; the zygote is left alone. Idempotent."""
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)
        for group in self._groups.values():
            group.lose()
        self._groups.clear()
        if isinstance(self.base, Group):
            self.base.lose()

    async def _have(self, library: str) -> None:
        """Wait until a library is loaded, unless it is from the start or cannot be."""
        while library not in self._loaded:
            self.notice(f"import {library}")
            if self._loading is None:
                return
            await asyncio.wait({self._loading})

    async def _load(self, found: set[str]) -> None:
        """Put a group that has the libraries in the zygote's place."""
        try:
            group = await self._zygote.group({}, (), sorted(self._loaded | found))
            try:
                news = await group.news.get()
            except BaseException:
                group.lose()
                raise
            if news["op"] != "ready":
                return  # it cannot be loaded: the code that imports it will see why
            self._loaded |= found
            old = [self.base, *self._groups.values()]
            self.base = group
            self._groups.clear()
            for forker in old:
                if isinstance(forker, Group):
                    forker.retire()
        except SandboxError:
            return  # the zygote died: whoever needs it next finds out
        finally:
            self._loading = None
