"""Rolling out without learning: trajectories from scripts, and ``pvrl rollout``.

In: a config and a task set. Out: graded trajectories, in memory or in a run folder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from PIL import Image

from pyvision_rl.advantages import assign
from pyvision_rl.assemble import assemble, build_tasks, chunks, num_tasks
from pyvision_rl.config import Config, TasksConfig
from pyvision_rl.errors import TrainError
from pyvision_rl.images import VisionSpec, scaled_size
from pyvision_rl.media import image_media, open_image
from pyvision_rl.metrics import rollout_metrics
from pyvision_rl.rollout import derive_seed
from pyvision_rl.runs import RunWriter
from pyvision_rl.tasks.base import TaskSet, with_scripts
from pyvision_rl.types import EndReason, Media, Task, Trajectory


def collect_scripts(
    config: Config,
    tasks_config: TasksConfig | None,
    count: int | None = None,
    *,
    max_wrong: float = 0.0,
    seen_by: VisionSpec | None = None,
) -> list[Trajectory]:
    """Return the scripted solutions of a task set, executed in the sandbox, one per task.

    Args:
        config: Its policy section gives the renderer; the policy itself is replaced by scripts.
        tasks_config: A task set with scripts.
        count: The first ``count`` tasks; None takes all.
        max_wrong: Share of scripts that may answer wrongly.
        seen_by: Replace each image by what a model of this pixel rule sees of it. Changes no
            token and no patch, and keeps thousands of trajectories small.

    Raises:
        ConfigError: The task set is missing or has no scripts.
        TrainError: A script failed to run to its answer, or too many answers are wrong: a bug of
            the task set.
    """
    tasks = build_tasks(tasks_config)
    total = min(count or len(tasks), num_tasks(tasks, tasks_config))
    scripts: dict[str, tuple[str, ...]] = {}
    trajectories: list[Trajectory] = []
    name = tasks_config.name if tasks_config else ""
    wrong: list[Trajectory] = []
    with assemble(config, scripts=scripts) as assembly:
        for chunk in chunks(total):
            groups = assembly.rollout(
                draw_tasks(tasks, chunk, scripts, name),
                seed=derive_seed(config.seed, "scripts", chunk.start),
                group_size=1,
            )
            for group in groups:
                trajectory = group.trajectories[0]
                _check_script(trajectory, name)
                if trajectory.reward is None or not trajectory.reward.correct:
                    wrong.append(trajectory)
                trajectories.append(shrink(trajectory, seen_by) if seen_by else trajectory)
    if len(wrong) > max_wrong * total:
        raise TrainError(
            f"{len(wrong)} of {total} scripts of task set {name!r} answer wrongly, e.g. "
            f"{wrong[0].task_id!r} with answer {wrong[0].answer!r}; max_wrong = {max_wrong}"
        )
    return trajectories


def run_rollout(config: Config, out: Path, report: Callable[[str], None] = lambda _: None) -> Path:
    """Roll out every task of ``[tasks]`` (up to its limit) and write a run folder.

    With ``policy.name = "scripted"`` the task set's own scripts are played back.
    """
    tasks = build_tasks(config.tasks)
    total = num_tasks(tasks, config.tasks)
    scripts: dict[str, tuple[str, ...]] | None = None
    name = config.tasks.name if config.tasks else ""
    if config.policy.name == "scripted":
        scripts = {}
        with_scripts(tasks, name)  # before anything is written
    with (
        assemble(config, scripts=scripts) as assembly,
        RunWriter(out, config, verb="rollout") as writer,
    ):
        for step, chunk in enumerate(chunks(total), 1):
            drawn = draw_tasks(tasks, chunk, scripts, name)
            seed = derive_seed(config.seed, "rollout", chunk.start)
            rolled = assembly.rollout(drawn, seed=seed)
            groups = [assign(g, config.selection.advantage) for g in rolled]
            # Nothing is selected: a rollout run keeps all it made, for whoever reads it.
            writer.rollouts(step, groups)
            writer.metrics(step, rollout_metrics(groups) | assembly.stats())
            report(f"rolled out {chunk.stop} of {total} tasks")
    return out


def draw_tasks(
    tasks: TaskSet, chunk: range, scripts: dict[str, tuple[str, ...]] | None, name: str
) -> list[Task]:
    """Return a chunk of tasks, drawn; with ``scripts``, put their scripts there instead of others.

    Raises:
        ConfigError: Scripts are wanted and the task set has none.
    """
    drawn = [tasks[index] for index in chunk]
    if scripts is None:
        return drawn
    scripted = with_scripts(tasks, name)
    scripts.clear()
    scripts.update({task.id: scripted.script(i) for task, i in zip(drawn, chunk, strict=True)})
    return drawn


def _check_script(trajectory: Trajectory, name: str) -> None:
    """Refuse a script that would teach an error, or no answer."""
    raised = next((e for t in trajectory.turns if (e := t.execution) and e.status != "ok"), None)
    if trajectory.end is EndReason.ANSWERED and raised is None:
        return
    what = raised.error if raised else trajectory.error
    raise TrainError(
        f"a script of task set {name!r} does not run to its answer: {trajectory.task_id!r} ended "
        f"{trajectory.end} with answer {trajectory.answer!r} {what}".rstrip()
    )


def shrink(trajectory: Trajectory, vision: VisionSpec) -> Trajectory:
    """Return the trajectory with each context image at the size the model sees it.

    A picture that would be seen otherwise for it stays as it is (``images.scaled_size``).
    """
    segments = tuple(
        replace(s, media=tuple(_shrunk(m, vision) for m in s.media)) for s in trajectory.segments
    )
    return replace(trajectory, segments=segments, prompt=(), turns=())


def _shrunk(media: Media, vision: VisionSpec) -> Media:
    size = scaled_size(media, vision)
    if size == (media.width, media.height):
        return media
    return image_media(open_image(media).resize(size, Image.Resampling.BICUBIC))
