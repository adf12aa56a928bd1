"""Alarms: what goes wrong slowly in RL, seen in the numbers of its steps.

In: the numbers of ``metrics.jsonl``, step after step. Out: an ``Alarm`` when one is raised or
cleared. What is seen depends on these numbers only, so a resumed run replays its history. An alarm
changes nothing in a run: it names a likely cause and what to try.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeAlias, get_args

from pyvision_rl.config import Config
from pyvision_rl.config.watch import AlarmName

Numbers: TypeAlias = Mapping[str, Any]
"""One step's line of ``metrics.jsonl``."""

_FEW = 0.05
"""A start below this is too near to nothing to be compared with (tool calls; entropy in nats)."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """A change: an alarm was raised, or cleared again."""

    name: AlarmName
    step: int
    raised: bool
    """False when it was cleared."""
    text: str
    """For people: what was seen, the likely cause, and what to try."""


@dataclass(slots=True)
class _Past:
    """The steps so far, as means over windows."""

    window: int
    max_tool_calls: int
    wanted: tuple[str, str, int]
    """What an update is made of: its number in the lines, that of all there were, how many."""
    lines: list[Numbers] = field(default_factory=list)
    most_calls: float = 0.0
    """The highest mean of a window."""

    def take(self, numbers: Numbers) -> None:
        self.lines.append(numbers)
        if len(self.lines) >= self.window:
            self.most_calls = max(self.most_calls, self.now("tool_calls") or 0.0)

    def now(self, *names: str) -> float | None:
        """Return the mean over the last window of the sum of some numbers."""
        return self._mean(self.lines[-self.window :], names)

    def start(self, *names: str) -> float | None:
        """Return the same over the first steps that have the numbers, as many as in a window.

        None until a whole window came after them. Steps without an update have no entropy.
        """
        before = islice(self.lines, max(0, len(self.lines) - self.window))
        first = list(islice((x for x in before if all(n in x for n in names)), self.window))
        return self._mean(first, names) if len(first) == self.window else None

    def times_start(self, name: str) -> float | None:
        """Return the last window's mean in units of the first one's."""
        now, start = self.now(name), self.start(name)
        return None if now is None or start is None or start < _FEW else now / start

    def above_start(self, name: str) -> float | None:
        """Return by how much the last window's mean is above the first one's."""
        now, start = self.now(name), self.start(name)
        return None if now is None or start is None else now - start

    def _mean(self, lines: list[Numbers], names: tuple[str, ...]) -> float | None:
        having = [sum(line[n] for n in names) for line in lines if all(n in line for n in names)]
        return sum(having) / len(having) if having else None


def _unfilled(past: _Past, cause: str) -> float | None:
    """Return the share of an update that is missing if ``cause`` took most groups, else 0."""
    unit, of_all, most_wanted = past.wanted
    trained, found, groups = past.now(unit), past.now(of_all), past.now("groups")
    right, wrong = past.now("groups_all_right"), past.now("groups_all_wrong")
    if trained is None or not found or not groups or right is None or wrong is None:
        return None
    # Both are shares of the groups with a graded member; of all groups they are less.
    judged = past.now("groups_judged")
    right, wrong = (x * (groups if judged is None else judged) / groups for x in (right, wrong))
    # Nothing good is left over where an update lacks some.
    shares = {"right": right, "wrong": wrong, "filters": 1 - right - wrong - trained / found}
    most = max(shares, key=lambda name: shares[name])
    # Where too few were drawn, none of them took most of what is missing.
    lost = found - trained >= (most_wanted - trained) / 2
    return 1 - trained / most_wanted if cause == most and lost else 0.0


def _not_graded(past: _Past) -> float | None:
    graded, total = past.now("graded"), past.now("trajectories")
    return None if graded is None or not total else 1 - graded / total


def _hollow(past: _Past) -> float | None:
    """Return how far reward rose and accuracy fell, the smaller of both."""
    reward, accuracy = past.above_start("reward"), past.above_start("accuracy")
    return None if reward is None or accuracy is None else min(reward, -accuracy)


def _of_highest(past: _Past) -> float | None:
    now = past.now("tool_calls")
    return None if now is None or past.most_calls < _FEW else now / past.most_calls


def _of_budget(past: _Past) -> float | None:
    now = past.now("executions")
    return None if now is None or not past.max_tool_calls else now / past.max_tool_calls


@dataclass(frozen=True, slots=True)
class _Rule:
    """One alarm: a reading, the limit it must not pass, and advice."""

    limit: str
    """Key of ``[watch]``."""
    reading: Callable[[_Past], float | None]
    """None: cannot be told yet; the alarm stays as it is."""
    what: str
    advice: str
    below: bool = False
    """Raised below the limit instead of above."""


_RULES: dict[AlarmName, _Rule] = {
    "interaction_collapse": _Rule(
        "tool_calls_drop",
        _of_highest,
        "tool calls, as a share of their highest mean",
        "the tool does not pay, or its episodes are filtered out; try a larger "
        "rewards.tool_use_per_call, more tasks that need the tool, selection.rank_by = "
        '"reward_std"',
        below=True,
    ),
    "runaway_calls": _Rule(
        "calls_at_budget",
        _of_budget,
        "executions, as a share of the budget",
        "calls are made for their reward; try a smaller rewards.tool_use_per_call, or a larger "
        "rollout.max_tool_calls if accuracy still rises",
    ),
    "entropy_collapse": _Rule(
        "entropy_drop",
        lambda past: past.times_start("train_entropy"),
        "entropy, as a multiple of its start",
        "the policy repeats itself and explores no more; try a smaller train.learning_rate, a "
        "larger train.clip_high, or stop here",
        below=True,
    ),
    "entropy_explosion": _Rule(
        "entropy_rise",
        lambda past: past.times_start("train_entropy"),
        "entropy, as a multiple of its start",
        "updates destroy the policy; go back to an earlier checkpoint with a smaller "
        "train.learning_rate or train.grad_clip",
    ),
    "length_explosion": _Rule(
        "length_rise",
        lambda past: past.times_start("sampled_tokens"),
        "sampled tokens, as a multiple of their start",
        "text grows without end; read some episodes (pvrl show), lower policy.max_new_tokens, and "
        'keep "over_length" in selection.filters',
    ),
    "batch_too_easy": _Rule(
        "max_unfilled",
        lambda past: _unfilled(past, "right"),
        "share of an update that is missing, most groups being all right",
        "the tasks are too easy by now; add harder ones, or raise selection.oversample or "
        "selection.max_rounds",
    ),
    "batch_too_hard": _Rule(
        "max_unfilled",
        lambda past: _unfilled(past, "wrong"),
        "share of an update that is missing, most groups being all wrong",
        "the tasks are too hard for this model, or answers are misread; look at wrong ones (pvrl "
        "show), add easier ones, or raise rollout.group_size",
    ),
    "batch_filtered_out": _Rule(
        "max_unfilled",
        lambda past: _unfilled(past, "filters"),
        "share of an update that is missing, most groups having been filtered out",
        "see which dropped_ number of metrics.jsonl is large, and drop or loosen that filter of "
        "selection.filters, or its cause",
    ),
    "mismatch_high": _Rule(
        "max_mismatch",
        lambda past: past.now("train_mismatch"),
        "largest difference of log-probabilities, sampler to learner",
        "sampler and learner are not the same network; compare policy.dtype with "
        "train.mixed_precision, and the sampler's own temperature with policy.temperature",
    ),
    "malformed_rising": _Rule(
        "malformed_rise",
        lambda past: past.above_start("malformed_share"),
        "malformed turns, as a share above their start",
        "the format is being forgotten; try a smaller train.learning_rate, or a longer cold start",
    ),
    "infra_failing": _Rule(
        "max_infra",
        _not_graded,
        "share of trajectories that failed or were not graded",
        "our side fails, not the model; see events.jsonl and the errors in rollouts/, then the "
        "sandbox, the policy's server or the grader",
    ),
    "reward_without_accuracy": _Rule(
        "reward_gain",
        _hollow,
        "rise of the reward while accuracy fell",
        "the reward is earned by other things than right answers, usually calls; try a smaller "
        "rewards.tool_use_per_call",
    ),
}
assert set(_RULES) == set(get_args(AlarmName))


class Watch:
    """Sees one step after the other."""

    def __init__(self, config: Config) -> None:
        self._config, selection = config.watch, config.selection
        wanted = ("groups_trained", "groups", selection.groups_per_step)
        if selection.rank_unit == "trajectory":
            members = selection.groups_per_step * config.rollout.group_size
            wanted = ("kept", "trajectories", members)
        self._past = _Past(config.watch.window, config.rollout.max_tool_calls, wanted)
        self._off = {*config.watch.off}
        if config.train.overlap:
            # What was sampled beside an update is of the weights before it: they differ rightly.
            self._off.add("mismatch_high")
        self._on: set[AlarmName] = set()
        self._changes: list[Alarm] = []

    def see(self, step: int, numbers: Numbers) -> list[Alarm]:
        """Take one step's numbers; return what they raise and clear."""
        self._past.take(numbers)
        if len(self._past.lines) < self._past.window:
            return []
        rules = [(n, r) for n, r in _RULES.items() if n not in self._off]
        changes = [c for name, rule in rules if (c := self._judge(step, name, rule))]
        self._changes += changes
        return changes

    def summary(self) -> dict[str, str]:
        """Return, for every alarm there was, when it was raised and cleared."""
        told: dict[str, list[str]] = {}
        for change in self._changes:
            what = "raised" if change.raised else "cleared"
            told.setdefault(change.name, []).append(f"{what} at step {change.step}")
        for name in self._on:
            told[name].append("still on")
        return {name: ", ".join(parts) for name, parts in told.items()}

    def _judge(self, step: int, name: AlarmName, rule: _Rule) -> Alarm | None:
        reading = rule.reading(self._past)
        if reading is None:
            return None
        limit: float = getattr(self._config, rule.limit)
        on, sign = name in self._on, -1 if rule.below else 1
        # Cleared only when well inside, so that a reading at the limit does not ring every step.
        inside = limit * (1 - sign * self._config.hysteresis)
        beyond = sign * reading > sign * (inside if on else limit)
        if beyond is on:
            return None
        self._on ^= {name}
        seen = f"{name}: {rule.what}: {reading:.3g} (watch.{rule.limit} = {limit:g})"
        text = f"{seen}. Cleared." if on else f"{seen}. Likely cause: {rule.advice}."
        return Alarm(name, step, not on, text)
