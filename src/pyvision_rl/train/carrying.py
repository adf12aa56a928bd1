"""Carried groups in a checkpoint: everything needed to train on them after a restart.

In: candidates. Out: plain values and tensors, and from them equal candidates; or the groups that
single trajectories were carried from. A picture is stored once, its pixels compressed; a file that
is only named by its path stays where it is.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pyvision_rl.runs_codec import SavedRollout, encode, media_of
from pyvision_rl.runs_decode import decode
from pyvision_rl.types import Candidate, Group, Media


def pack(carried: Sequence[Candidate]) -> dict[str, Any]:
    """Return the candidates as plain values and uint8 tensors."""
    saved = [[*_records(c.group)] for c in carried]
    media = {m.sha256: m.source for group in saved for s in group for m in media_of(s)}
    return {
        "groups": [
            {"rank": c.rank, "born": c.born, "members": [encode(s) for s in group]}
            for c, group in zip(carried, saved, strict=True)
        ],
        "pixels": {k: _squeezed(v) for k, v in media.items() if isinstance(v, bytes)},
        "files": {k: str(v) for k, v in media.items() if isinstance(v, Path)},
    }


def unpack(state: Mapping[str, Any]) -> tuple[Candidate, ...]:
    """Return the candidates that ``pack`` was given."""
    sources: dict[str, bytes | Path] = {k: Path(v) for k, v in state["files"].items()}
    sources |= {k: zlib.decompress(v.numpy().tobytes()) for k, v in state["pixels"].items()}

    def find(bare: Media) -> Media:
        return replace(bare, source=sources.get(bare.sha256))

    return tuple(
        Candidate(_group([decode(m, find) for m in c["members"]]), c["rank"], c["born"])
        for c in state["groups"]
    )


def regrouped(carried: Sequence[Candidate]) -> tuple[Group, ...]:
    """Return candidates of one trajectory each as groups: those that were generated together.

    An epoch's border may draw a task twice in a step: then a rollout comes twice too.
    """
    found: dict[tuple[int, str, float, int], list[Group]] = {}
    seen: Counter[tuple[int, str, float, int]] = Counter()
    for candidate in carried:
        unit = candidate.group
        origin = (candidate.born, unit.task.id, candidate.rank)
        member = (*origin, unit.trajectories[0].rollout)
        found.setdefault((*origin, seen[member]), []).append(unit)
        seen[member] += 1
    return tuple(
        Group(
            units[0].task,
            tuple(t for unit in units for t in unit.trajectories),
            tuple(a for unit in units for a in unit.advantages or ()),
        )
        for units in found.values()
    )


def _records(group: Group) -> list[SavedRollout]:
    assert group.advantages is not None
    pairs = zip(group.trajectories, group.advantages, strict=True)
    return [SavedRollout(group.task, trajectory, advantage) for trajectory, advantage in pairs]


def _group(members: Sequence[SavedRollout]) -> Group:
    advantages = tuple(m.advantage for m in members if m.advantage is not None)
    return Group(members[0].task, tuple(m.trajectory for m in members), advantages)


def _squeezed(pixels: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(zlib.compress(pixels, 1)), dtype=torch.uint8)
