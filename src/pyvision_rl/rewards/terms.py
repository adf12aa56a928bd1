"""Terms of the reward beyond accuracy and tool use, each a named part of it.

In: a group whose members were graded, and the options of ``[rewards.terms]``. Out: the group with
one more part in each graded reward. Here rather than in ``grading`` because a term may depend on
the whole group, which is known only when its last episode has been graded; it is added before
advantages are taken. Keeps nothing between groups, so a resumed run pays the same.

``format`` and ``curiosity`` are here to be compared with the tool term of the paper.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from pyvision_rl.errors import ConfigError, RewardError
from pyvision_rl.registry import parse_options, resolve
from pyvision_rl.rewards.base import Term
from pyvision_rl.types import EndReason, Group, Trajectory

TABLE: dict[str, str] = {
    "format": "pyvision_rl.rewards.terms:FormatTerm",
    "curiosity": "pyvision_rl.rewards.terms:CuriosityTerm",
}
"""Short name -> ``module:Class`` of a ``Term``; built with its options and their dotted place."""

_TAKEN = ("accuracy", "tool_use")


class GroupTerms:
    """Adds every configured term to a graded group."""

    def __init__(self, terms: Mapping[str, Mapping[str, Any]]) -> None:
        """Build the terms: part name -> options; the option ``name`` says which term it is.

        Raises:
            ConfigError: A term is unknown, its options are wrong, or its part's name is taken.
        """
        self._terms: dict[str, Term] = {}
        for part, given in terms.items():
            where = f"rewards.terms.{part}"
            if part in _TAKEN:
                raise ConfigError(f"{where}: every reward has a part {part!r}; choose another name")
            options = dict(given)
            name = str(options.pop("name", part))
            self._terms[part] = resolve(name, TABLE, f"{where}.name")(options, where)

    def __call__(self, group: Group) -> Group:
        """Return the group with the terms in its rewards; ungraded members stay as they are.

        A term's ``RewardError`` leaves the whole group ungraded, with the reason in ``error``.
        """
        graded = [t for t in group.trajectories if t.reward is not None]
        if not graded:
            return group
        try:
            values = {
                name: _checked(name, term(graded), graded) for name, term in self._terms.items()
            }
        except RewardError as error:
            why = f"grading failed: {error}"
            members = tuple(
                t if t.reward is None else replace(t, reward=None, error=why)
                for t in group.trajectories
            )
            return replace(group, trajectories=members)
        rows = iter(zip(*values.values(), strict=True))
        return replace(
            group,
            trajectories=tuple(
                t if t.reward is None else _with(t, dict(zip(values, next(rows), strict=True)))
                for t in group.trajectories
            ),
        )


class FormatOptions(BaseModel):
    """The options of ``[rewards.terms.format]``."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    bonus: float = 0.1
    """Paid once, right or wrong."""


class FormatTerm:
    """A constant for every episode that ended with a well-formed answer."""

    def __init__(self, options: Mapping[str, Any], where: str) -> None:
        """Check the options.

        Raises:
            ConfigError: One is unknown or has the wrong type.
        """
        self._bonus = parse_options(FormatOptions, options, where).bonus

    def __call__(self, trajectories: Sequence[Trajectory]) -> list[float]:
        """Return the bonus or 0.0."""
        return [self._bonus * (t.end is EndReason.ANSWERED) for t in trajectories]


class CuriosityOptions(BaseModel):
    """The options of ``[rewards.terms.curiosity]``."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    weight: float = Field(0.5, ge=0)
    """Worth of the distance of the group's tool share from ``target_share``."""
    target_share: float = Field(0.3, ge=0, le=1)
    """A group that uses tools less often pays those who did."""
    max_calls: int = Field(1, ge=0)
    """Calls beyond it cost ``penalty`` each."""
    penalty: float = Field(0.05, ge=0)


class CuriosityTerm:
    """Pays tool use while it is rare in a group, and charges for calls beyond a bound.

    In the spirit of Pixel-Reasoner (arXiv 2505.15966). With s the share of a group's graded members
    that made a call and n a member's calls that ran without an error::

        weight * max(0, target_share - s) * [n > 0]  -  penalty * max(0, n - max_calls)

    Paid right or wrong. The share is the group's own, never a running one.
    """

    def __init__(self, options: Mapping[str, Any], where: str) -> None:
        """Check the options.

        Raises:
            ConfigError: One is unknown or out of range.
        """
        self._options = parse_options(CuriosityOptions, options, where)

    def __call__(self, trajectories: Sequence[Trajectory]) -> list[float]:
        """Return what each member earns and pays."""
        options = self._options
        calls = [t.num_tool_calls for t in trajectories]
        share = sum(n > 0 for n in calls) / len(calls)
        bonus = options.weight * max(0.0, options.target_share - share)
        return [bonus * (n > 0) - options.penalty * max(0, n - options.max_calls) for n in calls]


def _checked(name: str, values: Sequence[float], graded: Sequence[Trajectory]) -> list[float]:
    numbers = [float(v) for v in values]
    if len(numbers) != len(graded) or not all(map(math.isfinite, numbers)):
        raise RewardError(f"term {name!r} gave {numbers}, wants {len(graded)} finite numbers")
    return numbers


def _with(trajectory: Trajectory, parts: Mapping[str, float]) -> Trajectory:
    assert trajectory.reward is not None
    reward = replace(trajectory.reward, parts={**trajectory.reward.parts, **parts})
    return replace(trajectory, reward=reward)
