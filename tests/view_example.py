"""A made run for the viewer: every ending, pictures of pictures, a film, hostile text.

In: a folder. Out: run folders in it (``rl``, ``study``), written by the package's own writer from
scripted episodes, and what ``pvrl view`` exports of them (``site``, ``study-site``, ``one.html``):

    python -m tests.view_example OUT

No model and no sandbox runs; the executions are made up, the prompts and token ids are not.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image, ImageDraw

from pyvision_rl.advantages import credit
from pyvision_rl.config import Config, PromptsConfig
from pyvision_rl.images import VisionSpec, tokens_of_size
from pyvision_rl.media import image_media
from pyvision_rl.parsing import CODE_CLOSE, parse
from pyvision_rl.prompts import PromptBuilder
from pyvision_rl.rendering.chars import CharsRenderer
from pyvision_rl.runs import RunWriter
from pyvision_rl.runs_codec import SavedRollout
from pyvision_rl.study import conduct
from pyvision_rl.study.config import StudyConfig
from pyvision_rl.study.notes import DONE, Note, write_note
from pyvision_rl.types import (
    EndReason,
    ExecStatus,
    Execution,
    GiveAnswer,
    Gold,
    ImageSource,
    Media,
    Reward,
    Segment,
    StopReason,
    Task,
    TaskInput,
    TokenCount,
    Trajectory,
    Turn,
    VideoFacts,
    VideoFrames,
)

HOSTILE = (
    "</script><script>window.HACKED=1</script><!-- <img src=x onerror='window.HACKED=1'> "
    "\u2028\u2029\u202egnp.exe\u202c \x00\x1b[2J &amp; \ud800 \"quoted\" 'single' \\u003c ${x} `b`"
)
"""What must be shown as text, and do nothing."""
TRACEBACK = """Traceback (most recent call last):
  File "<cell 1>", line 1, in <module>
NameError: name 'imgae' is not defined"""


@dataclass(frozen=True, slots=True)
class Said:
    """One turn: what is written, and what its code does."""

    text: str
    execution: Execution | None = None
    stop: StopReason | None = None


def code(body: str, before: str = "") -> str:
    """Return a turn that asks to run code."""
    return f"{before}\n<code>\n```python\n{body}\n```\n</code>".lstrip("\n")


def answer(text: str, before: str = "") -> str:
    """Return a turn that answers."""
    return f"{before}\n<answer>\n\\boxed{{{text}}}\n</answer>".lstrip("\n")


def shows(*pictures: Media, sources: tuple[object, ...] = (), **more: object) -> Execution:
    """Return an execution that ran and showed pictures."""
    known = tuple(sources) or (None,) * len(pictures)
    output = str(more.pop("output", ""))
    return Execution(
        ExecStatus.OK,
        output,
        images=pictures,
        duration_s=0.08,
        sources=known,  # type: ignore[arg-type]
        parts=(output, *range(len(pictures))) if output else (),
        **more,  # type: ignore[arg-type]
    )


def played(
    task: Task,
    rollout: int,
    said: Sequence[Said],
    end: EndReason = EndReason.ANSWERED,
    **more: object,
) -> Trajectory:
    """Return the trajectory of a scripted episode, with token ids and made log-probabilities."""
    prompts, renderer = PromptBuilder(PromptsConfig()), CharsRenderer()
    rng = random.Random(len(task.id) + rollout)
    prompt = prompts.prompt(task.input).messages
    segments = [renderer.open(prompt)]
    shown = sum(len(m.media) for m in prompt)
    turns: list[Turn] = []
    for number, turn in enumerate(said):
        completion = renderer.script(_writable(turn.text), (CODE_CLOSE,))
        told = tuple(-rng.expovariate(3.0) for _ in completion.token_ids)
        completion = replace(completion, logprobs=told, stop=turn.stop or completion.stop)
        segments.append(Segment(completion.token_ids, True, told))
        action = parse(turn.text, completion.stop)
        observation, given = None, None
        if number + 1 < len(said) and not isinstance(action, GiveAnswer):
            if turn.execution is None:
                observation = prompts.refusal(getattr(action, "why", "it came too late"))
            else:
                observation = prompts.observation(turn.execution, shown)
            given = renderer.observe(
                replace(completion, stop=StopReason.STOP_STRING), observation.message
            )
            segments.append(given)
        shown += len(turn.execution.images) if turn.execution else 0
        turns.append(
            Turn(
                text=turn.text,
                stop=completion.stop,
                action=action,
                num_tokens=len(completion.token_ids),
                policy_version=3,
                observation=observation,
                execution=turn.execution,
                sample_s=0.31,
                observed=TokenCount() if given is None else counted(given),
            )
        )
    last = turns[-1].action if turns else None
    found = last.answer if isinstance(last, GiveAnswer) else None
    trajectory = Trajectory(
        task.id, rollout, tuple(segments), prompt, tuple(turns), end, found,
        prompted=counted(segments[0]),
    )  # fmt: skip
    return replace(trajectory, **more)  # type: ignore[arg-type]


def counted(segment: Segment) -> TokenCount:
    """Return the tokens of a given segment as Qwen2.5-VL would see them."""
    visual = sum(tokens_of_size(m.width, m.height, VisionSpec()) for m in segment.media)
    return TokenCount(len(segment.token_ids) - len(segment.media), visual)


def graded(trajectory: Trajectory, gold: str) -> Trajectory:
    """Return the trajectory with accuracy and the tool term; a failed one as it is."""
    if trajectory.end is EndReason.FAILED or trajectory.error:
        return trajectory
    right = trajectory.answer == gold
    parts = {"accuracy": float(right), "tool_use": 0.1 * trajectory.num_tool_calls * right}
    why = "rule: equal integers" if right else "rule: different"
    return replace(trajectory, reward=Reward(parts, right, why))


def scene(
    seed: int, width: int = 640, height: int = 420
) -> tuple[Media, tuple[int, int, int, int]]:
    """Return a picture with many discs and one small digit, and the box around the digit."""
    rng = random.Random(seed)
    image = Image.new("RGB", (width, height), (236, 232, 222))
    draw = ImageDraw.Draw(image)
    for _ in range(90):
        x, y, r = rng.randrange(width), rng.randrange(height), rng.randrange(6, 26)
        color = tuple(rng.randrange(90, 230) for _ in range(3))
        draw.ellipse((x - r, y - r, x + r, y + r), fill=color)  # type: ignore[arg-type]
    left, top = rng.randrange(width - 59), rng.randrange(height - 39)
    draw.rectangle((left + 18, top + 10, left + 42, top + 30), fill="white", outline="black")
    draw.text((left + 27, top + 14), str(seed % 10), fill="black")
    return image_media(image), (left, top, left + 60, top + 40)


def part(media: Media, box: tuple[int, int, int, int], scale: int = 1) -> Media:
    """Return a piece of a picture, enlarged."""
    whole = Image.frombytes("RGB", (media.width, media.height), media.source)  # type: ignore[arg-type]
    piece = whole.crop(box)
    return image_media(piece.resize((piece.width * scale, piece.height * scale)))


def film(name: str = "film", file: Path | None = None) -> Media:
    """Return the record of a video of 240 frames; there is no file behind it."""
    digest = hashlib.sha256(name.encode()).hexdigest()
    return Media("video", digest, 320, 180, file, VideoFacts(240, 24.0, 10.0))


def sheet(frames: Sequence[int]) -> Media:
    """Return a contact sheet of frames of the film."""
    image = Image.new("RGB", (4 * 80, -(-len(frames) // 4) * 45))
    draw = ImageDraw.Draw(image)
    for place, number in enumerate(frames):
        x, y = place % 4 * 80, place // 4 * 45
        draw.rectangle((x, y, x + 78, y + 43), fill=(number, 90, 255 - number))
        draw.text((x + 4, y + 4), f"frame {number}", fill="white")
    return image_media(image)


def looking(seed: int) -> tuple[Task, list[Trajectory]]:
    """Return a task that is solved by looking twice: a crop, then a crop of that crop."""
    picture, box = scene(seed)
    gold = str(seed % 10)
    public = TaskInput(
        f"needle-{seed}", "Which digit is on the white card?", (picture,), "hard", "needle"
    )
    task = Task(public, Gold(gold, "integer"))
    first = part(picture, box, 4)
    second = part(first, (60, 30, 180, 130), 2)
    near = ImageSource("image_clue_0", box, True)
    nearer = ImageSource("image_clue_1", (60, 30, 180, 130), False)
    crop = code(
        f"x = image_clue_0.crop({box})\nprint(x.size)\nplt.imshow(x)\nplt.show()", "I look closer."
    )
    again = code("plt.imshow(image_clue_1.crop((60, 30, 180, 130)))\nplt.show()", "Closer still.")
    looked = shows(first, sources=(near,), output="(60, 40)\n")
    error = Execution(ExecStatus.RAISED, "", TRACEBACK, duration_s=0.01)
    return task, [
        played(
            task,
            0,
            [Said(crop, looked), Said(again, shows(second, sources=(nearer,))), Said(answer(gold))],
        ),
        played(
            task,
            1,
            [Said(code("imgae"), error), Said(crop, looked), Said(answer(gold, "I see it."))],
        ),
        played(task, 2, [Said(answer("0" if gold != "0" else "1", "A guess:"))]),
        played(task, 3, [Said(crop, looked), Said(again)], EndReason.TURN_LIMIT),
    ]


def watching(name: str) -> tuple[Task, list[Trajectory]]:
    """Return a task on a video, whose frames are fetched, and some shown."""
    video, (picture, _) = film(name), scene(5, 200, 150)
    public = TaskInput(
        f"film-{name}", "When does the door open?", (picture, video), "video", "clips"
    )
    task = Task(public, Gold("117", "integer"))
    coarse, fine = tuple(range(0, 240, 20)), tuple(range(112, 124))

    def look(frames: tuple[int, ...]) -> Execution:
        seen = VideoFrames("video_clue_0", frames)
        more = VideoFrames("video_clue_0", tuple(range(frames[0], frames[-1] + 1)), 3)
        return shows(sheet(frames), sources=(seen,), fetched=(more,))

    turns = [
        Said(code("show_sheet(video_clue_0[::20])"), look(coarse)),
        Said(code("show_sheet(video_clue_0[112:124])"), look(fine)),
    ]
    return task, [
        played(task, 0, [*turns, Said(answer("117"))]),
        played(task, 1, [turns[0], Said(answer("120"))]),
        played(
            task, 2, [*turns, turns[0], Said(answer("117"))], EndReason.IMAGE_LIMIT, answer=None
        ),
        played(task, 3, [], EndReason.FAILED, error="SandboxError: the zygote ended", segments=()),
    ]


def failing() -> tuple[Task, list[Trajectory]]:
    """Return a task without media, on which everything goes wrong."""
    task = Task(TaskInput("plain-1", "What is 6 times 7?", (), "", "arithmetic"), Gold("42"))
    lost = Execution(ExecStatus.KILLED, "1\n2\n", "stopped after 30 s", (), 30.0, True)
    oom = Execution(ExecStatus.OOM, "", "out of memory: more than 1024 MB", (), 2.5, True)
    loop = code("n = 0\nwhile True:\n    n += 1")
    plain = Said("It is fortytwo.")
    cut = Said("Let me think. " * 120, stop=StopReason.LENGTH)
    return task, [
        played(task, 0, [Said(loop, lost), Said(code("[0] * 10**11"), oom), Said(answer("42"))]),
        played(task, 1, [plain, plain, plain], EndReason.MALFORMED),
        played(task, 2, [cut], EndReason.TOKEN_LIMIT),
        played(task, 3, [Said(answer("42"))], error="grading failed: the judge is gone"),
    ]


def hostile() -> tuple[Task, list[Trajectory]]:
    """Return a task all of whose text attacks the page."""
    picture, box = scene(7, 60, 700)
    public = TaskInput(f"evil/{HOSTILE}", HOSTILE, (picture,), "<b>bold</b>", "'\"><script>")
    task = Task(public, Gold(HOSTILE, "text"))
    bad = Execution(ExecStatus.RAISED, HOSTILE, HOSTILE, (part(picture, box),), 0.5)
    runs = code(f"# {HOSTILE}\nprint('</script>')", HOSTILE)
    return task, [
        played(task, k, [Said(runs, bad), Said(HOSTILE), Said(answer(HOSTILE))]) for k in range(4)
    ]


def saved_groups(step: int) -> list[SavedRollout]:
    """Return what a step keeps of its groups: records with rewards, advantages and reasons."""
    groups = [looking(10 * step + 1), looking(4), watching("door"), failing(), hostile()]
    records: list[SavedRollout] = []
    for number, (task, trajectories) in enumerate(groups):
        members = [graded(t, task.gold.answer) for t in trajectories]
        given = credit([t.reward.total for t in members if t.reward is not None])
        credits = iter(given)
        for t in members:
            advantage = None if t.reward is None else next(credits)
            records.append(SavedRollout(task, t, advantage, _reason(t, given, number, step), step))
    return records


def _reason(t: Trajectory, given: Sequence[float], group: int, step: int) -> str | None:
    if t.end is EndReason.FAILED:
        return "infra"
    if t.reward is None:
        return "ungraded"
    if t.end in (EndReason.TOKEN_LIMIT, EndReason.IMAGE_LIMIT):
        return "over_length"
    if not any(given):
        return "zero_std"
    return "surplus" if group == 1 and step % 2 == 0 else None


def write_run(path: Path, steps: int = 4, *, verb: str = "rl", seed: int = 0) -> Path:
    """Write a run folder; the pictures that only step 3 has are missing."""
    rng = random.Random(seed)
    with RunWriter(path, Config(seed=seed), verb, command="pvrl rl tiny.toml <b>") as writer:
        for step in range(1, steps + 1):
            writer.rollouts(step, saved_groups(step), write_media=step != 3)
        for step in range(1, 3 * steps + 1):
            numbers: dict[str, float | str] = {
                "reward": 0.2 + 0.02 * step + rng.gauss(0, 0.03),
                "accuracy": 0.2 + 0.015 * step,
                "tool_calls": 1.0 + step / 8,
                "kept_share": 0.5,
                "train_entropy": 1.2 / step,
                "train_grad_norm": float("nan") if step == 5 else 0.8,
                "device": "cpu",
            }
            if step % 4 == 0:
                numbers["eval_accuracy"] = 0.3 + 0.01 * step
            writer.metrics(step, numbers)
        writer.event("short_batch", "3 of 16 groups", 2)
        writer.event("alarm", f"entropy collapsed {HOSTILE}")
    return path


def write_study(path: Path) -> Path:
    """Write a study folder: two variants, two seeds, an evaluation each, no cold start's runs."""
    names = ("full", "no_tool")
    variants = [{"name": n, "label": n.replace("_", " ")} for n in names]
    units = []
    for name in names:
        for seed in (0, 1):
            base = f"variants/{name}/seed-{seed}"
            write_run(path / base / "rl", 2, seed=seed)
            write_run(path / base / "eval-test", 1, verb="eval", seed=seed)
            result = {"overall": {"accuracy": 0.4 + 0.1 * seed}, "categories": {}}
            (path / base / "eval-test" / "result.json").write_text(json.dumps(result))
            units += [f"{base}/rl", f"{base}/eval-test"]
    study = {
        "title": "Does the tool term matter?",
        "seeds": [0, 1],
        "cold_starts": [{"config": "tiny_image_sft"}],
        "rl": {"config": "tiny_image_rl"},
        "variants": variants,
        "evaluations": [{"name": "test"}],
    }
    conduct.write_study(StudyConfig.model_validate(study), path, quick=True)
    for unit in units:
        write_note(path, Note(unit, DONE, "0", 0, 1.0, "2026-01-01T00:00:00+00:00"))
    (path / "tables.md").write_text(
        "# Does the tool term matter?\n\n| a | b |\n|---|---|\n| 1 | 2 |\n"
    )
    (path / "result.json").write_text(
        json.dumps({"title": "Does the tool term matter?", "models": {}})
    )
    return path


def _writable(text: str) -> str:
    # A lone surrogate has no token; the text of the turn keeps it.
    return text.encode("utf-8", "replace").decode()


def main(out: Path) -> None:
    """Write everything into a new or empty folder."""
    write_run(out / "rl")
    write_study(out / "study")
    from pyvision_rl.view.export import export_folder
    from pyvision_rl.view.single import export_file

    export_folder(out / "rl", out / "site")
    export_folder(out / "study", out / "study-site")
    export_file(out / "rl", out / "one.html")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
