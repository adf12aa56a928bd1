"""What a study found, as JSON values and as a Markdown page.

In: rows, differences, and what is known of the run. Out: the content of ``result.json``, and the
text of ``tables.md`` made from nothing else. Computes means over seeds, no tests.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pyvision_rl.present import markdown
from pyvision_rl.show import sanitize
from pyvision_rl.statistics import spread
from pyvision_rl.study.comparing import Difference
from pyvision_rl.study.config import StudyConfig, start_names
from pyvision_rl.study.reading import Row

_NONE = "–"
_BEHAVIOUR = {
    "tool_calls": "tool calls",
    "zero_tool_share": "zero-tool share",
}
_TRAINING = {"train.reward": "reward", "train.kept_share": "kept share"}


def labels(study: StudyConfig) -> dict[str, str]:
    """Return the label of every model."""
    starts = {name: name.replace("-", ": ", 1) for name in start_names(study)}
    return starts | {v.name: v.label or v.name for v in study.variants}


def summarize(
    study: StudyConfig,
    seeds: Sequence[int],
    rows: Sequence[Row],
    differences: Sequence[Difference],
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the content of ``result.json``.

    Args:
        study: The config.
        seeds: Those that were to be run.
        rows: Of all models and seeds.
        differences: The study's comparisons.
        provenance: Command, versions, hardware, date, wall time and the like.
    """
    models: dict[str, Any] = {}
    for name, label in labels(study).items():
        mine = [row for row in rows if row.model == name]
        metrics = list(dict.fromkeys(key for row in mine for key in row.numbers))
        spreads = {m: spread([r.numbers[m] for r in mine if m in r.numbers]) for m in metrics}
        models[name] = {
            "label": label,
            "num_seeds": len(mine),
            "num_finished": sum(not row.missing for row in mine),
            "missing": {str(row.seed): list(row.missing) for row in mine if row.missing},
            "metrics": {m: asdict(s) for m, s in spreads.items() if s is not None},
            "seeds": {str(row.seed): row.numbers for row in mine},
        }
    return {
        "title": study.title,
        "seeds": list(seeds),
        "evaluations": {e.name: e.label or e.name for e in study.evaluations},
        "final_steps": study.final_steps,
        "models": models,
        "comparisons": [asdict(d) for d in differences],
        **provenance,
    }


def to_markdown(result: Mapping[str, Any], figures: Mapping[str, str]) -> str:
    """Return the page.

    Args:
        result: From ``summarize``.
        figures: Path, relative to the page -> caption.
    """
    parts = [f"# {sanitize(result['title'] or 'Study')}\n"]
    if result["quick"]:
        parts.append("**Quick: a few steps, the numbers mean nothing.**\n")
    parts += [*_main_tables(result), *_comparisons(result)]
    parts += [f"![{caption}]({path})\n" for path, caption in figures.items()]
    parts += [*_missing(result), *_seeds(result), *_provenance(result)]
    return "\n".join(parts)


def main_tables(result: Mapping[str, Any]) -> str:
    """Return the tables of means and of comparisons alone."""
    return "\n".join([*_main_tables(result), *_comparisons(result), *_missing(result)])


def _main_tables(result: Mapping[str, Any]) -> Iterable[str]:
    models = result["models"]
    free = next(iter(result["evaluations"]))
    columns = {f"{free}.{key}": name for key, name in _BEHAVIOUR.items()} | _TRAINING
    yield (
        f"Mean ± standard error over seeds; standard deviations and ranges are in `result.json`. "
        f"Tool calls and their absence are of the held-out evaluation "
        f"“{result['evaluations'][free]}”, reward and kept share (of the trajectories that entered "
        f"selection) of the last {result['final_steps']} training steps.\n"
    )
    yield _table(models, columns)
    accuracies = {
        key: _accuracy_name(result["evaluations"], key)
        for model in models.values()
        for key in model["metrics"]
        if ".accuracy" in key and not key.startswith("train.")
    }
    # By category where there are categories, and overall where there are none.
    split = {key.rpartition(".")[0] for key in accuracies}
    accuracies = {key: name for key, name in accuracies.items() if key not in split}
    if accuracies:
        yield "Held-out accuracy:\n"
        yield _table(models, accuracies)


def _accuracy_name(evaluations: Mapping[str, str], key: str) -> str:
    evaluation, _, rest = key.partition(".")
    category = rest.partition(".")[2]
    label = evaluations[evaluation]
    return f"{category}, {label}" if category else label


def _table(models: Mapping[str, Any], columns: Mapping[str, str]) -> str:
    rows = []
    for model in models.values():
        seeds = f"{model['num_finished']} of {model['num_seeds']}"
        finished = model["num_finished"]
        cells = [_cell(model["metrics"].get(key), finished) for key in columns]
        rows.append((sanitize(model["label"]), seeds, *cells))
    return markdown(("variant", "seeds", *columns.values()), rows)


def _cell(values: Mapping[str, Any] | None, finished: int) -> str:
    if values is None:
        return _NONE
    error = "" if values["se"] is None else f" ± {values['se']:.2f}"
    count = "" if values["count"] == finished else f" (n={values['count']})"
    return f"{values['mean']:.2f}{error}{count}"


def _comparisons(result: Mapping[str, Any]) -> Iterable[str]:
    if not result["comparisons"]:
        return
    yield (
        "Differences, with 95 % intervals (marked t: a bootstrap over seeds and tasks; others: "
        "Student's t over seeds), "
        "two-sided permutation tests over seeds, and Holm's correction for all tests of this "
        "study. The smallest p that so many seeds can reach is given beside it.\n"
    )
    head = ("difference", "metric", "effect", "95 % interval", "p", "p, Holm", "smallest p", "n")
    models = result["models"]
    rows = []
    for d in result["comparisons"]:
        names = [sanitize(models[d[key]]["label"]) for key in ("variant", "against")]
        rows.append((f"{names[0]} − {names[1]}", f"`{d['metric']}`", *_verdict(d)))
    yield markdown(head, rows)


def _verdict(difference: Mapping[str, Any]) -> tuple[str, ...]:
    d, counts = difference, sorted({len(difference["seeds"]), len(difference["against_seeds"])})
    count = f"{counts[0]} pairs" if d["paired"] else " and ".join(map(str, counts))
    if d["missing"]:
        count += f" ({d['missing']} missing)"
    if d["effect"] is None:
        return (*[_NONE] * 5, count)
    interval, test = d["interval"], d["test"]
    between = _NONE
    if interval is not None:
        mark = " t" if d["over_tasks"] else ""
        between = f"{interval['low']:+.3f} to {interval['high']:+.3f}{mark}"
    exact = "" if test["exact"] else " (sampled)"
    p = f"{_p(test['p'])}{exact}"
    return (f"{d['effect']:+.3f}", between, p, _p(d["p_holm"]), _p(test["smallest_p"]), count)


def _p(value: float) -> str:
    return f"{value:.4f}" if value >= 1e-4 else f"{value:.0e}"


def _missing(result: Mapping[str, Any]) -> Iterable[str]:
    lines = [
        f"- {sanitize(model['label'])}, seed {seed}: {'; '.join(map(sanitize, reasons))}"
        for model in result["models"].values()
        for seed, reasons in model["missing"].items()
    ]
    if lines:
        yield "Missing, and left out of the means above:\n"
        yield "\n".join(lines) + "\n"


def _seeds(result: Mapping[str, Any]) -> Iterable[str]:
    yield "<details><summary>Every seed</summary>\n"
    for model in result["models"].values():
        seeds = model["seeds"]
        rows = [
            (f"`{m}`", *(f"{seeds[s][m]:.3f}" if m in seeds[s] else _NONE for s in seeds))
            for m in model["metrics"]
        ]
        yield f"{sanitize(model['label'])}:\n"
        yield markdown(("metric", *seeds), rows)
    yield "</details>\n"


def _provenance(result: Mapping[str, Any]) -> Iterable[str]:
    versions = ", ".join(f"{k} {v}" for k, v in result["versions"].items())
    hardware = ", ".join(f"{k}: {v}" for k, v in result["hardware"].items() if v is not None)
    units = result["units"]
    yield "\n".join(
        (
            f"- command: `{sanitize(result['command'])}`",
            f"- study config: `{result['config_sha256']}`; seeds {result['seeds']}",
            f"- versions: {versions}",
            f"- hardware: {hardware}",
            f"- finished {result['finished']}; {result['wall_s'] / 60:.1f} min on the clock, "
            f"{units['seconds'] / 60:.1f} min of units, {result['jobs']} at a time",
            f"- units: {units['done']} done, {units['failed']} failed, {units['blocked']} not run",
        )
    )
    yield ""
