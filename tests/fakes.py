"""Small stand-ins that tests name by dotted path in a config."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace

from PIL import Image

from pyvision_rl.config import PolicyConfig, RewardsConfig, SandboxConfig, TasksConfig
from pyvision_rl.errors import PolicyError, RewardError
from pyvision_rl.media import image_media
from pyvision_rl.rendering.base import Renderer
from pyvision_rl.rewards.base import Grade
from pyvision_rl.sandbox.base import SandboxLimits, Session
from pyvision_rl.sandbox.pool import ZygoteSandbox
from pyvision_rl.tracking.base import Tracked
from pyvision_rl.types import (
    Completion,
    Execution,
    Gold,
    Media,
    SampleRequest,
    Task,
    TaskInput,
    Trajectory,
    VideoFacts,
)


def a_video(name: str = "film", *, width: int = 56, height: int = 56, source=None) -> Media:
    """Return the record of a video of 64 frames, 8 a second; there is no file behind it."""
    digest = hashlib.sha256(name.encode()).hexdigest()
    return Media("video", digest, width, height, source, VideoFacts(64, 8.0, 8.0))


class Colours:
    """Eight tasks with a plain picture each."""

    def __init__(self, config: TasksConfig) -> None:
        self._names = ["red", "lime", "blue", "cyan", "magenta", "yellow", "black", "white"]

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Task:
        name = self._names[index]
        picture = image_media(Image.new("RGB", (56, 56), name))
        public = TaskInput(f"colour-{index}", "Which digit?", (picture,), category=f"c{index % 2}")
        return Task(public, Gold(name))

    def script(self, index: int) -> tuple[str, ...]:
        return (
            "<code>\n```python\nplt.imshow(image_clue_0)\nplt.show()\n```\n</code>",
            f"<answer>\n\\boxed{{{self._names[index]}}}\n</answer>",
        )


class ParityGrader:
    """Right when the episode has an even number of sampled characters: a random model's rewards
    then differ inside every group, without any skill."""

    def __init__(self, config: RewardsConfig) -> None:
        pass

    async def __call__(self, task: Task, trajectory: Trajectory) -> Grade:
        even = sum(len(t.text) for t in trajectory.turns) % 2 == 0
        return Grade(float(even), even, "parity")


class BrokenGrader:
    """Grades nothing."""

    def __init__(self, config: RewardsConfig) -> None:
        pass

    async def __call__(self, task: Task, trajectory: Trajectory) -> Grade:
        raise RewardError("the judge is gone")


class GreySandbox:
    """The zygote sandbox, but every picture the model is shown is plain grey."""

    def __init__(self, config: SandboxConfig) -> None:
        self._inner = ZygoteSandbox(config)

    async def open(
        self, bindings: Mapping[str, Media], limits: SandboxLimits, seed: int
    ) -> GreySession:
        return GreySession(await self._inner.open(bindings, limits, seed))

    async def close(self) -> None:
        await self._inner.close()


class GreySession:
    def __init__(self, inner: Session) -> None:
        self._inner = inner

    async def run(self, code: str) -> Execution:
        done = await self._inner.run(code)
        grey = [image_media(Image.new("RGB", (m.width, m.height), "grey")) for m in done.images]
        return replace(done, images=tuple(grey))

    async def close(self) -> None:
        await self._inner.close()


class Unreachable:
    """A policy whose server is gone."""

    def __init__(self, config: PolicyConfig, renderer: Renderer) -> None:
        pass

    async def sample(self, request: SampleRequest) -> Completion:
        raise PolicyError("the server is gone")

    def release(self, episode: str) -> None:
        pass

    async def close(self) -> None:
        pass


class FileTracker:
    """A tracker whose server is a file beside the run folder: one line per step it did not have."""

    package = ""

    def __init__(self, run: Tracked) -> None:
        self.run_id = run.run_id or f"{run.project}-{run.name}"
        self._file = run.folder.with_name(f"{self.run_id}.tracked")

    def log(self, step: int, values: Mapping[str, float], time: float) -> None:
        with self._file.open("a+") as file:
            file.seek(0)
            if step not in [json.loads(line)["step"] for line in file]:
                file.write(json.dumps({"step": step, **values}) + "\n")

    def close(self) -> None:
        pass


class BrokenTracker:
    """A tracker whose server is gone."""

    package = ""

    def __init__(self, run: Tracked) -> None:
        self.run_id = "lost"

    def log(self, step: int, values: Mapping[str, float], time: float) -> None:
        raise ConnectionError("the server is gone")

    def close(self) -> None:
        raise ConnectionError("the server is gone")


class SlowGrader:
    """Never ready: a step that waits for it ends only by force."""

    def __init__(self, config: RewardsConfig) -> None:
        pass

    async def __call__(self, task: Task, trajectory: Trajectory) -> Grade:
        await asyncio.sleep(3600)
        return Grade(0.0, False, "late")
