"""Whether an interrupted run left what ``--resume`` needs.

In: a verb and a run folder. Out: yes or no. Reads no file's content: whether it fits the config is
for the verb to say.
"""

from __future__ import annotations

from pathlib import Path

# The manifest is the last file of a checkpoint to be written.
_CHECKPOINTS, _EPISODES = "checkpoints/step_*/MANIFEST.json", "rollouts/step_*.jsonl"
_SAVED = {
    "rl": _CHECKPOINTS,
    "sft": _CHECKPOINTS,
    "eval": _EPISODES,
    "synthesize": _EPISODES,
}
"""Verb -> what it goes on from: whole checkpoints, or judged episodes."""


def can_go_on(verb: str, out: Path) -> bool:
    """Whether ``pvrl <verb> --resume <out>`` would find something to go on from."""
    return verb in _SAVED and (out / "run.json").exists() and any(out.glob(_SAVED[verb]))
