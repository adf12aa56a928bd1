"""Your own task set: a class with a length and an index, named in the config by its dotted path.

``python examples/new_task.py`` plays the scripts of three tasks in the sandbox and grades them.
``PYTHONPATH=examples pvrl check tasks CONFIG --set tasks.name=new_task:Counting`` checks the set.
"""

from __future__ import annotations

import tomllib

import numpy as np
from PIL import Image, ImageDraw
from pydantic import BaseModel, Field

from pyvision_rl.collect import collect_scripts
from pyvision_rl.config import Config, TasksConfig
from pyvision_rl.media import image_media
from pyvision_rl.registry import parse_options
from pyvision_rl.types import Gold, Task, TaskInput

CONFIG = 'tasks = { name = "new_task:Counting", limit = 3, options = { most = 9 } }'
CODE = "red = (np.asarray(image_clue_0) == (200, 0, 0)).all(-1)\nprint(red.sum() // 256)"


class Options(BaseModel, extra="forbid"):
    """What ``[tasks.options]`` may hold; any other key is an error that names the nearest one."""

    seed: int = 0
    most: int = Field(6, gt=0, le=16)


class Counting:
    """How many red squares of 16 x 16 pixels are there? A task depends on its index alone."""

    def __init__(self, config: TasksConfig) -> None:
        self.options = parse_options(Options, config.options, "tasks.options")

    def __len__(self) -> int:
        return 1000

    def __getitem__(self, index: int) -> Task:
        rng = np.random.default_rng([self.options.seed, index])
        cells = rng.permutation(16)[: rng.integers(1, self.options.most + 1)]
        picture = Image.new("RGB", (112, 112), "white")
        for x, y in (28 * np.stack([cells % 4, cells // 4], axis=1)).tolist():
            ImageDraw.Draw(picture).rectangle((x, y, x + 15, y + 15), fill=(200, 0, 0))
        shown = TaskInput(f"counting-{index}", "How many red squares?", (image_media(picture),))
        return Task(shown, Gold(str(len(cells)), "integer"))

    def script(self, index: int) -> tuple[str, ...]:
        """Return turns that solve the task. Optional: for SFT and scripted rollouts."""
        answer = f"<answer>\n\\boxed{{{self[index].gold.answer}}}\n</answer>"
        return f"<code>\n```python\n{CODE}\n```\n</code>", answer


if __name__ == "__main__":
    config = Config.model_validate(tomllib.loads(CONFIG))
    for done in collect_scripts(config, config.tasks):
        print(done.task_id, done.turns[0].execution.output.strip(), done.answer, done.reward)
