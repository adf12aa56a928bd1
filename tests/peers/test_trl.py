"""Our learner's gradients are those of TRL's GRPOTrainer; runs where TRL is installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.peers.trl_gradients import (
    CASES,
    MOST,
    Bench,
    Case,
    compare,
    largest_difference,
    make_bench,
    our_gradients,
    their_gradients,
)
from tests.tiny_models import FAMILIES

pytestmark = [
    pytest.mark.peer,
    # Of the libraries beside us, which deprecate as they like.
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(scope="module", params=FAMILIES)
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder: Path = tmp_path_factory.mktemp(request.param)
    return make_bench(request.param, folder)


@pytest.mark.parametrize("batch", ["text", "images"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_gradients_are_those_of_trl(bench: Bench, case: Case, batch: str) -> None:
    most, parameter = compare(bench, case, batch)
    assert most <= MOST, parameter


def test_another_objective_has_other_gradients(bench: Bench) -> None:
    # The bound above can tell apart what differs in a few tokens only: clipping at 1.28 or 1.05.
    batch, case = bench.batches["text"], CASES[0]
    narrower = Case(case.name, case.ours | {"clip_high": 0.05}, case.theirs)
    theirs = their_gradients(bench, case, batch)
    assert largest_difference(our_gradients(bench, narrower, batch), theirs)[0] > 100 * MOST
