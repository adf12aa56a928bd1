"""The process that opens video files for the driver: what it meets there can only end itself.

In: requests of ``video`` as JSON lines on stdin. Out: on stdout, for each, replies of one shape:
four bytes, big-endian, that tell the length of a JSON object, the object, and as many bytes of
pixels as its ``bytes`` says. A file that cannot be read gives ``{"error": ...}``. Memory and the
time of one reply are limited. Not a sandbox: it keeps a run alive, not a machine safe.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from pyvision_rl.sandbox.inside.frames import FrameReader, VideoError

MEMORY = 4 * 2**30
"""Address space, bytes."""
HEAD = 4
"""Bytes of a reply that tell the length of its JSON."""

Reply: TypeAlias = tuple[dict[str, Any], bytes]


def main() -> None:
    """Answer requests until stdin ends."""
    with contextlib.suppress(ValueError):  # a lower one is there already
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # What a library prints must not get between the replies.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    for line in sys.stdin.buffer:
        request = json.loads(line)
        try:
            # The kernel ends a process that is stuck in a reply, even if its driver is gone.
            signal.alarm(request["alarm_s"])
            for reply in _answers(request):
                _send(out, *reply)
                signal.alarm(request["alarm_s"])
        except MemoryError:
            _send(out, {"error": f"needs more than {MEMORY / 2**30:g} GiB of memory"})
        except Exception as error:  # noqa: BLE001 a decoder raises any type on a broken file
            _send(out, {"error": str(error) or type(error).__name__})
        finally:
            signal.alarm(0)


def _answers(request: dict[str, Any]) -> Iterator[Reply]:
    path = request["path"]
    with contextlib.closing(FrameReader(path)) as reader:
        if request["ask"] == "frames":
            size = request["size"]
            yield from _frames(reader, request["numbers"], size and tuple(size))
            return
        if request["ask"] == "check":
            _check(path, reader)
        yield (
            {
                "num_frames": reader.num_frames,
                "fps": reader.fps,
                "duration_s": reader.duration_s,
                "width": reader.width,
                "height": reader.height,
            },
            b"",
        )


def _frames(
    reader: FrameReader, numbers: list[int], size: tuple[int, int] | None
) -> Iterator[Reply]:
    """The frames asked for, one by one: memory holds one."""
    for number in numbers:
        pixels = reader.get([number], size)[0]
        data = pixels.tobytes()
        head = {
            "time_s": float(reader.timestamps[number][0]),
            "width": pixels.shape[1],
            "height": pixels.shape[0],
            "bytes": len(data),
        }
        yield head, data


def _check(path: str, reader: FrameReader) -> None:
    """Raise VideoError when the file is cut short, or its first or last frame is not readable."""
    import av

    size = Path(path).stat().st_size
    with Path(path).open("rb") as file, av.open(file, "r") as container:
        stream = container.streams.video[0]
        entries = stream.index_entries
        lost = sum(e.pos + e.size > size for e in entries)
        told = 0.0
        if stream.duration and stream.time_base:
            told = float(stream.duration * stream.time_base)
        elif len(container.streams) == 1:  # else the container may tell of its sound
            told = ((container.duration or 0) - max(container.start_time or 0, 0)) / av.time_base
    if lost:
        raise VideoError(f"it is cut short: {lost} of {len(entries)} frames lie behind its end")
    # A last frame may be held for long: that is no fault.
    if reader.duration_s < 0.75 * told:
        found = f"{reader.duration_s:.1f} s of frames where its header tells of {told:.1f} s"
        raise VideoError(f"it is cut short: {found}")
    for number in (0, reader.num_frames - 1):
        reader.get([number])


def _send(out: BinaryIO, head: dict[str, Any], data: bytes = b"") -> None:
    text = json.dumps(head).encode()
    out.write(len(text).to_bytes(HEAD, "big") + text + data)
    out.flush()


if __name__ == "__main__":
    main()
