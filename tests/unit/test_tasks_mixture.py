"""A mixture draws from its sets by weight, and an index alone says which task is meant."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvision_rl.assemble import build_tasks
from pyvision_rl.config import TasksConfig
from pyvision_rl.errors import ConfigError
from pyvision_rl.tasks.base import TaskSet
from pyvision_rl.tasks.sources import sources_of
from pyvision_rl.types import Gold, Task, TaskInput


class Numbers:
    """As many tasks as its options say."""

    def __init__(self, config: TasksConfig) -> None:
        self._size = int(config.options["size"])

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> Task:
        assert 0 <= index < self._size
        return Task(TaskInput(f"n{index}", "?", data_source="numbers"), Gold(str(index)))


def mixture(**sets: dict[str, Any]) -> TaskSet:
    return build_tasks(TasksConfig(name="mixture", options={"sets": sets}))


def numbers(size: int, **fields: Any) -> dict[str, Any]:
    return {"name": f"{__name__}:Numbers", "options": {"size": size}, **fields}


def ids(tasks: TaskSet) -> list[str]:
    return [tasks[i].id for i in range(len(tasks))]


def test_sets_are_interleaved_by_weight_and_named_in_the_ids() -> None:
    # Draws of a lie at 1/4 and 3/4 of a period, that of b at 1/2. b is done after two periods.
    made = mixture(a=numbers(4, weight=2), b=numbers(2))
    assert ids(made) == ["a/n0", "b/n0", "a/n1", "a/n2", "b/n1", "a/n3"]
    assert made[4] == Task(TaskInput("b/n1", "?", data_source="numbers"), Gold("1"))


def test_a_set_that_runs_out_begins_again_under_new_ids() -> None:
    assert ids(mixture(a=numbers(3), b=numbers(1))) == [
        *("a/n0", "b/n0"),
        *("a/n1", "b#2/n0"),
        *("a/n2", "b#3/n0"),
    ]


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 5)), min_size=1, max_size=4))
def test_every_task_is_there_ids_are_unique_and_shares_are_exact(
    rows: list[tuple[int, int]],
) -> None:
    made = mixture(**{f"s{i}": numbers(size, weight=w) for i, (size, w) in enumerate(rows)})
    found = ids(made)
    assert len(set(found)) == len(found)
    assert {f"s{i}/n{k}" for i, (size, _) in enumerate(rows) for k in range(size)} <= set(found)
    drawn = Counter(name.partition("/")[0].partition("#")[0] for name in found)
    periods = len(found) // sum(w for _, w in rows)
    assert drawn == {f"s{i}": periods * w for i, (_, w) in enumerate(rows)}


def test_a_limit_of_the_mixture_keeps_the_shares_and_one_of_a_set_holds() -> None:
    made = mixture(a=numbers(100, weight=3), b=numbers(100, limit=5))
    first = Counter(made[i].id[0] for i in range(40))
    assert first == {"a": 30, "b": 10}
    assert {made[i].id.partition("/")[2] for i in range(40) if made[i].id[0] == "b"} == {
        f"n{k}" for k in range(5)
    }


def test_there_is_no_task_before_the_first_or_after_the_last() -> None:
    made = mixture(a=numbers(2))
    for index in (-1, 2):
        with pytest.raises(IndexError):
            made[index]


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({}, "tasks.options.sets is missing"),
        ({"sets": {}}, "name at least one task set"),
        ({"sets": {"a": {"name": "needel"}}}, "in tasks.options.sets.a: .*did you mean"),
        ({"sets": {"a": {"name": "jsonl", "wieght": 2}}}, "wieght is not a key.*did you mean"),
        ({"sets": {"a": {"name": "jsonl", "weight": 0}}}, "tasks.options.sets.a.weight"),
        ({"sets": {"a/b": numbers(1)}}, "may not hold '/'"),
        ({"sets": {"a": numbers(0)}}, "tasks.options.sets.a holds no tasks"),
    ],
)
def test_a_wrong_mixture_is_named(options: dict[str, Any], part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        build_tasks(TasksConfig(name="mixture", options=options))


def test_a_mixture_reads_no_file_of_its_own() -> None:
    with pytest.raises(ConfigError, match="reads no file"):
        build_tasks(
            TasksConfig(name="mixture", path="x.jsonl", options={"sets": {"a": numbers(1)}})
        )


def test_the_data_sources_are_those_of_every_set() -> None:
    class Lettered(Numbers):
        def data_sources(self) -> frozenset[str]:
            return frozenset({"letters"})

    made = mixture(a=numbers(40), b={"name": "needle"})
    assert made.data_sources() == {"numbers", "needle"}  # type: ignore[attr-defined]
    assert sources_of(Lettered(TasksConfig(options={"size": 3}))) == {"letters"}
