"""A grader per data source.

In: a table from data sources (exact names, or patterns such as ``hrbench-*``) to graders. Out: the
grade of the one that a task's source leads to. A source that leads nowhere is a ``ConfigError``
before the run where the task set tells its sources; otherwise its trajectories stay ungraded.
Grades nothing itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from pyvision_rl.config import RewardsConfig
from pyvision_rl.errors import ConfigError, RewardError
from pyvision_rl.registry import parse_options, resolve, suggestion
from pyvision_rl.rewards.base import Grade, Grader, Served
from pyvision_rl.rewards.grading import TABLE
from pyvision_rl.rewards.judge import Judge, JudgeGrader
from pyvision_rl.types import Task, Trajectory


class Route(BaseModel):
    """One grader with its options."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    grader: str
    """match, relative_accuracy, judge, or ``package.module:Name``."""
    options: dict[str, Any] = Field(default_factory=dict)


class Options(BaseModel):
    """The options of the grader ``route``."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    routes: dict[str, Route] = Field(min_length=1)
    """Data source -> grader. An exact name wins; of patterns (``*``, ``?``, ``[..]``) the first."""
    default: Route | None = None
    """For every other source; None refuses them."""


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
                grader.check(sources)

    def stats(self) -> dict[str, float]:
        """Return the numbers of all graders that count, the shared judge once."""
        numbers: dict[str, float] = {}
        for grader in self._all():
            if isinstance(grader, Served):
                numbers |= grader.stats()
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
            if make is not JudgeGrader:
                grader: Grader = make(own)
                return grader
            self._judge = self._judge or Judge(config.judge)
            return JudgeGrader(own, self._judge)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error

    def _find(self, source: str) -> Grader | None:
        if source in self._graders:
            return self._graders[source]
        fitting = (g for name, g in self._graders.items() if fnmatchcase(source, name))
        return next(fitting, self._default)

    def _all(self) -> list[Grader]:
        return [*self._graders.values(), *([] if self._default is None else [self._default])]

    def _known(self) -> str:
        return f"routes: {_listed(self._graders)}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in sorted(names))
