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


def arithmetic(pair: Pair) -> Pair:
    return pair[0] / 255.0, pair[1]


@st.composite
def changed(draw: st.DrawFn) -> tuple[Pair, bool]:
    """What some of the things that code does to frames made, and whether it mixed frames."""
    pair, mixed = video(), False
    for _ in range(draw(st.integers(1, 4))):
        ndim, length = pair[0].ndim, len(pair[0])
        kinds = ["arithmetic", "reverse", "slice", "copy", *(["rows"] if ndim > 2 else [])]
        kinds += ["pick", "transpose"] if ndim == 4 else []
        kinds += ["sheet", "fold"] if ndim == 4 and length % 2 == 0 else []
        kind = draw(st.sampled_from(kinds))
        if kind == "arithmetic":
            pair = arithmetic(pair)
        elif kind == "reverse":
            pair = each(pair, lambda a: a[::-1])
        elif kind == "slice":
            start = draw(st.integers(0, length - 1))
            pair = each(pair, lambda a, start=start: a[start:])
        elif kind == "rows":
            pair = each(pair, lambda a: a[:, 1:] if a.shape[1] > 1 else a)
        elif kind == "copy":
            pair = each(pair, lambda a: a.copy())
        elif kind == "pick":
            pair = each(pair, lambda a: a[len(a) // 2])
        elif kind == "transpose":
            pair, mixed = each(pair, lambda a: a.transpose(1, 0, 2, 3)), True
        elif kind == "sheet":
            pair, mixed = each(pair, lambda a: np.hstack(list(a))), True
        else:
            pair = each(pair, lambda a: a.reshape(2, len(a) // 2, *a.shape[1:]))
    return pair, mixed


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
