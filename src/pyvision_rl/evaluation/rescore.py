"""Stored episodes graded again: with another protocol, grader or judge, and without the model.

In: a run folder and a config whose ``[rewards]`` may differ from the run's. Out: a run folder of
the verb ``rescore`` with the same episodes, their new grades and a result that names where it came
from and which grades changed. The run itself is only read. What selection made of the episodes is
not carried over: it followed from the old rewards.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pyvision_rl.config import Config
from pyvision_rl.config_file import load_config
from pyvision_rl.errors import ConfigError, RewardError
from pyvision_rl.evaluation.episodes import EpisodeFile, Place
from pyvision_rl.evaluation.evaluate import Sample
from pyvision_rl.evaluation.grading import Grading, groups_of
from pyvision_rl.evaluation.items import Item, item_of
from pyvision_rl.evaluation.protocol import (
    NAME,
    config_hash,
    grading_facts,
    read_protocol,
)
from pyvision_rl.evaluation.reading import Episodes
from pyvision_rl.evaluation.result import write_result
from pyvision_rl.evaluation.suite import suite_facts, with_protocol
from pyvision_rl.metrics import rollout_metrics
from pyvision_rl.runs import RunWriter
from pyvision_rl.runs_codec import SavedRollout
from pyvision_rl.runs_files import replace_file, writing
from pyvision_rl.same_config import other_sections


@dataclass(frozen=True, slots=True)
class Rescored:
    """What grading again changed."""

    episodes: int
    accuracy_before: float | None
    accuracy: float | None
    changed: int
    """Episodes that were right, wrong or ungraded and now are something else."""
    flips: Mapping[str, int]
    """``right -> wrong`` and so on, those that stayed as they were too."""


def rescore_config(run: Path, overrides: Sequence[str] = (), protocol: str = "") -> Config:
    """Return a run's config with other ``[rewards]``.

    Args:
        run: The run folder.
        overrides: ``rewards.…=value``.
        protocol: Of the run's suite; empty keeps it.

    Raises:
        ConfigError: Another section would change, or the protocol is none of the suite.
    """
    before, config = load_config(run), load_config(run, overrides)
    if other := other_sections(before.model_dump(mode="json"), config, {"rewards": True}):
        raise ConfigError(
            f"--set reaches [{other[0]}]: grading again can change [rewards] only; the episodes "
            "are what they were"
        )
    return with_protocol(config, protocol) if protocol else config


def rescore(
    run: Path, out: Path, config: Config, report: Callable[[str], None] = lambda _: None
) -> Rescored:
    """Grade the episodes of ``run`` by ``config`` and write a run folder.

    Raises:
        RunError: ``run`` holds no episodes, or ``out`` holds something.
        RewardError: Nothing could be graded; the folder is written.
    """
    episodes = Episodes(run)
    old: list[Item] = []
    new: list[Item] = []
    with ExitStack() as stack:
        grading = stack.enter_context(Grading(config.rewards))
        writer = stack.enter_context(RunWriter(out, config, verb="rescore"))
        _link_media(run / "media", out / "media")
        _note_protocol(run, out, config)
        before: Mapping[str, float] = {}
        for number, step in enumerate(episodes.steps, 1):
            pairs = list(episodes.of_step(step))
            old += [item_of(index, saved) for index, saved in pairs]
            graded = _graded(grading, pairs)
            with EpisodeFile(out, config, step) as file:
                file.seal(graded, list(graded))
            now = grading.stats()
            counted = {name: value - before.get(name, 0.0) for name, value in now.items()}
            before = now
            writer.metrics(step, rollout_metrics(groups_of(list(graded.values()))) | counted)
            new += [item_of(place[0], saved) for place, saved in graded.items()]
            report(f"graded step {number} of {len(episodes.steps)}: {len(new)} episodes")
    facts = _facts(run, episodes, config, old, new)
    result = write_result(out, config, new, {"rescored": facts})
    if result.overall.accuracy is None:
        raise RewardError(f"none of {len(new)} episodes could be graded: {new[-1].why}")
    flips: dict[str, int] = facts["flips"]
    changed = sum(count for name, count in flips.items() if len(set(name.split(" -> "))) > 1)
    return Rescored(len(new), facts["accuracy_before"], result.overall.accuracy, changed, flips)


def state(sample: Sample) -> str:
    """Return what a sample counts as: right, wrong, failed or ungraded."""
    if sample.correct is None:
        return "failed" if sample.counts else "ungraded"
    return "right" if sample.correct else "wrong"


def _graded(
    grading: Grading, pairs: Sequence[tuple[int, SavedRollout]]
) -> dict[Place, SavedRollout]:
    """The episodes of a step with new grades, in order."""
    bare = [replace(saved, advantage=None, reason=None) for _, saved in pairs]
    graded = grading.grade(bare)
    if grading.add_terms:
        groups = [grading.add_terms(group) for group in groups_of(graded)]
        flat = [t for group in groups for t in group.trajectories]
        graded = [replace(s, trajectory=t) for s, t in zip(graded, flat, strict=True)]
    return {
        (index, saved.trajectory.rollout): saved
        for (index, _), saved in zip(pairs, graded, strict=True)
    }


def _facts(
    run: Path, episodes: Episodes, config: Config, old: Sequence[Item], new: Sequence[Item]
) -> dict[str, Any]:
    info = episodes.reader.info
    changed: dict[str, list[str]] = {}
    flips: Counter[str] = Counter()
    rescaled = 0
    for was, now in zip(old, new, strict=True):
        name = f"{state(was.sample)} -> {state(now.sample)}"
        flips[name] += 1
        if state(was.sample) != state(now.sample):
            changed.setdefault(name, []).append(now.name)
        rescaled += was.sample.score != now.sample.score
    from pyvision_rl.evaluation.evaluate import score

    return {
        "from": str(run),
        "verb": info.verb,
        "created": info.created,
        "grading_before": grading_facts(load_config(run)),
        "grading": grading_facts(config),
        "accuracy_before": score([item.sample for item in old]).accuracy,
        "flips": dict(sorted(flips.items())),
        "changed": changed,
        "other_score": rescaled,
        "skipped": list(episodes.problems),
        "superseded": episodes.superseded,
    }


def _note_protocol(run: Path, out: Path, config: Config) -> None:
    """How the episodes were asked, as their run noted it, and how they are graded now."""
    facts = read_protocol(run) | {
        "grading": grading_facts(config),
        "suite": suite_facts(config),
        "config_sha256": config_hash(config),
    }
    replace_file(out / NAME, [json.dumps(facts, indent=1, ensure_ascii=False)])


def _link_media(source: Path, target: Path) -> None:
    """The pictures under a second name, or copies where there are no links; they never change.

    What is a symbolic link stays behind: a copy of it would be a picture (``media.saved_file``).
    """
    with writing(target):
        for file in sorted(source.glob("*")) if source.is_dir() else ():
            if file.is_symlink():
                continue
            try:
                if file.suffix != ".png":
                    raise OSError("only pictures are never written again")
                os.link(file, target / file.name)
            except OSError:
                shutil.copyfile(file, target / file.name)
