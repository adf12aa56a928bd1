"""The config of a study: a TOML file of its own, beside the configs of the runs it is made of.

In: a TOML file, a study folder, or its ``study.json``, and ``--set`` overrides. Out: a checked
``StudyConfig``. Does not read the configs of runs that it names: ``plan`` does.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from pyvision_rl.config import SCHEMA, Section
from pyvision_rl.config_file import load_section, packaged_file, packaged_studies, toml_value
from pyvision_rl.errors import ConfigError
from pyvision_rl.study.names import TRAIN, metric_names, panel_names

STUDY_FILE = "study.json"
START = "start"
"""The name under which cold-started models, before any RL, stand beside the variants."""
FIGURE = "dynamics"
"""The name of the figure of all variants, where no figures are named."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")

Overrides = dict[str, Any]
"""Keys of a run's config -> values. A quoted dotted key is taken whole, as in ``--set``; a bare
table is a section: ``{ train = { steps = 2 } }`` is ``{ "train.steps" = 2 }``."""


class ColdStartConfig(Section):
    """How the models that RL starts from are made: ``pvrl new-model``, then ``pvrl sft``."""

    name: str = "main"
    config: str = ""
    """A run's config, for both verbs."""
    model: str = ""
    """A ready model instead: a directory or name. It is shared by all seeds."""
    per_seed: bool = True
    """Whether every seed makes its own; false makes one, with the first seed."""
    set: Overrides = Field(default_factory=dict)


class RlConfig(Section):
    """What all variants have in common."""

    config: str
    """A run's config. Its ``[eval]`` and ``[probe]`` say how all models are evaluated."""
    set: Overrides = Field(default_factory=dict)


class VariantConfig(Section):
    """One arm of the study."""

    name: str
    label: str = ""
    """For tables and figures; empty is the name."""
    set: Overrides = Field(default_factory=dict)
    """What differs from ``[rl]``, in training only."""
    eval_set: Overrides = Field(default_factory=dict)
    """What its evaluation needs besides; otherwise all models are evaluated alike."""
    cold_start: str = ""
    """Name of a cold start; empty is the first."""
    against: str = ""
    """The variant it is drawn beside; empty is ``main``."""


class EvaluationConfig(Section):
    """One held-out evaluation that every model gets."""

    name: str
    label: str = ""
    start: Literal["free", "tool", "direct"] = "free"
    """How the first turn begins: as the model likes, with ``probe.tool_start``, or with
    ``probe.direct_start``."""
    set: Overrides = Field(default_factory=dict)
    """Other tasks or samples, e.g. ``"eval.num_tasks" = 100``."""


class ComparisonConfig(Section):
    """A difference to test: ``variant`` minus ``against``, in each of the metrics."""

    variant: str
    against: str
    metrics: tuple[str, ...]
    """``<evaluation>.<accuracy, tool_calls or zero_tool_share>`` with ``.<category>`` at will, or
    ``train.<reward, accuracy, tool_calls, zero_tool_share or kept_share>``; in either place also
    what was given and seen, such as ``visual_tokens``."""
    paired: bool = True
    """Pair by seed: right when a seed's variants share their cold start; refused with a start that
    all seeds share."""


class FigureConfig(Section):
    """A figure: panels of metrics over steps, with some variants in each."""

    name: str
    title: str = ""
    variants: tuple[str, ...] = ()
    """Empty draws all."""
    panels: tuple[str, ...] = ()
    """Names from an RL run's ``metrics.jsonl``; empty draws the training dynamics."""


class QuickConfig(Section):
    """What ``--quick`` changes, so that a study can be tried in minutes."""

    num_seeds: int = Field(1, gt=0)
    cold_start: Overrides = Field(default_factory=dict)
    rl: Overrides = Field(default_factory=dict)
    """For RL and evaluations."""


class StudyConfig(Section):
    """A whole study."""

    title: str = ""
    seeds: tuple[int, ...]
    """A list, a number, or text such as "100-107" or "1,2,7"."""
    cold_starts: tuple[ColdStartConfig, ...]
    cold_starts_from: str = ""
    """Folder of another study whose finished cold starts are used, seed by seed; a seed without one
    there makes its own."""
    rl: RlConfig
    variants: tuple[VariantConfig, ...]
    main: str = ""
    """The variant that others are drawn beside; empty is the first."""
    evaluations: tuple[EvaluationConfig, ...] = (EvaluationConfig(name="free"),)
    evaluate_start: bool = True
    """Whether cold-started models are evaluated too, as ``start``."""
    comparisons: tuple[ComparisonConfig, ...] = ()
    figures: tuple[FigureConfig, ...] = ()
    """Empty draws the dynamics of all variants, and each variant beside the main one."""
    final_steps: int = Field(5, gt=0)
    """``train`` metrics are means over this many last steps."""
    draws: int = Field(10_000, ge=1000)
    """Of a bootstrap, and of a permutation test with too many arrangements to go through."""
    quick: QuickConfig | None = None

    @field_validator("seeds", mode="before")
    @classmethod
    def _read_seeds(cls, value: Any) -> Any:
        if isinstance(value, int):
            return (value,)
        return parse_seeds(value) if isinstance(value, str) else value


def parse_seeds(text: str) -> tuple[int, ...]:
    """Return the seeds of ``10-14`` or ``1,2,7``.

    Raises:
        ValueError: It is neither.
    """
    seeds: list[int] = []
    for part in text.split(","):
        low, dash, high = part.strip().partition("-")
        if not low.isdigit() or not (high if dash else low).isdigit():
            raise ValueError(f"{text!r}: write seeds as 10-14 or 1,2,7")
        seeds += range(int(low), int(high or low) + 1)
    return tuple(seeds)


def find_study(name: str) -> Path:
    """Return the file of a study: a path, a study folder, or the bare name of a packaged one.

    Raises:
        ConfigError: There is no such file.
    """
    path = Path(name)
    if path.is_dir():
        path = path / STUDY_FILE
        if not path.exists():
            raise ConfigError(f"{name} is a folder without a {STUDY_FILE}; it holds no study")
    if path.exists():
        return path
    return packaged_file(name, packaged_studies(), "study config", "studies")


def load_study(path: Path, overrides: Sequence[str] = ()) -> StudyConfig:
    """Return the checked study config in ``path``.

    Raises:
        ConfigError: A key, a value or a name that refers to another part is wrong.
    """
    study = load_section(StudyConfig, path, overrides)
    faults = [f"{path}: {fault}" for fault in _faults(study)]
    if faults:
        raise ConfigError("\n".join(faults))
    return study


def dump_study(study: StudyConfig) -> dict[str, Any]:
    """Return the JSON values that ``load_study`` reads back."""
    return {"schema": SCHEMA, "config": study.model_dump(mode="json", exclude_none=True)}


def words(overrides: Overrides) -> tuple[str, ...]:
    """Return overrides as the values of ``--set``."""
    flat: dict[str, Any] = {}
    for key, value in overrides.items():
        if isinstance(value, dict) and "." not in key:
            flat |= {f"{key}.{inner}": v for inner, v in value.items()}
        else:
            flat[key] = value
    return tuple(f"{key}={toml_value(value)}" for key, value in flat.items())


def _faults(study: StudyConfig) -> Iterable[str]:
    """Yield what no single key can know: names twice, names of nothing, seeds twice."""
    variants = [v.name for v in study.variants]
    starts = [c.name for c in study.cold_starts]
    evaluations = [e.name for e in study.evaluations]
    yield from _name_faults("seeds", list(map(str, study.seeds)))
    yield from _name_faults("variants", variants)
    yield from _name_faults("cold_starts", starts)
    yield from _name_faults("evaluations", evaluations)
    yield from _name_faults("figures", [f.name for f in study.figures], empty=True)
    yield from _special_faults(study)
    yield from _nested_faults(study)
    yield from _own_faults(study)
    for start in study.cold_starts:
        if bool(start.config) == bool(start.model):
            yield f"cold_starts {start.name!r}: give either config or model"
    for comparison in study.comparisons:
        yield from _pair_faults(study, comparison)
    for where, name, allowed in (*_references(study), *_numbers(study)):
        if name not in allowed:
            near = difflib.get_close_matches(name, allowed, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            yield f"{where} = {name!r} is not known; known: {', '.join(allowed)}{hint}"


def _nested_faults(study: StudyConfig) -> Iterable[str]:
    """Yield bare keys of three parts: a table in a section is a value, which replaces all of it."""
    tables = (*study.cold_starts, study.rl, *study.variants, *study.evaluations)
    sets = [getattr(table, name, {}) for table in tables for name in ("set", "eval_set")]
    sets += [study.quick.cold_start, study.quick.rl] if study.quick else []
    for section, keys in (item for each in sets for item in each.items()):
        inner = keys.items() if isinstance(keys, dict) and "." not in section else ()
        for key, value in inner:
            if isinstance(value, dict) and value:
                dotted = f"{section}.{key}"
                yield (
                    f'set: quote the key that is meant: "{dotted}.{next(iter(value))}" sets one '
                    f'entry, "{dotted}" = {{ ... }} replaces them all'
                )


def _own_faults(study: StudyConfig) -> Iterable[str]:
    """Yield keys that the study sets itself: each unit has a seed and a model of its own."""
    tables = (*study.cold_starts, study.rl, *study.variants)
    trained = [getattr(table, "set", {}) for table in tables]
    trained += [study.quick.cold_start, study.quick.rl] if study.quick else []
    asked = [getattr(table, "eval_set", {}) for table in tables]
    asked += [evaluation.set for evaluation in study.evaluations]
    for sets, own in ((trained, ("seed", "policy.model")), (asked, ("policy.model",))):
        for key in (word.partition("=")[0] for each in sets for word in words(each)):
            if key in own:
                yield f"set: {key} is the study's own: it names one for each seed"


def _special_faults(study: StudyConfig) -> Iterable[str]:
    """Yield names that mean something else."""
    variants = [v.name for v in study.variants]
    if any(name.split("-")[0] == START for name in variants):
        yield f'variants: "{START}" is the name of the models before RL'
    if FIGURE in variants and not study.figures:
        # Its own figure would be drawn over that one.
        other = "take another, or name the [[figures]]"
        yield f'variants: "{FIGURE}" is the name of the figure of all variants; {other}'
    for name in (e.name for e in study.evaluations):
        if name == TRAIN:
            yield f'evaluations: "{TRAIN}" is the name of the metrics of training'
        if "." in name:
            # Metrics are taken apart at the first dot.
            other = name.replace(".", "-")
            yield f"evaluations: {name!r}: a dot ends the name in metrics; write {other!r}"


def _references(study: StudyConfig) -> Iterable[tuple[str, str, Sequence[str]]]:
    """Yield names of other things: where they stand, the name, what is allowed."""
    variants = [v.name for v in study.variants]
    starts = [c.name for c in study.cold_starts]
    known = (*variants, *start_names(study))
    if study.main:
        yield "main", study.main, variants
    for variant in study.variants:
        if variant.cold_start:
            yield f"variants {variant.name!r}: cold_start", variant.cold_start, starts
        if variant.against:
            yield f"variants {variant.name!r}: against", variant.against, variants
    for figure in study.figures:
        for name in figure.variants:
            yield f"figures {figure.name!r}: variants", name, variants
    for comparison in study.comparisons:
        for name in (comparison.variant, comparison.against):
            yield "comparisons", name, known


def _numbers(study: StudyConfig) -> Iterable[tuple[str, str, Sequence[str]]]:
    """Yield the numbers that no run has, in the same way."""
    evaluations = [e.name for e in study.evaluations]
    for figure in study.figures:
        for panel in figure.panels:
            if others := panel_names(panel):
                yield f"figures {figure.name!r}: panels", panel, others
    for comparison in study.comparisons:
        for metric in comparison.metrics:
            if others := metric_names(metric, evaluations):
                yield "comparisons: metrics", metric, others


def _pair_faults(study: StudyConfig, comparison: ComparisonConfig) -> Iterable[str]:
    """Yield the starts of a paired comparison that have no seeds to pair."""
    for name, start in zip(start_names(study), study.cold_starts, strict=False):
        shared = bool(start.model) or not start.per_seed
        if shared and comparison.paired and name in (comparison.variant, comparison.against):
            yield (
                f"comparisons: {comparison.variant!r} against {comparison.against!r}: all seeds "
                f"share {name!r}, so there are no pairs; set paired = false"
            )


def _name_faults(what: str, names: Sequence[str], *, empty: bool = False) -> Iterable[str]:
    if not names and not empty:
        yield f"{what}: name at least one"
    for name in names:
        if not _NAME.fullmatch(name):
            yield f"{what}: {name!r} is no name for a folder; use letters, digits, . _ and -"
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        yield f"{what}: {', '.join(twice)} is there twice"


def start_names(study: StudyConfig) -> tuple[str, ...]:
    """Return the names that cold-started models go by, in the order of the cold starts."""
    names = [f"{START}-{c.name}" for c in study.cold_starts[1:]]
    return (START, *names) if study.evaluate_start else ()
