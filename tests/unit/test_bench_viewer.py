"""The viewer benchmark does what it says, at a small size."""

from __future__ import annotations

from benchmarks.viewer import (
    QUICK,
    Sizes,
    export_numbers,
    index_numbers,
    make_run,
    notes,
    served_numbers,
    to_markdown,
)
from pyvision_rl.view.index import RunIndex


def test_the_run_has_the_size_that_is_told(tmp_path):
    run = make_run(tmp_path / "run", QUICK)
    found = RunIndex(run).refresh()
    assert sum(len(s.rows) for s in found.steps) == QUICK.trajectories == 24
    # Two of each trajectory, and one of each group's task; none is equal to another.
    assert (found.num_images, found.num_here) == (24 * 2 + 6, 54)
    assert Sizes().trajectories == 10_000
    assert Sizes().trajectories * Sizes().pictures == 40_000
    served = served_numbers(run, QUICK)
    assert all(len(seconds) == QUICK.requests for seconds in served.values())
    result = {
        "index": index_numbers(run),
        "served": served,
        "export": export_numbers(run),
        "browser": {},
    }
    said = notes(QUICK, result, load=3.0)
    page = to_markdown({**result, "notes": said})
    assert page.count("| served |") == len(served)
    assert "24 trajectories with 48 pictures" in page
    for word in ("quick run", "load was 3.00", "No browser"):
        assert word in page
