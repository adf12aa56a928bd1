"""Your own task set: a class with a length and an index, named in the config by its dotted path.

``python examples/new_task.py`` runs the scripts of three tasks in the sandbox and grades them.
With this folder on PYTHONPATH, ``pvrl`` takes the class too: ``--set tasks.name=new_task:Counting``.
"""

from __future__ import annotations

import tomllib

import numpy as np
from PIL import Image, ImageDraw
from pydantic import BaseModel, ConfigDict, Field

from pyvision_rl.collect import collect_scripts
from pyvision_rl.config import Config, TasksConfig
from pyvision_rl.media import image_media
from pyvision_rl.registry import parse_options
from pyvision_rl.types import Gold, Task, TaskInput

CONFIG = """
[tasks]
name = "new_task:Counting"
limit = 3
options = { seed = 1, most = 9 }
"""
CODE = "red = (np.asarray(image_clue_0) == (200, 0, 0)).all(-1)\nprint(red.sum() / 256)"


class Options(BaseModel):
    """What ``[tasks.options]`` may hold; any other key is an error that names the nearest one."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    seed: int = 0
    most: int = Field(6, gt=0, le=16)


class Counting:
    """How many red squares of 16 x 16 pixels are there?"""

    def __init__(self, config: TasksConfig) -> None:
        self.options = parse_options(Options, config.options, "tasks.options")

    def __len__(self) -> int:
        return 1000

    def __getitem__(self, index: int) -> Task:
        rng = np.random.default_rng([self.options.seed, index])
        image = Image.new("RGB", (112, 112), "white")
        cells = rng.permutation(16)[: rng.integers(1, self.options.most + 1)]
        for row, column in zip(*np.divmod(cells * 28, 112), strict=True):
            box = (column, row * 28, column + 15, row * 28 + 15)
            ImageDraw.Draw(image).rectangle(box, fill=(200, 0, 0))
        question = TaskInput(f"counting-{index}", "How many red squares?", (image_media(image),))
        return Task(question, Gold(str(len(cells)), "integer"))

    def script(self, index: int) -> tuple[str, ...]:
        """Return turns that solve the task: optional, used by SFT and scripted rollouts."""
        answer = self[index].gold.answer
        return (f"<code>\n```python\n{CODE}\n```\n</code>", f"<answer>\\boxed{{{answer}}}</answer>")


if __name__ == "__main__":
    config = Config.model_validate(tomllib.loads(CONFIG))
    for done in collect_scripts(config, config.tasks):
        print(done.task_id, "code printed", done.turns[0].execution.output.strip(), end=", ")
        print("answer", done.answer, dict(done.reward.parts))
