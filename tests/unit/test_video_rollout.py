"""From a row with a video to a run folder: frames are looked at as pictures like all others."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from pyvision_rl.assemble import assemble, build_tasks
from pyvision_rl.config import Config
from pyvision_rl.media import open_image
from pyvision_rl.runs import RunReader, RunWriter
from pyvision_rl.types import EndReason, ExecStatus
from tests.clips import counting, grey_of, write_clip

LOOK = """<code>
```python
print(sorted(n for n in globals() if "_clue_" in n), image_clue_1.size)
plt.imshow(image_clue_1)
plt.show()
```
</code>"""
ANSWER = "<answer>\n\\boxed{7}\n</answer>"


def test_frames_instead_of_the_video_are_bound_shown_and_written(tmp_path: Path) -> None:
    write_clip(tmp_path / "film.mp4", counting(50))
    rows = tmp_path / "tasks.jsonl"
    rows.write_text(json.dumps({"id": "f", "question": "?", "answer": "7", "video": "film.mp4"}))
    config = Config.model_validate(
        {
            "tasks": {"path": str(rows)},
            "prompts": {"context": "frames", "num_frames": 2},
            "rollout": {"group_size": 1},
        }
    )
    task = build_tasks(config.tasks)[0]
    with assemble(config, scripts={"f": (LOOK, ANSWER)}) as assembly:
        groups = assembly.rollout([task], seed=1)
    with RunWriter(tmp_path / "run", config, "rollout") as writer:
        writer.rollouts(1, groups)
    (saved,) = RunReader(tmp_path / "run").trajectories()
    trajectory = saved.trajectory
    assert trajectory.end is EndReason.ANSWERED
    ran = trajectory.turns[0].execution
    assert ran is not None
    assert (ran.status, ran.output) == (
        ExecStatus.OK,
        "['image_clue_0', 'image_clue_1'] (64, 48)\n",
    )
    # Pieces of 25 frames: the second's centre is frame 37.
    shown = [np.asarray(open_image(media)).mean() for media in trajectory.media[:2]]
    assert np.allclose(shown, [grey_of(12), grey_of(37)], atol=4)
    assert saved.task.input.media[0].source == tmp_path / "film.mp4"
    assert saved.task == task
    observation = trajectory.turns[0].observation
    assert observation is not None
    assert "image_clue_2" in str(observation.message.parts[0])
