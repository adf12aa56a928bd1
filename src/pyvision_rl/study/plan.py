"""From a study config to its units of work, and the order in which they are done.

In: a ``StudyConfig`` and the folder it is to fill. Out: ``Unit`` records: one ``pvrl`` command
each, with the units it waits for. All configs are loaded here, so that a wrong key is found before
any work. Starts nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pyvision_rl import __version__
from pyvision_rl.config import Config
from pyvision_rl.config_file import find_config, load_config, resolved
from pyvision_rl.errors import ConfigError
from pyvision_rl.study.config import (
    START,
    ColdStartConfig,
    EvaluationConfig,
    StudyConfig,
    VariantConfig,
    start_names,
    words,
)
from pyvision_rl.study.notes import DONE, read_note

_STARTS, _VARIANTS = "cold-starts", "variants"


@dataclass(frozen=True, slots=True)
class Unit:
    """One ``pvrl`` command that fills one folder."""

    name: str
    """The folder, relative to the study's: also the unit's identity."""
    verb: str
    config: str
    overrides: tuple[str, ...]
    needs: tuple[str, ...]
    """Units that must be done before."""
    cost: float
    """A guess, in seconds of the tiny model on one core; only ratios matter."""
    sha256: str
    """12 hex digits that change with the resolved config, and with those of what it needs; a model
    that was there before counts by its path."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model that is evaluated: a variant's, or the one it started from, at one seed."""

    name: str
    seed: int
    path: str
    """A model directory or name."""
    unit: Unit | None
    """What makes it; None if it was there before."""
    sha256: str


class Planner:
    """Turns one study into units."""

    def __init__(self, study: StudyConfig, out: Path, *, quick: bool = False) -> None:
        """Prepare; nothing is read yet.

        Raises:
            ConfigError: ``quick`` is asked for, and the study has no ``[quick]``.
        """
        if quick and study.quick is None:
            raise ConfigError("--quick: this study has no [quick] section")
        self.study = study
        self._quick = study.quick if quick else None
        self._out = out.resolve()
        self._configs: dict[tuple[str, tuple[str, ...]], Config] = {}

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that are run."""
        return self.study.seeds[: self._quick.num_seeds] if self._quick else self.study.seeds

    def units(self) -> tuple[Unit, ...]:
        """Return every unit once, those it needs before it.

        Raises:
            ConfigError: A config is missing or wrong, or a cold start to take over is another one.
        """
        found: dict[str, Unit] = {}
        for model in self.models():
            made = () if model.unit is None else (model.unit,)
            for unit in (*made, *self._evaluations(model)):
                found.setdefault(unit.name, unit)
        for start in self.study.cold_starts:
            for unit in self._cold_start_units(start):
                found.setdefault(unit.name, unit)
        return tuple(found[name] for name in _in_order(found))

    def models(self) -> Iterator[Model]:
        """Yield every model that is evaluated, by name and seed."""
        for name, start in zip(start_names(self.study), self.study.cold_starts, strict=False):
            for seed in self._start_seeds(start):
                model = self._start(start, seed)
                yield Model(name, seed, model.path, model.unit, model.sha256)
        for variant in self.study.variants:
            yield from (self._trained(variant, seed) for seed in self.seeds)

    def rl_unit(self, variant: str, seed: int) -> str:
        """Return the name of the unit that trains a variant."""
        return f"{_VARIANTS}/{variant}/seed-{seed}/rl"

    def evaluation_unit(self, model: str, seed: int, evaluation: str) -> str:
        """Return the name of the unit that evaluates a model."""
        if model.split("-")[0] != START:
            return f"{_VARIANTS}/{model}/seed-{seed}/eval-{evaluation}"
        name = model.partition("-")[2] or self.study.cold_starts[0].name
        return f"{_STARTS}/{name}/seed-{seed}/eval-{evaluation}"

    def _start_seeds(self, start: ColdStartConfig) -> tuple[int, ...]:
        return self.seeds if start.per_seed and not start.model else self.seeds[:1]

    def _cold_start_units(self, start: ColdStartConfig) -> Iterator[Unit]:
        used = {v.cold_start or self.study.cold_starts[0].name for v in self.study.variants}
        if start.model or (start.name not in used and not self.study.evaluate_start):
            return
        for seed in self._start_seeds(start):
            new, sft = self._making(start, seed)
            if self._taken_over(sft) is None:
                yield from (new, sft)

    def _making(self, start: ColdStartConfig, seed: int) -> tuple[Unit, Unit]:
        """Return the two units of a cold start, wanted or not."""
        folder = f"{_STARTS}/{start.name}/seed-{seed}"
        sets = (f"seed={seed}", *words(start.set))
        sets += words(self._quick.cold_start) if self._quick else ()
        where = f"cold_starts {start.name!r}"
        new = self._unit(f"{folder}/model", "new-model", start.config, sets, where)
        sft = self._unit(f"{folder}/sft", "sft", start.config, sets, where, self._path(new), new)
        return new, sft

    def _start(self, start: ColdStartConfig, seed: int) -> Model:
        if start.model:
            return Model(START, seed, start.model, None, _digest(start.model))
        _, sft = self._making(start, seed if start.per_seed else self.seeds[0])
        there = self._taken_over(sft)
        path = str((there or self._out / sft.name) / "final")
        return Model(START, seed, path, None if there else sft, sft.sha256)

    def _taken_over(self, sft: Unit) -> Path | None:
        """Return the folder of this cold start in the other study; None if it is not there.

        Raises:
            ConfigError: It was made by another config.
        """
        if not self.study.cold_starts_from:
            return None
        other = Path(self.study.cold_starts_from).resolve()
        note = read_note(other, sft.name)
        if note is None or note.status != DONE:
            return None
        if note.sha256 != sft.sha256:
            raise ConfigError(
                f"cold_starts_from = {other}: {sft.name} was made by another config or version "
                f"({note.sha256}, not {sft.sha256}); leave the key out to make a new one"
            )
        return other / sft.name

    def _trained(self, variant: VariantConfig, seed: int) -> Model:
        starts = {c.name: c for c in self.study.cold_starts}
        start = self._start(starts[variant.cold_start or self.study.cold_starts[0].name], seed)
        rl = self.study.rl
        sets = (f"seed={seed}", *words(rl.set), *words(variant.set))
        sets += words(self._quick.rl) if self._quick else ()
        where = f"variants {variant.name!r}"
        name = self.rl_unit(variant.name, seed)
        unit = self._unit(name, "rl", rl.config, sets, where, start.path, start)
        return Model(variant.name, seed, str(self._path(unit)) + "/final", unit, unit.sha256)

    def _evaluations(self, model: Model) -> Iterator[Unit]:
        rl = self.study.rl
        own = {v.name: v.eval_set for v in self.study.variants}.get(model.name, {})
        for evaluation in self.study.evaluations:
            where = f"evaluations {evaluation.name!r}"
            sets = (f"seed={model.seed}", *words(rl.set), *words(own), *words(evaluation.set))
            sets += words(self._quick.rl) if self._quick else ()
            sets += self._forced(evaluation, rl.config, sets, where)
            name = self.evaluation_unit(model.name, model.seed, evaluation.name)
            yield self._unit(name, "eval", rl.config, sets, where, model.path, model)

    def _forced(
        self, evaluation: EvaluationConfig, config: str, sets: tuple[str, ...], where: str
    ) -> tuple[str, ...]:
        if evaluation.start == "free":
            return ()
        probe = self._load(config, sets, where).probe
        text = probe.tool_start if evaluation.start == "tool" else probe.direct_start
        return words({"eval.forced_start": text})

    def _path(self, unit: Unit) -> Path:
        return self._out / unit.name

    def _unit(
        self,
        name: str,
        verb: str,
        config: str,
        sets: tuple[str, ...],
        where: str,
        model: str | Path = "",
        source: Unit | Model | None = None,
    ) -> Unit:
        """Return a unit whose model comes from ``source``, another unit or a finished model."""
        loaded = self._load(config, sets, where)
        values = resolved(loaded)
        # Where a model lies does not matter, but what it is.
        values["policy"]["model"] = source.sha256 if source else ""
        maker = source.unit if isinstance(source, Model) else source
        sets += (f"policy.model={json.dumps(str(model))}",) if model else ()
        digest = _digest(json.dumps([__version__, verb, values], sort_keys=True))
        needs = (maker.name,) if maker else ()
        return Unit(name, verb, config, sets, needs, _cost(verb, loaded), digest)

    def _load(self, config: str, sets: tuple[str, ...], where: str) -> Config:
        key = (config, sets)
        if key not in self._configs:
            try:
                self._configs[key] = load_config(find_config(config), sets)
            except ConfigError as error:
                raise ConfigError(f"{where}: {error}") from error
        return self._configs[key]


def priorities(units: Sequence[Unit]) -> dict[str, float]:
    """Return the cost of the longest chain that each unit begins: what is long starts first."""
    followers: dict[str, list[Unit]] = {}
    for unit in units:
        for name in unit.needs:
            followers.setdefault(name, []).append(unit)
    longest: dict[str, float] = {}
    for unit in reversed(units):
        after = (longest[f.name] for f in followers.get(unit.name, ()))
        longest[unit.name] = unit.cost + max(after, default=0.0)
    return longest


def ready(
    units: Sequence[Unit], done: Collection[str], taken: Collection[str], order: Mapping[str, float]
) -> list[Unit]:
    """Return the units that may start now, the one to start first in front.

    Args:
        units: All units, each after those it needs.
        done: Units that ended well.
        taken: Units that run, or ended in any way.
        order: From ``priorities``.
    """
    free = [u for u in units if u.name not in taken and all(n in done for n in u.needs)]
    return sorted(free, key=lambda u: -order[u.name])


def blocked(units: Sequence[Unit], failed: Collection[str]) -> dict[str, str]:
    """Return the units that cannot be run, each with the failed unit it waits for."""
    causes: dict[str, str] = {}
    for unit in units:
        for name in unit.needs:
            if unit.name not in failed and (name in failed or name in causes):
                causes.setdefault(unit.name, causes.get(name, name))
    return causes


def seconds_left(
    units: Sequence[Unit], measured: Mapping[str, float], running: Mapping[str, float], jobs: int
) -> float | None:
    """Return about how long the rest takes; None before anything was measured.

    Args:
        units: All units that are still to be done or were done.
        measured: Seconds of finished units.
        running: Seconds so far of those that run.
        jobs: Units at a time.
    """
    ratios: dict[str, list[float]] = {}
    for unit in units:
        if unit.name in measured:
            ratios.setdefault(unit.verb, []).append(measured[unit.name] / unit.cost)
    every = [r for found in ratios.values() for r in found]
    if not every:
        return None

    def expected(unit: Unit) -> float:
        known = ratios.get(unit.verb, every)
        return unit.cost * sum(known) / len(known)

    left = [
        max(0.0, expected(u) - running.get(u.name, 0.0)) for u in units if u.name not in measured
    ]
    return max(sum(left) / jobs, max(left, default=0.0))


def _in_order(units: Mapping[str, Unit]) -> list[str]:
    """Return the names with each behind those it needs; otherwise as they came."""
    placed: dict[str, None] = {}

    def place(name: str) -> None:
        for need in units[name].needs:
            place(need)
        placed.setdefault(name)

    for name in units:
        place(name)
    return list(placed)


def _cost(verb: str, config: Config) -> float:
    if verb == "new-model":
        return 15.0
    if verb == "sft":
        # A stage in epochs has as many steps as its data say, which nobody has counted yet.
        return 10.0 + 0.012 * sum((s.steps or 300) * s.batch_size for s in config.sft.stages)
    if verb == "eval":
        return 8.0 + 0.04 * (config.eval.num_tasks or 1000) * config.eval.samples
    tasks = config.selection.groups_per_step * config.selection.oversample
    return 8.0 + 0.03 * config.train.steps * tasks * config.rollout.group_size


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
