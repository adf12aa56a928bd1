"""Arrays know which frames they show; finding out costs a look at each frame, not at each row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvision_rl.sandbox.inside import shown

K, H, W = 6, 4, 5
"""Frames, rows and columns of the property's video."""

Pair = tuple[Any, Any]
"""Pixels that know what they show, and an array of their form that holds each pixel's frame."""


def video() -> Pair:
    pixels = np.random.default_rng(0).integers(0, 256, (K, H, W, 3), dtype=np.uint8)
    frame = np.broadcast_to(np.arange(K)[:, None, None, None], pixels.shape).copy()
    return shown.shows(pixels, "video_clue_0", range(K)), frame


def each(pair: Pair, change: Any) -> Pair:
    return change(pair[0]), change(pair[1])


CHANGES: dict[str, Any] = {
    "copy": lambda a: a.copy(),
    "reverse": lambda a: a[::-1],
    "slice": lambda a: a[len(a) // 3 :],
    "rows": lambda a: a[:, 1:] if a.ndim > 2 and a.shape[1] > 1 else a,
    "pick": lambda a: a[len(a) // 2] if a.ndim == 4 else a,
    "fold": lambda a: a.reshape(2, len(a) // 2, *a.shape[1:]) if not len(a) % 2 else a,
    "strip": lambda a: a.reshape(-1, *a.shape[2:]) if a.ndim == 4 and a.flags.c_contiguous else a,
    "transpose": lambda a: a.transpose(1, 0, 2, 3) if a.ndim == 4 else a,
    "sheet": lambda a: np.hstack(list(a)) if a.ndim == 4 else a,
}
"""What code does to frames."""
MIXING = {"transpose", "sheet"}
"""Afterwards a part may be taken to show what stands beside it."""


@st.composite
def changed(draw: st.DrawFn) -> tuple[Pair, bool]:
    """What some changes made, and whether they mixed frames."""
    kinds = draw(st.lists(st.sampled_from(["arithmetic", *CHANGES]), min_size=1, max_size=4))
    pair = video()
    for kind in kinds:
        pair = (pair[0] / 255.0, pair[1]) if kind == "arithmetic" else each(pair, CHANGES[kind])
    return pair, bool(MIXING.intersection(kinds))


@given(changed())
def test_no_frame_that_is_shown_is_missed_and_none_is_made_up(made: tuple[Pair, bool]) -> None:
    (pixels, frame), mixed = made
    assert pixels.shape == frame.shape
    found = shown.frames_of(pixels)
    assert found is not None
    assert found[0] == "video_clue_0"
    truth = {int(n) for n in np.unique(frame)}
    assert truth <= set(found[1])
    if not mixed:
        assert truth == set(found[1])


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("arithmetic", lambda a: a / 255.0),
        ("a type", lambda a: np.isfinite(a)),
        ("a grid", lambda a: a.reshape(8, 8, *a.shape[1:]) * 2),
        ("a sheet", lambda a: np.hstack(np.hstack(a.reshape(8, 8, *a.shape[1:]))) + 1),
    ],
)
def test_many_frames_are_looked_at_once_each(
    name: str, change: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    covered = shown._covered

    def counted(*args: Any) -> Any:
        nonlocal looks
        looks += 1
        return covered(*args)

    pixels = np.zeros((64, 48, 48, 3), np.uint8)
    frames = shown.shows(pixels, "video_clue_0", range(64))
    monkeypatch.setattr(shown, "_covered", counted)
    made = change(frames)
    assert shown.frames_of(made) == ("video_clue_0", tuple(range(64)))
    assert looks < 4 * 64, f"{name}: {looks} looks at 64 frames of 48 rows"


def test_a_mask_made_of_frames_picks_pixels_as_any_mask_does() -> None:
    pixels, _ = video()
    plain = np.array(pixels)
    assert pixels.mean(where=pixels > 9) == plain.mean(where=plain > 9)
    assert np.sum(pixels, where=pixels > 9) == np.sum(plain, where=plain > 9)
    whole = pixels.astype(float)
    ratio = np.divide(whole[1], whole[0], out=np.zeros_like(whole[1]), where=whole[0] > 0)
    assert np.array_equal(ratio[plain[0] > 0], plain[1][plain[0] > 0] / plain[0][plain[0] > 0])
