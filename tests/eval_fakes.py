"""Stand-ins for evaluations by dotted path: tasks, policies, a grader, a suite."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image

from pyvision_rl.config import PolicyConfig, RewardsConfig, TasksConfig
from pyvision_rl.errors import PolicyError, RewardError, TaskError
from pyvision_rl.media import image_media
from pyvision_rl.rendering.base import Renderer
from pyvision_rl.rewards.base import Grade
from pyvision_rl.suites.base import (
    Final,
    Item,
    Items,
    Report,
    Scored,
    Settings,
    Undecided,
    protocol_name,
)
from pyvision_rl.tasks.base import TaskSet
from pyvision_rl.types import Completion, Gold, SampleRequest, Task, TaskInput, Trajectory


def answer(text: str) -> str:
    return f"<answer>\n\\boxed{{{text}}}\n</answer>"


class Many:
    """Tasks ``item-0``, ``item-1`` and so on; scripts answer rightly but for every third."""

    made: ClassVar[list[int]] = []
    """Every place that was asked for."""

    def __init__(self, config: TasksConfig) -> None:
        self._count = int(config.options.get("count", 10))
        self._picture = bool(config.options.get("picture", False))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Task:
        if not 0 <= index < self._count:
            raise IndexError(index)
        Many.made.append(index)
        media = ()
        if self._picture:
            colour = (index % 256, 90, 30)
            media = (image_media(Image.new("RGB", (56, 56), colour)),)
        public = TaskInput(
            f"item-{index}", f"What is item-{index}?", media, f"c{index % 3}", "many"
        )
        return Task(public, Gold(f"thing {index}"))

    def ids(self) -> list[str]:
        return [f"item-{index}" for index in range(self._count)]

    def script(self, index: int) -> tuple[str, ...]:
        return (answer(f"thing {index}" if index % 3 else "something else"),)


class Unlisted:
    """The same tasks, from a set that does not tell its ids."""

    def __init__(self, config: TasksConfig) -> None:
        self._inner = Many(config)

    def __len__(self) -> int:
        return len(self._inner)

    def __getitem__(self, index: int) -> Task:
        return self._inner[index]


class SeedTeller:
    """A policy that answers with the seed it was given; fails while a file says so."""

    asked: ClassVar[list[tuple[str, int]]] = []
    """Task and seed of every turn."""

    def __init__(self, config: PolicyConfig, renderer: Renderer) -> None:
        self._renderer = renderer
        self._down = Path(str(config.options.get("down", "/nowhere")))

    async def sample(self, request: SampleRequest) -> Completion:
        SeedTeller.asked.append((request.task_id, request.seed))
        # Episodes end in another order than they begin in.
        await asyncio.sleep((request.seed % 7) / 2000)
        if self._down.exists() and request.task_id in self._down.read_text().split():
            raise PolicyError("the server is gone")
        return self._renderer.script(answer(str(request.seed)), ())

    def release(self, episode: str) -> None:
        pass

    async def close(self) -> None:
        pass


class EvenGrader:
    """Right for even numbers, half right for others; fails on tasks that a file names."""

    def __init__(self, config: RewardsConfig) -> None:
        self._down = Path(str(config.options.get("down", "/nowhere")))
        self._odd = bool(config.options.get("odd", False))

    async def __call__(self, task: Task, trajectory: Trajectory) -> Grade:
        if self._down.exists() and task.id in self._down.read_text().split():
            raise RewardError("the judge is gone")
        if trajectory.answer is None:
            return Grade(0.0, False, "no answer")
        right = (int(trajectory.answer) % 2 == 0) is not self._odd
        return Grade(1.0 if right else 0.5, right, "parity")


class Letters:
    """A suite of eight questions with two or four options; the file holds the right letters."""

    name = "letters"
    protocols: Mapping[str, Settings] = {
        "strict": Settings("Made up for tests.", temperature=0.25, samples=2, max_turns=3),
        "lenient": Settings("Made up for tests.", second_hand=True, max_context_tokens=900),
    }

    def tasks(self, path: Path, protocol: str, *, shuffle: int | None = None) -> TaskSet:
        if not path.exists():
            raise TaskError(f"no such file: {path}; get the data set of letters")
        items = []
        for number, line in enumerate(path.read_text().split()):
            options = tuple(f"option {k}" for k in range(2 if number % 2 else 4))
            facts = {"options": options, "letter": line}
            items.append(
                Item(f"q{number}", "Which?", Gold(line, "letter", facts), f"k{number % 2}")
            )
        return Items(self.name, items)

    def files(self, path: Path) -> tuple[Path, ...]:
        return (path,)

    def score(self, task: Task, final: Final, protocol: str) -> Grade | Undecided:
        said, gold = final.answer or "", task.gold.answer
        if protocol_name(self, protocol) == "lenient":
            said = said[:1]
        if said == "unclear":
            return Undecided("who knows")
        return Grade(float(said == gold), said == gold, "letter")

    def aggregate(self, items: Sequence[Scored], protocol: str) -> Report:
        means = [item.mean for item in items if item.scores]
        counts = {"items": len(means), "ungraded": len(items) - len(means)}
        numbers = {"overall": sum(means) / len(means) if means else 0.0}
        return Report("overall", numbers, counts, ("eight items are few",))


class Says:
    """A policy that answers each task as ``policy.options`` says, task id -> answer."""

    def __init__(self, config: PolicyConfig, renderer: Renderer) -> None:
        self._renderer = renderer
        self._answers = dict(config.options)

    async def sample(self, request: SampleRequest) -> Completion:
        return self._renderer.script(answer(str(self._answers.get(request.task_id, "A"))), ())

    def release(self, episode: str) -> None:
        pass

    async def close(self) -> None:
        pass


def item_asked(body: dict[str, Any]) -> int:
    """Return the number of the item that a request to a judge is about."""
    said = re.findall(r"item-(\d+)", str(body["messages"][-1]["content"]))
    return int(said[-1])


class Codes:
    """A policy that always writes code."""

    def __init__(self, config: PolicyConfig, renderer: Renderer) -> None:
        self._renderer = renderer

    async def sample(self, request: SampleRequest) -> Completion:
        text = "<code>\n```python\nprint(1)\n```\n</code>"
        return self._renderer.script(text, request.limits.stop)

    def release(self, episode: str) -> None:
        pass

    async def close(self) -> None:
        pass
