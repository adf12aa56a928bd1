"""The video benchmark does what it says, with whatever arms there are."""

from __future__ import annotations

import pytest

pytest.importorskip("av", reason="install the extra: sandbox")
from benchmarks.video import EQUAL, QUICK, arms, goals, make_clip, measure, notes, to_markdown


def test_every_arm_reads_the_same_frames(tmp_path):
    have = arms()
    found = {"made": measure(make_clip(tmp_path / "made.mp4", 20), have, QUICK)}
    for arm in have:
        assert len(found["made"]["open_s"][arm]) == QUICK.rounds
        assert len(found["made"]["random_s"][arm]) == QUICK.rounds * QUICK.frames
        assert found["made"]["largest_difference"][arm] <= 2
    page = to_markdown({"clips": found, "goals": goals(found), "notes": ["Read this."]})
    assert page.count("| made 640x360, 20 frames |") == len(have) + 1
    assert page.endswith("\nRead this.\n")


def test_goals_are_ratios_of_medians():
    times = {"ours": [3.0, 1.0, 2.0], EQUAL: [1.0, 1.0, 9.0]}
    result = {"random_s": times, "open_s": {"ours": [1.0, 2.0, 3.0]}, "all_s": [20.0, 9.0, 1.0]}
    # 2 / 1 is more than 1.2; 9 / 2 is less than 5.
    assert [(g["reached"], g["verdict"]) for g in goals({"clip": result})] == [
        (2.0, "fail"),
        (4.5, "fail"),
    ]


def test_a_run_says_what_it_lacks():
    said = " ".join(notes({}, {"made": {}}, quick=True, load=3.0))
    for word in ("quick run", "load was 3.00", "decord2", "OpenCV", "scikit-video"):
        assert word in said
