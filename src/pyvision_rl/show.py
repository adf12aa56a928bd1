"""A run folder, a step or one trajectory as text on a terminal.

In: a run folder, and perhaps a step, a task id and a rollout index. Out: something rich can print.
All of a trajectory's text is shown, nothing cut. Model text is hostile: it is never read as rich
markup, and control characters are shown as symbols, so it cannot move the cursor or hide a line.
Images are named by size and file; whoever can draw them passes what does so.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import groupby
from pathlib import Path
from typing import Any, TypeAlias

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from pyvision_rl.errors import RunError
from pyvision_rl.frames_seen import frames_seen
from pyvision_rl.parsing import split_code
from pyvision_rl.present import flat
from pyvision_rl.runs import RunReader
from pyvision_rl.runs_codec import SavedRollout
from pyvision_rl.types import (
    Execution,
    GiveAnswer,
    Malformed,
    Media,
    Message,
    RunCode,
    TaskInput,
    TokenCount,
    Trajectory,
    Turn,
)
from pyvision_rl.types import Text as TextPart
from pyvision_rl.usage import observed

Draw: TypeAlias = Callable[[Media], RenderableType | None]
"""From an image to what draws it; None if it cannot be drawn."""

# Control characters, bidirectional overrides (they reorder what a person reads), zero-width
# characters, line separators, and lone surrogates (they cannot be printed at all).
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\ufeff\ud800-\udfff]"
)


def sanitize(text: str) -> str:
    """Return text safe to print: line breaks and tabs stay, other control characters are shown."""
    return _UNSAFE.sub(_visible, text.replace("\r\n", "\n"))


def render_run(
    path: Path,
    step: int | None = None,
    id: str | None = None,
    rollout: int | None = None,
    draw: Draw = lambda _: None,
) -> RenderableType:
    """Return a run's summary, a step's table, or one task's trajectories turn by turn.

    Args:
        path: The run folder.
        step: Alone: the table of that step. With ``id``: where to look; None takes the last step
            that has it.
        id: Task id: show its trajectories in full.
        rollout: Only the one with this index in its group.
        draw: Draws the images of trajectories.

    Raises:
        RunError: No run folder, or it has no such step, task or rollout.
    """
    reader = RunReader(path)
    if id is None and rollout is None:
        return _summary(reader) if step is None else _step_table(reader, step)
    chosen = _choose(reader, step, id, rollout)
    return Group(*(part for saved in chosen for part in render_rollout(saved, draw)))


def render_rollout(saved: SavedRollout, draw: Draw = lambda _: None) -> Iterator[RenderableType]:
    """Yield one trajectory from the question to the reward."""
    trajectory = saved.trajectory
    yield Rule(_text(f"{saved.task.id} · rollout {trajectory.rollout} · step {saved.step}"))
    yield _fields(
        {
            "category": saved.task.input.category or "-",
            "reference": saved.task.gold.answer,
            "images": ", ".join(_image(m) for m in saved.task.input.media) or "none",
        }
    )
    yield from filter(None, map(draw, saved.task.input.media))
    for message in trajectory.prompt:
        yield _heading(f"prompt ({message.role})", "cyan")
        yield _indent(_text(_message_text(message)))
    for index, turn in enumerate(trajectory.turns):
        yield from _render_turn(index, turn, draw)
    yield _heading("outcome", "cyan")
    yield _indent(_fields(_outcome(saved)))


def _summary(reader: RunReader) -> RenderableType:
    info, steps, metrics = reader.info, reader.steps(), reader.metrics()
    fields = {
        "run": str(reader.path),
        "verb": info.verb,
        "created": info.created,
        "command": info.command,
        "versions": ", ".join(f"{name} {version}" for name, version in info.versions.items()),
    }
    if info.resumed:
        fields["resumed"] = ", ".join(f"after step {entry.get('step')}" for entry in info.resumed)
    if steps:
        last = list(reader.trajectories(steps[-1]))
        fields["rollouts"] = f"{len(steps)} steps ({steps[0]} to {steps[-1]}); last: {_count(last)}"
    sizes = reader.size()
    fields["size"] = ", ".join(f"{part} {_bytes(size)}" for part, size in sizes.items() if size)
    parts: list[RenderableType] = [_fields(fields)]
    if metrics:
        parts += [_heading(f"metrics ({len(metrics)} lines)", "cyan"), _metrics_table(metrics)]
    parts += _result(reader.path / "result.json", reader.problems)
    notes = [f"{e.get('name')}: {e.get('text')}" for e in reader.events()] + reader.problems
    parts += [_text(note, "yellow") for note in notes]
    return Group(*parts)


def _result(file: Path, problems: list[str]) -> list[RenderableType]:
    """Return what the run found, if it says so; a file that cannot be read is a problem."""
    if not file.exists():
        return []
    try:
        result = json.loads(file.read_bytes())
        told = _by_category(result) if "overall" in result else _counts(result)
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        problems.append(f"{file.name} cannot be read: {error!r}")
        return []
    return [_heading("result", "cyan"), told]


def _counts(result: Mapping[str, Any]) -> Table:
    return _fields({name: _value(value) for name, value in flat(result)})


def _by_category(result: Mapping[str, Any]) -> Table:
    """Return an evaluation's result: a row per number, a column per category."""
    columns = {"all": result["overall"], **result["categories"]}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for name in columns:
        table.add_column(_text(name), justify="right")
    for name, value in result.get("headline", {}).items():
        table.add_row(_text(f"headline: {name}"), _text(_value(value)))
    # A category without videos has no numbers of frames.
    for name in result["overall"]:
        table.add_row(name, *(_text(_value(numbers.get(name))) for numbers in columns.values()))
    return table


def _metrics_table(metrics: Sequence[Mapping[str, Any]]) -> Table:
    """Return each number where it first stands and where it last does."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("metric")
    for name in ("first", "last", "step"):
        table.add_column(name, justify="right")
    names = list(dict.fromkeys(n for line in metrics for n in line if n not in ("step", "time")))
    for name in names:
        having = [line for line in metrics if name in line]
        first, last = having[0], having[-1]
        row = (name, _value(first[name]), _value(last[name]), str(last.get("step", "")))
        table.add_row(*(_text(cell) for cell in row))
    return table


def _step_table(reader: RunReader, step: int) -> RenderableType:
    """Return one table per task: what its rollouts did, and what became of them."""
    saved = list(reader.trajectories(step))
    parts: list[RenderableType] = [_text(f"step {step}: {_count(saved)}", "bold")]
    for task_id, members in groupby(saved, key=lambda s: s.task.id):
        group = list(members)
        task = group[0].task
        what = f"  {task.input.category}, reference {task.gold.answer}"
        parts.append(_text(f"\n{task_id}", "cyan").append(sanitize(what), "dim"))
        parts.append(_indent(_group_table(group)))
    return Group(*parts)


def _group_table(group: Sequence[SavedRollout]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name, width, side in (
        *(("rollout", 7, "right"), ("calls", 5, "right"), ("end", 11, "left")),
        *(("answer", 12, "left"), ("reward", 7, "right"), ("advantage", 9, "right")),
        ("kept", 10, "left"),
    ):
        justify: Any = side
        table.add_column(name, min_width=width, justify=justify, overflow="fold")
    for s in group:
        t = s.trajectory
        row = (
            *(str(t.rollout), str(t.num_tool_calls), t.end.value),
            "-" if t.answer is None else t.answer,
            "-" if t.reward is None else _value(t.reward.total),
            "-" if s.advantage is None else f"{s.advantage:+.3f}",
            s.reason or "yes",
        )
        table.add_row(*(_text(cell) for cell in row), style="" if s.kept else "dim")
    return table


def _choose(
    reader: RunReader, step: int | None, id: str | None, rollout: int | None
) -> list[SavedRollout]:
    steps = reversed(reader.steps()) if step is None else (step,)
    seen: set[str] = set()
    for each in steps:
        saved = list(reader.trajectories(each))
        seen.update(s.task.id for s in saved)
        found = [
            s for s in saved if id in (None, s.task.id) and rollout in (None, s.trajectory.rollout)
        ]
        if found:
            return found
    where = str(reader.path) if step is None else f"{reader.path}, step {step}"
    if id is None or id in seen:
        raise RunError(f"{where}: no rollout {rollout} of {'any task' if id is None else id}")
    near = get_close_matches(id, seen, 3) or sorted(seen)[:3]
    raise RunError(f"{where}: no task {id!r}; {len(seen)} tasks, e.g. {', '.join(near) or 'none'}")


def _render_turn(index: int, turn: Turn, draw: Draw) -> Iterator[RenderableType]:
    cost = f"{turn.num_tokens} tokens, {turn.sample_s:.2f} s, stopped at {turn.stop.value}"
    if turn.observed != TokenCount():
        cost += f"; then given {_tokens(turn.observed)}"
    yield _heading(f"turn {index + 1}: {_kind(turn)}", "green", cost)
    yield from (_indent(part) for part in _turn_text(turn))
    if turn.execution is not None:
        yield from _render_execution(turn.execution, draw)
    if turn.observation is None:
        return
    if turn.execution is None:
        yield _heading("observation", "magenta")
        yield _indent(_text(_message_text(turn.observation.message)))


def _render_execution(execution: Execution, draw: Draw) -> Iterator[RenderableType]:
    lost = ", variables lost" if execution.state_lost else ""
    note = f"{execution.duration_s:.3f} s{lost}"
    failed = execution.status.value != "ok"
    yield _heading(f"execution: {execution.status.value}", "red" if failed else "magenta", note)
    if execution.output:
        yield _indent(_text(execution.output.rstrip("\n")))
    if execution.error:
        yield _indent(_text(execution.error.rstrip("\n"), "red"))
    for media in execution.images:
        yield _indent(_text(f"image {_image(media)}", "blue"))
        yield from filter(None, [draw(media)])
    if not (execution.output or execution.error or execution.images):
        yield _indent(_text("(no output)", "dim"))


def _turn_text(turn: Turn) -> Iterator[RenderableType]:
    """Yield the whole text of a turn, its code highlighted in place."""
    code = turn.action.code if isinstance(turn.action, RunCode) else ""
    before, _, after = split_code(turn.text) if code else (turn.text, "", "")
    style = "dim" if code else ""
    if before.strip():
        yield _text(before.strip("\n"), style)
    if code:
        yield Syntax(
            sanitize(code).strip("\n"),
            "python",
            theme="ansi_dark",
            background_color="default",
            word_wrap=True,
        )
    if after.strip():
        yield _text(after.strip("\n"), style)


def _outcome(saved: SavedRollout) -> dict[str, str]:
    trajectory, reward = saved.trajectory, saved.trajectory.reward
    fields = {
        "end": trajectory.end.value,
        "answer": "none" if trajectory.answer is None else trajectory.answer,
    }
    if trajectory.error:
        fields["error"] = trajectory.error
    if reward is None:
        fields["reward"] = "not graded"
    else:
        parts = " + ".join(f"{name} {_value(value)}" for name, value in reward.parts.items())
        by = f", by {reward.rung}" if reward.rung else ""
        why = f" ({reward.why})" if reward.why else ""
        fields["correct"] = ("yes" if reward.correct else "no") + by + why
        fields["reward"] = f"{_value(reward.total)} = {parts}" if parts else _value(reward.total)
    fields["advantage"] = "none" if saved.advantage is None else f"{saved.advantage:+.4f}"
    fields["kept"] = "yes" if saved.kept else f"no: {saved.reason}"
    return fields | _used(saved.task.input, trajectory)


def _used(task: TaskInput, trajectory: Trajectory) -> dict[str, str]:
    """What the episode was given and saw, as far as its record tells."""
    fields = {}
    if (first := trajectory.prompted) is not None:
        given = f"given {_tokens(first)} in the prompt, {_tokens(observed(trajectory))} after it"
        fields["tokens"] = f"wrote {sum(t.num_tokens for t in trajectory.turns)}; {given}"
    if any(m.video for m in task.media):
        frames = frames_seen(task, trajectory)
        fields["frames"] = (
            f"fetched {frames.fetched} ({frames.fetched_unique} different), shown {frames.shown} "
            f"({frames.shown_unique} different): {frames.share:.1%} of {frames.total}"
        )
    return fields


def _tokens(count: TokenCount) -> str:
    return f"{count.text} text + {count.visual} visual"


def _count(saved: Sequence[SavedRollout]) -> str:
    reasons = Counter(s.reason for s in saved if s.reason is not None)
    left = ", ".join(f"{count} {name}" for name, count in sorted(reasons.items()))
    kept = sum(s.kept for s in saved)
    return f"{len(saved)} trajectories, {kept} kept" + (f", left out: {left}" if left else "")


def _kind(turn: Turn) -> str:
    match turn.action:
        case RunCode():
            return "code"
        case GiveAnswer(answer):
            return f"answer {answer!r}"
        case Malformed(why):
            return f"malformed ({why})"


def _message_text(message: Message) -> str:
    return "".join(p.text if isinstance(p, TextPart) else f"[{_image(p)}]" for p in message.parts)


def _image(media: Media) -> str:
    size = f"{media.width}×{media.height}"
    if media.video is not None:
        where = media.source if isinstance(media.source, Path) else media.sha256[:12]
        return f"video {size}, {media.video.num_frames} frames, {where}"
    return f"{size} media/{media.sha256[:12]}"


def _value(value: float | str | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:  # what three digits round to 1,000 is the next unit's
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} TB" if size < 999.5 else f"{size:,.0f} TB"


def _fields(values: Mapping[str, str]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in values.items():
        grid.add_row(_text(name), _text(value))
    return grid


def _heading(title: str, style: str, note: str = "") -> Text:
    heading = _text(f"\n{title}", f"bold {style}")
    return heading.append(sanitize(f"  {note}"), "dim") if note else heading


def _indent(part: RenderableType) -> Padding:
    return Padding(part, (0, 0, 0, 2))


def _text(value: str, style: str = "") -> Text:
    # Text() takes no markup; a plain str handed to rich would be read as markup.
    return Text(sanitize(value), style=style, overflow="fold")


def _visible(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else f"\\u{code:04x}"
