"""Your own policy: a class whose ``sample`` writes one turn, named in the config. Without torch.

``python examples/new_policy.py`` rolls out three tasks of ``new_task`` with it. It can also be the
teacher of a model: roll out with it, then run SFT on the episodes that were graded right.
"""

from __future__ import annotations

import math
import random
import tomllib

from pyvision_rl.assemble import assemble, build_tasks
from pyvision_rl.config import Config, PolicyConfig
from pyvision_rl.rendering.base import Renderer
from pyvision_rl.types import Completion, SampleRequest, StopReason

CONFIG = """
tasks = { name = "new_task:Counting" }
policy = { name = "new_policy:LookOnce", options = { guesses = "123456" } }
"""
LOOK = "<code>\n```python\nplt.imshow(image_clue_0)\nplt.show()\n```\n</code>"


class LookOnce:
    """Shows the first image, then answers with a random character of the option ``guesses``."""

    def __init__(self, config: PolicyConfig, renderer: Renderer) -> None:
        self.guesses, self.renderer = config.options.get("guesses", "0123456789"), renderer

    async def sample(self, request: SampleRequest) -> Completion:
        """Return the next turn, with the ids it consists of and how likely each of them was."""
        if request.turn == 0:
            return self.renderer.script(LOOK, request.limits.stop)
        guess = random.Random(request.seed).choice(self.guesses)
        head, drawn = map(self.renderer.encode, ("<answer>\n\\boxed{", guess))
        tail = self.renderer.script("}\n</answer>").token_ids
        logprobs = [0.0] * len(head + drawn + tail)
        logprobs[len(head)] = -math.log(len(self.guesses))
        text = f"<answer>\n\\boxed{{{guess}}}\n</answer>"
        return Completion(head + drawn + tail, tuple(logprobs), text, StopReason.END)

    def release(self, episode: str) -> None:
        """Forget an episode: nothing is kept."""

    async def close(self) -> None:
        """Free the backend: there is none."""


if __name__ == "__main__":
    config = Config.model_validate(tomllib.loads(CONFIG))
    tasks = build_tasks(config.tasks)
    with assemble(config) as assembly:
        for group in assembly.rollout([tasks[i] for i in range(3)], seed=config.seed):
            rewards = {t.answer: t.reward.total for t in group.trajectories if t.reward}
            print(f"{group.task.id}: reward by answer {rewards}")
