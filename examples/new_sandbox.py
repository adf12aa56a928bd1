"""Your own sandbox: a class that opens sessions, named in the config. This one adds a helper.

``python examples/new_sandbox.py`` plays an episode in it. ``PYTHONPATH=examples pvrl check sandbox
new_sandbox:WithZoom`` tries every promise of ``pyvision_rl.sandbox.base`` on it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping

from pyvision_rl.assemble import assemble, build_tasks
from pyvision_rl.config import Config
from pyvision_rl.sandbox.base import SandboxLimits, Session
from pyvision_rl.sandbox.pool import ZygoteSandbox
from pyvision_rl.types import Execution, Media

CONFIG = """
tasks = { name = "new_task:Counting" }
sandbox = { name = "new_sandbox:WithZoom", wall_s = 5.0 }
"""
HELPER = "def zoom(image, box):\n    return image.crop(box).resize((200, 200))"
CODES = ("zoom(image_clue_0, (0, 0, 28, 28))", "import os; os._exit(1)", "zoom(image_clue_1, None)")


class WithZoom(ZygoteSandbox):
    """The zygote sandbox, with ``zoom(image, box)`` defined in every session."""

    async def open(self, bindings: Mapping[str, Media], limits: SandboxLimits, seed: int) -> Zooms:
        """Return a session whose namespace holds the bindings and ``zoom``."""
        return Zooms(await super().open(bindings, limits, seed))


class Zooms:
    """Runs the helper before the first block, and again whenever the variables were lost."""

    def __init__(self, session: Session) -> None:
        self.session, self.close, self.ready = session, session.close, False

    async def run(self, code: str) -> Execution:
        """Return what happened to one block."""
        if not self.ready:
            await self.session.run(HELPER)
        execution = await self.session.run(code)
        self.ready = not execution.state_lost
        return execution


if __name__ == "__main__":
    config = Config.model_validate(tomllib.loads(CONFIG))
    task = build_tasks(config.tasks)[0]
    turns = [f"<code>\n```python\n{code}\n```\n</code>" for code in CODES]
    with assemble(config, scripts={task.id: [*turns, "<answer>0</answer>"]}) as assembly:
        group = assembly.rollout([task], seed=config.seed, group_size=1)[0]
    for turn in group.trajectories[0].turns[: len(CODES)]:
        done = turn.execution
        print(f"{turn.action.code}: {done.status}", [(m.width, m.height) for m in done.images])
