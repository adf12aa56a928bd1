"""The demo's page: one task, solved (or not) by two models, as a person can look at it.

In: two run folders of evaluations on the same tasks. Out: one HTML file that needs nothing else:
images inline, code highlighted, no scripts. Everything a model wrote is escaped.
"""

from __future__ import annotations

import ast
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from PIL import Image
from pygments import highlight  # type: ignore[import-untyped]
from pygments.formatters import HtmlFormatter  # type: ignore[import-untyped]
from pygments.lexers import PythonLexer  # type: ignore[import-untyped]

from pyvision_rl.demo.film import film
from pyvision_rl.images import VisionSpec, smart_resize
from pyvision_rl.media import data_url, open_image
from pyvision_rl.parsing import split_code
from pyvision_rl.runs import RunReader
from pyvision_rl.runs_codec import SavedRollout
from pyvision_rl.show import sanitize
from pyvision_rl.types import ExecStatus, Media, RunCode, Turn
from pyvision_rl.video_prompt import VIDEO_NAME

_FORMATTER = HtmlFormatter(nowrap=True, style="friendly")
_MIN_SHOWN_PX = 168
"""Small pictures are enlarged, pixels kept square, until a person can see them."""
_MAX_CORNER = 1e9
"""Pixels; a larger number in code is no corner of a window."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One task as two models went about it."""

    looked: SavedRollout
    plain: SavedRollout


@dataclass(frozen=True, slots=True)
class Box:
    """A window of an image that code cut out, in percent of the image."""

    label: str
    left: float
    top: float
    width: float
    height: float


def choose(looked: Path, plain: Path, hard: Sequence[str] = ("hard",)) -> Sample | None:
    """Return the most telling task: hard, solved by a chain of looks, missed without them.

    Args:
        looked: Evaluation of the model trained with the tool reward.
        plain: Evaluation of the model trained without, on the same tasks.
        hard: Categories of the tasks that want a closer look.

    Returns:
        The first of the best by task and rollout; None if the runs share no graded task.
    """
    others = {
        (s.task.id, s.trajectory.rollout): s
        for s in RunReader(plain).trajectories()
        if s.trajectory.reward is not None
    }
    pairs = [
        Sample(s, others[key])
        for s in RunReader(looked).trajectories()
        if s.trajectory.reward is not None and (key := (s.task.id, s.trajectory.rollout)) in others
    ]
    return max(pairs, key=lambda sample: _worth(sample, hard), default=None)


def _worth(sample: Sample, hard: Sequence[str]) -> tuple[bool, bool, bool, int, bool]:
    looked, plain = sample.looked.trajectory, sample.plain.trajectory
    shown = sum(bool(t.execution and t.execution.images) for t in looked.turns)
    solved = looked.reward is not None and looked.reward.correct
    missed = plain.reward is not None and not plain.reward.correct
    return (
        solved and shown > 0,
        sample.looked.task.input.category in hard,
        missed,
        min(shown, 2),
        plain.num_tool_calls == 0,
    )


def write_page(
    sample: Sample | None,
    file: Path,
    *,
    happened: str,
    figure: Path,
    table: tuple[Sequence[str], Sequence[Sequence[str]]],
    notes: Mapping[str, str],
    max_pixels: int | None = None,
) -> None:
    """Write the page.

    Args:
        sample: The trajectories to show, side by side.
        file: The HTML file.
        happened: The sentence.
        figure: A PNG, put inline.
        table: Head and rows of the demo's table.
        notes: Small print: name -> text.
        max_pixels: What the model's images are shrunk to; shown beside the full image.
    """
    folder = Path(__file__).parent
    environment = Environment(loader=FileSystemLoader(folder), autoescape=True, trim_blocks=True)
    cards = []
    if sample is not None:
        cards = [
            _card("RL with the tool reward", sample.looked),
            _card("plain RL", sample.plain),
        ]
    page = environment.get_template("page.html").render(
        happened=happened,
        figure=data_url(figure.read_bytes()),
        head=table[0],
        rows=table[1],
        task=None if sample is None else _task(sample, max_pixels),
        cards=cards,
        notes=notes,
        code_style=Markup(_FORMATTER.get_style_defs(".code")),
    )
    file.write_text(page, encoding="utf-8")


def _task(sample: Sample, max_pixels: int | None) -> dict[str, object]:
    task = sample.looked.task
    still = [m for m in task.input.media if m.kind == "image"]
    videos = [m for m in task.input.media if m.kind == "video"]
    films = [film(m, VIDEO_NAME.format(k), sample.looked, _picture) for k, m in enumerate(videos)]
    seen = [] if max_pixels is None else [_picture(m, max_pixels) for m in still]
    return {
        "id": sanitize(task.id),
        "question": sanitize(task.input.question),
        "category": sanitize(task.input.category),
        "answer": sanitize(task.gold.answer),
        "images": [{**_picture(m), "boxes": _boxes(sample.looked, k)} for k, m in enumerate(still)],
        "films": films,
        "seen": seen,
    }


def _card(title: str, saved: SavedRollout) -> dict[str, object]:
    trajectory = saved.trajectory
    assert trajectory.reward is not None
    first = sum(len(m.media) for m in trajectory.prompt)
    turns = []
    for index, turn in enumerate(trajectory.turns):
        turns.append(_turn(index, turn, first))
        first += len(turn.execution.images) if turn.execution else 0
    parts = " + ".join(f"{name} {value:.3g}" for name, value in trajectory.reward.parts.items())
    return {
        "title": title,
        "turns": turns,
        "correct": trajectory.reward.correct,
        "answer": "none" if trajectory.answer is None else sanitize(trajectory.answer),
        "end": trajectory.end.value,
        "calls": trajectory.num_tool_calls,
        "reward": f"{trajectory.reward.total:.3g}" + (f" = {parts}" if parts else ""),
        "tokens": trajectory.num_sampled_tokens,
    }


def _turn(index: int, turn: Turn, first: int) -> dict[str, object]:
    code, before, after = "", turn.text, ""
    if isinstance(turn.action, RunCode):
        code = turn.action.code
        before, _, after = split_code(turn.text)
    execution = turn.execution
    pictures = []
    if execution is not None:
        pictures = [
            {**_picture(m), "label": f"image_clue_{first + k}"}
            for k, m in enumerate(execution.images)
        ]
    return {
        "number": index + 1,
        "before": sanitize(before.strip()),
        "code": _colored(code) if code else "",
        "after": sanitize(after.strip()),
        "tokens": turn.num_tokens,
        "ran": execution is not None,
        "failed": execution is not None and execution.status is not ExecStatus.OK,
        "status": "" if execution is None else execution.status.value,
        "milliseconds": 0 if execution is None else round(1000 * execution.duration_s),
        "output": "" if execution is None else sanitize(execution.output.rstrip()),
        "error": "" if execution is None else sanitize(execution.error.rstrip()),
        "pictures": pictures,
    }


def _colored(code: str) -> Markup:
    # Pygments escapes what it colours.
    return Markup(highlight(sanitize(code).strip("\n"), PythonLexer(), _FORMATTER).rstrip("\n"))


def _picture(media: Media, max_pixels: int | None = None) -> dict[str, object]:
    """Return an image for the page: its data, its size and the width to show it at."""
    if media.source is None:
        return {"data": "", "width": media.width, "height": media.height, "shown": _MIN_SHOWN_PX}
    image = open_image(media)
    if max_pixels is not None:
        spec = VisionSpec(min_pixels=min(max_pixels, VisionSpec().min_pixels))
        size = smart_resize(image.height, image.width, spec.factor, spec.min_pixels, max_pixels)
        image = image.resize(size[::-1], Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return {
        "data": data_url(buffer.getvalue()),
        "width": image.width,
        "height": image.height,
        "shown": image.width * max(1, _MIN_SHOWN_PX // max(1, image.width)),
    }


def _boxes(saved: SavedRollout, image: int) -> list[Box]:
    """Return the windows that the trajectory's code cut out of one image of the task."""
    media = [m for m in saved.task.input.media if m.kind == "image"][image]
    boxes = []
    for index, turn in enumerate(saved.trajectory.turns):
        if not isinstance(turn.action, RunCode):
            continue
        for left, top, right, bottom in crops(turn.action.code, f"image_clue_{image}"):
            across, down = 100 / media.width, 100 / media.height
            width, height = (right - left) * across, (bottom - top) * down
            boxes.append(Box(str(index + 1), left * across, top * down, width, height))
    return boxes


def crops(code: str, name: str) -> Iterator[tuple[float, float, float, float]]:
    """Yield the windows of ``name.crop((left, top, right, bottom))``, in order.

    The corners may be numbers, names that were given numbers before, and their sums.
    """
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    known: dict[str, float] = {}
    for statement in tree.body:
        for node in ast.walk(statement):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id=found), attr="crop"),
                    args=[ast.Tuple(elts=[*corners])],
                ) if found == name and len(corners) == 4:
                    left, top, right, bottom = (_number(c, known) for c in corners)
                    if left < right and top < bottom:  # never so for one that is not known
                        yield left, top, right, bottom
                case ast.Assign(targets=[ast.Name(id=target)], value=value):
                    known[target] = _number(value, known)
                case ast.Assign(targets=[ast.Tuple(elts=targets)], value=ast.Tuple(elts=values)):
                    for one, value in zip(targets, values, strict=False):
                        if isinstance(one, ast.Name):
                            known[one.id] = _number(value, known)


def _number(node: ast.expr, known: Mapping[str, float]) -> float:
    """The value of a number, a known name or a sum of two; NaN of anything else."""
    match node:
        case ast.Constant(value=int() | float() as value):
            return float(value) if abs(value) < _MAX_CORNER else math.nan
        case ast.Name(id=name):
            return known.get(name, math.nan)
        case ast.BinOp(left=left, op=ast.Add(), right=right) if not isinstance(left, ast.BinOp):
            return _number(left, known) + _number(right, known)
    return math.nan
