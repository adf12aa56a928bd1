"""A grader per data source.

In: a table from data sources (exact names, or patterns such as ``hrbench-*``) to graders. Out: the
grade of the one that a task's source leads to. A source that leads nowhere is a ``ConfigError``
before the run where the task set tells its sources; otherwise its trajectories stay ungraded.
Grades nothing itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from pyvision_rl.config import RewardsConfig
from pyvision_rl.errors import ConfigError, RewardError
from pyvision_rl.registry import parse_options, resolve, suggestion
from pyvision_rl.rewards.base import Grade, Grader, Served
from pyvision_rl.rewards.grading import TABLE
from pyvision_rl.rewards.judge import Judge, JudgeGrader
from pyvision_rl.rewards.ladder import LadderGrader, asks_judge
from pyvision_rl.types import Task, Trajectory


class Route(BaseModel):
    """One grader with its options."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    grader: str
    """match, relative_accuracy, judge, ladder, suite, or ``package.module:Name``."""
    options: dict[str, Any] = Field(default_factory=dict)


class Options(BaseModel):
    """The options of the grader ``route``."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    routes: dict[str, Route] = Field(min_length=1)
    """Data source -> grader. An exact name wins; of patterns (``*``, ``?``, ``[..]``) the first."""
    default: Route | None = None
    """For every other source; None refuses them."""


def may_ask_judge(config: RewardsConfig) -> bool:
    """Return whether a grader of this config may ask ``[rewards.judge]``; of other people's, True.

    Raises:
        ConfigError: The options of a ladder or of routes are wrong.
    """
    if config.name == "ladder":
        return asks_judge(config)
    if config.name == "route":
        options = parse_options(Options, config.options, "rewards.options")
        routes = [*options.routes.values(), *([options.default] if options.default else [])]
        own = ({"name": route.grader, "options": route.options} for route in routes)
        return any(may_ask_judge(config.model_copy(update=update)) for update in own)
    return config.name not in ("match", "relative_accuracy")


def route_key(keys: Iterable[str], source: str) -> str | None:
    """Return which key of ``routes`` a data source leads to; None if none does."""
    keys = list(keys)
    fitting = (key for key in keys if fnmatchcase(source, key))
    return source if source in keys else next(fitting, None)


class RouteGrader:
    """Hands each trajectory to the grader of its task's data source."""

    def __init__(self, config: RewardsConfig) -> None:
        """Make every grader of the table; all judges among them are one.

        Raises:
            ConfigError: A grader is unknown, or its options are wrong; the route is named.
        """
        self._options = parse_options(Options, config.options, "rewards.options")
        self._judge: Judge | None = None
        self._graders = {
            name: self._make(config, route, f"rewards.options.routes.{name!r}")
            for name, route in self._options.routes.items()
        }
        default = self._options.default
        self._default = (
            None if default is None else self._make(config, default, "rewards.options.default")
        )

    async def __call__(self, task: Task, trajectory: Trajectory) -> Grade:
        """Return the grade of the grader that the task's source leads to.

        Raises:
            RewardError: It leads to none, or that grader failed.
        """
        source = task.input.data_source
        grader = self._find(source)
        if grader is None:
            raise RewardError(f"no route for data source {source!r}; {self._known()}")
        return await grader(task, trajectory)

    def check(self, sources: Callable[[], frozenset[str]]) -> None:
        """Check that every source leads somewhere, and the graders it may lead to.

        Raises:
            ConfigError: One leads nowhere, or a grader is not ready.
        """
        there = sources()
        lost = sorted(source for source in there if self._find(source) is None)
        if lost:
            hints = (f"{s!r}{suggestion(s, self._graders)}" for s in lost)
            raise ConfigError(
                f"rewards.options.routes has no route for data source {', '.join(hints)}; "
                f"the tasks' sources: {_listed(there)}; {self._known()}; "
                "add a route, or rewards.options.default"
            )
        for grader in self._all():
            if isinstance(grader, Served):
                grader.check(partial(self._led_to, grader, there))

    def stats(self) -> dict[str, float]:
        """Return the numbers of all graders that count, added up; the shared judge's once."""
        numbers: dict[str, float] = {}
        for grader in self._all():
            told = grader.stats() if isinstance(grader, Served) else {}
            for name, value in told.items():
                before = 0.0 if name.startswith("judge_") else numbers.get(name, 0.0)
                numbers[name] = before + value
        return numbers

    async def close(self) -> None:
        """Close every grader. Idempotent."""
        for grader in self._all():
            if isinstance(grader, Served):
                await grader.close()

    def _make(self, config: RewardsConfig, route: Route, where: str) -> Grader:
        if route.grader == "route":
            raise ConfigError(f"{where}.grader = 'route': a route leads to a grader that grades")
        own = config.model_copy(update={"name": route.grader, "options": route.options})
        make = resolve(route.grader, TABLE, f"{where}.grader")
        try:
            judge_is_named = bool(config.judge.url or config.judge.model)
            if (
                make is JudgeGrader
                or (make is LadderGrader and asks_judge(own))
                or (getattr(make, "takes_judge", False) and judge_is_named)
            ):
                self._judge = self._judge or Judge(config.judge)
                shared: Grader = make(own, self._judge)
                return shared
            grader: Grader = make(own)
            return grader
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error

    def _find(self, source: str) -> Grader | None:
        key = route_key(self._graders, source)
        return self._default if key is None else self._graders[key]

    def _led_to(self, grader: Grader, sources: frozenset[str]) -> frozenset[str]:
        """Return those of some sources that lead to a grader."""
        return frozenset(source for source in sources if self._find(source) is grader)

    def _all(self) -> list[Grader]:
        return [*self._graders.values(), *([] if self._default is None else [self._default])]

    def _known(self) -> str:
        return f"routes: {_listed(self._graders)}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in sorted(names))
