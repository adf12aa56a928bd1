"""What an episode meets inside a rollout worker of verl, and one episode run with it.

In: the folder that ``pvrl export-verl`` wrote, verl's tokenizer and processor, and a row of the
data set. Out: a graded trajectory and its row of tokens. The loop itself is ``rollout``'s, with
verl's server as its policy. Made once per worker process: verl makes a new agent loop for every
episode.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from pyvision_rl import sandbox as sandboxes
from pyvision_rl.assemble import sandbox_limits
from pyvision_rl.config import Config
from pyvision_rl.config_file import load_config
from pyvision_rl.errors import PVRLError
from pyvision_rl.integrations.verl.choice import masked_by
from pyvision_rl.integrations.verl.journal import Journal
from pyvision_rl.integrations.verl.server_policy import Server, ServerPolicy
from pyvision_rl.integrations.verl.tokens import Pads, Row, row_of, vision_of
from pyvision_rl.parsing import CODE_CLOSE
from pyvision_rl.policy.scripted import ScriptedPolicy
from pyvision_rl.prompts import PromptBuilder
from pyvision_rl.registry import resolve
from pyvision_rl.rendering import QwenRenderer
from pyvision_rl.rewards import build_rewarder
from pyvision_rl.rollout import Harness, derive_seed, run_groups
from pyvision_rl.runs_decode import decode
from pyvision_rl.runs_videos import noted_videos
from pyvision_rl.types import EndReason, Media, SampleLimits, Task, Trajectory

TRAIN = "train"
"""The split whose episodes are trained on; others are only graded."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where one episode stands in verl's run."""

    prompt: str
    """verl's id of the group, new each time a row is drawn."""
    rollout: int
    step: int
    split: str


@dataclass(frozen=True, slots=True)
class Played:
    """One episode, as ours and as verl's."""

    task: Task
    trajectory: Trajectory
    row: Row
    versions: tuple[int, int] | None
    """The oldest and newest step whose weights wrote it."""


@dataclass(frozen=True, slots=True)
class Bench:
    """Everything an episode meets, but for its policy."""

    config: Config
    harness: Harness
    pads: Pads
    journal: Journal
    folder: Path
    videos: Mapping[str, Path]

    async def play(
        self, line: str, place: Place, server: Server, sampling: Mapping[str, Any]
    ) -> Played:
        """Return one graded episode.

        Args:
            line: The task, as ``task_line`` of ``rows`` wrote it.
            place: Names the episode; the sandbox's randomness comes from it.
            server: Writes the turns.
            sampling: verl's own settings of this run of the data set.
        """
        task = decode(json.loads(line), self._find).task
        policy = ServerPolicy(server, self.harness.renderer, self.pads, sampling)
        seed = derive_seed(self.config.seed, place.split, place.step, place.prompt)
        try:
            [group] = await run_groups(
                replace(self.harness, policy=policy),
                [task],
                seed=seed,
                wanted=[(0, (place.rollout,))],
            )
            trajectory = group.trajectories[0]
            row = self._row(trajectory)
        except PVRLError as error:  # a picture that is gone, a prompt that cannot be rendered
            trajectory = _failed(task, place.rollout, error)
            row = self._row(trajectory)
        if place.split == TRAIN:
            self.journal.note(f"{place.prompt}_{place.rollout}", place.step, task, trajectory)
        return Played(task, trajectory, row, policy.versions)

    def _row(self, trajectory: Trajectory) -> Row:
        trained = masked_by(trajectory, self.config.selection) is None
        return row_of(trajectory, self.pads, self.harness.renderer.end_of_turn, trained=trained)

    def _find(self, bare: Media) -> Media:
        if bare.kind == "video":
            return replace(bare, source=self.videos.get(bare.sha256))
        return replace(bare, source=self.folder / "media" / f"{bare.sha256}.png")


@lru_cache(maxsize=4)
def bench_of(
    folder: Path, tokenizer: Any, processor: Any, loop: asyncio.AbstractEventLoop
) -> Bench:
    """Return the bench of this process; ``loop`` owns its sandbox connections.

    Raises:
        ConfigError: The folder's config does not fit the model, or something it names is not here.
    """
    config = load_config(folder)
    # Episodes come one at a time: nobody to keep step with.
    config = config.model_copy(
        update={"rollout": config.rollout.model_copy(update={"schedule": "async"})}
    )
    own, vision = vision_of(processor, config.policy.min_pixels, config.policy.max_pixels)
    renderer = QwenRenderer(tokenizer, vision)
    media = [renderer.encode(name) for name in ("<|image_pad|>", "<|video_pad|>")]
    harness = Harness(
        prompts=PromptBuilder(config.prompts),
        renderer=renderer,
        policy=ScriptedPolicy({}, renderer.script),  # each episode brings its own
        sandbox=resolve(config.sandbox.name, sandboxes.TABLE, "sandbox.name")(config.sandbox),
        rewarder=build_rewarder(config.rewards),
        config=config.rollout,
        sampling=SampleLimits(config.policy.max_new_tokens, stop=(CODE_CLOSE,)),
        sandbox_limits=sandbox_limits(config.sandbox),
    )
    return Bench(
        config=config,
        harness=harness,
        # A vocabulary without videos would spell the second in several ids.
        pads=Pads(media[0][0], vision, frozenset(i[0] for i in media if len(i) == 1), own),
        journal=Journal(folder, config),
        folder=folder,
        videos=noted_videos(folder / "media"),
    )


def _failed(task: Task, rollout: int, error: PVRLError) -> Trajectory:
    why = f"{type(error).__name__}: {error}"
    return Trajectory(task.id, rollout, (), (), (), EndReason.FAILED, error=why)
