r"""The layout in which the released PyVision-RL models read what is around a task.

In: what a task holds, what code gave back. Out: the facts lines and observations that
``prompts.style = "pyvision"`` puts into a ``Prompt`` or ``Observation``. Tags, labels, numbering
and line breaks are those of the authors' code (``agents-x-project/PyVision-RL``, its two
environments with an image and with a video), because a checkpoint goes by them; the words of the
question template are ours. What code gave comes as::

    image  <tool_response>\n<interpreter>Text Result:\nTEXT\nImage Result:\nTAGS</interpreter>...
           <tool_response>\n<interpreter>\nText Result:\nTEXT</interpreter>...
    video  <tool_response>\n<interpreter>\nText Result:\nTEXT\nImage Result:\nTAGS</interpreter>...
           <tool_response>\n<interpreter>\nText Result:\nTEXT\n</interpreter>...

with ``\n\n</tool_response>`` behind, and the tags of pictures side by side. Tells nothing of the
grammar of turns (``parsing``) and binds nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pyvision_rl.template import encodable
from pyvision_rl.types import Execution, Media, Message, Observation, Part, Text
from pyvision_rl.video_prompt import VIDEO_NAME

_OPEN = "<tool_response>\n<interpreter>"
_CLOSE = "</interpreter>\n\n</tool_response>"


def facts_of(
    media: Sequence[Media], bindings: Mapping[str, Media], frames: Sequence[str] = ()
) -> dict[str, str]:
    """Return the texts of placeholders: sides of the first medium, and a line or three of each.

    Args:
        media: Of the task.
        bindings: What its code has.
        frames: Lines about the frames of videos that stand in the prompt.
    """
    sizes = [f"Image Width: {m.width}; Image Height: {m.height}" for m in media if not m.video]
    videos = enumerate(m for m in media if m.video)
    films = [line for k, m in videos for line in _film(VIDEO_NAME.format(k), m, bindings)]
    first = media[:1]
    return {
        "width": "".join(str(m.width) for m in first),
        "height": "".join(str(m.height) for m in first),
        "image_info": "\n".join((*sizes, *frames)),
        "video_info": "\n".join(films),
    }


def observed(
    ran: Execution,
    error: str,
    remarks: Sequence[str],
    shown: Sequence[tuple[str, Media]],
    media: Sequence[Media],
) -> Observation:
    """Return what code gave, in the layout of an image or of a video.

    Args:
        ran: What happened.
        error: Why the code did not run to its end; empty if it did.
        remarks: Of ours; they stand behind what was printed.
        shown: Name and picture.
        media: Of the task: the layout is that of a video if there is one.
    """
    text = _joined(ran.output.strip(), *remarks)
    with_video = any(m.video for m in media)
    parts = _laid_out(text, _joined(error), shown, with_video=with_video)
    return Observation(Message("user", parts), ran)


def _laid_out(
    text: str, error: str, shown: Sequence[tuple[str, Media]], *, with_video: bool
) -> tuple[Part, ...]:
    if error:
        error = f"Execution error: {error}"
        if not text and not shown:
            return (Text(f"{_OPEN}{error}{_CLOSE}"),)
        text = _joined(text, error)
    if not shown:
        end = "\n" if with_video else ""
        return (Text(f"{_OPEN}\nText Result:\n{text}{end}{_CLOSE}"),)
    parts: list[Part] = []
    begin = f"{_OPEN}\n" if with_video else _OPEN
    before = f"{begin}Text Result:\n{text}\nImage Result:\n"
    for name, media in shown:
        parts += [Text(f"{before}<{name}>"), media]
        before = f"</{name}>"
    return (*parts, Text(before + _CLOSE))


def _joined(*lines: str) -> str:
    """The lines that are not empty; lone surrogates cannot be encoded and are replaced."""
    return encodable("\n".join(line for line in lines if line))


def _film(name: str, media: Media, bindings: Mapping[str, Media]) -> Iterator[str]:
    assert media.video is not None
    yield f"Frame Width: {media.width}; Frame Height: {media.height};"
    yield f"Video Length: {media.video.num_frames}; Sample FPS: {media.video.fps:.2f}"
    if name in bindings:
        yield f"This video is loaded as the global variable `{name}`."
    else:
        yield "This video is not loaded; there are its frames only."
