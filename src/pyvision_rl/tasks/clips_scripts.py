r"""What is asked about a clip, and turns that find it out: from a sheet to a window to one frame.

In: a ``Scene``, and a generator where a script has a choice. Out: question, answer, and the text of
assistant turns. A turn holds few decisions, each one token of a small model:

    sheet    64 frames as 8x8, shown at twice the figure's side    (no decision)
    window   16 frames in a row as 4x4, likewise                   i=n//8*ROW+8*PART
    frame    one of those shown last, at the figure's side         f[ROW,COLUMN]

``n`` and ``f`` live on from turn to turn. Runs nothing, and paints nothing.
"""

from __future__ import annotations

import numpy as np

from pyvision_rl.tasks.clips_scene import (
    MAX_COUNT,
    SHEET_SIDE,
    WINDOW_SIDE,
    WINDOW_STEP,
    Category,
    Scene,
    corner_of,
    direction_of,
    sheet_cell,
    window_cell,
    window_of,
)

VIA_WINDOW = 0.2
"""Share of ``which`` scripts that find the frame in a window, not in the sheet."""
LOOK_FIRST = 0.5
"""Share of ``flash`` scripts that look at the sheet's frame first: the digit may be there."""
FRAME_START = "plt.imshow(f["
WINDOW_START = f"i=n//{SHEET_SIDE}*"
ANSWER_START = r"\boxed{"
_FIGURE = "plt.figure(figsize=(2.24,2.24))\nplt.imshow(np.hstack(np.hstack(f)))"
"""Two of the 1.12 inches that a figure has in the tiny configs, for 64 or 16 frames."""


def question(scene: Scene) -> str:
    """Return the question of a scene's category, with all answers that it may have."""
    if scene.category == "move" and scene.ball is not None:
        ways = {"x": "left or right", "y": "up or down"}[scene.ball.axis]
        return f"ball at red card goes {ways}?"
    texts: dict[Category, str] = {
        "which": "digit on red card, 0 to 9?",
        "flash": "digit on red card, 0 to 9?",
        "when": "quarter with red card, 1 to 4?",
        "where": "corner of red card, top or bottom, left or right?",
        "count": f"how many red cards, 1 to {MAX_COUNT}?",
        "order": "first card, red or blue?",
    }
    return texts[scene.category]


def answers(scene: Scene) -> tuple[str, ...]:
    """Return every answer that the scene's question allows, the right one first."""
    card = scene.cards[0]
    if scene.category in ("which", "flash"):
        right, allowed = str(card.digit), [str(digit) for digit in range(10)]
    elif scene.category == "when":
        right, allowed = str(4 * card.first // scene.num_frames + 1), ["1", "2", "3", "4"]
    elif scene.category == "count":
        reds = sum(each.color == "red" for each in scene.cards)
        right, allowed = str(reds), [str(number) for number in range(1, MAX_COUNT + 1)]
    elif scene.category == "order":
        right = min(scene.cards, key=lambda each: each.first).color
        allowed = ["red", "blue"]
    elif scene.category == "where":
        right = " ".join(corner_of(scene, card))
        allowed = [f"{y} {x}" for y in ("top", "bottom") for x in ("left", "right")]
    else:
        assert scene.ball is not None
        right = direction_of(scene.ball, (card.first + card.end) // 2)
        allowed = ["left", "right"] if scene.ball.axis == "x" else ["up", "down"]
    return (right, *(each for each in allowed if each != right))


def looks(scene: Scene, rng: np.random.Generator, miss: float) -> tuple[str, ...]:
    """Return the turns with code that show what the question asks for.

    Args:
        scene: What the video shows.
        rng: Draws among several ways, and what is missed.
        miss: Probability, for each window and frame, that it is any instead of the right one.
    """
    card = scene.cards[0]
    turns = [sheet_turn(scene)]
    window = _missed(rng, miss, window_turn(scene, window_of(scene, card)), _any_window(rng, scene))
    if scene.category == "move":
        turns.append(window)
    if scene.category not in ("which", "flash", "where"):
        return tuple(turns)
    cell = sheet_cell(scene, card)
    frame = _missed(rng, miss, frame_turn(*cell), _any_frame(rng, SHEET_SIDE))
    inside = _missed(rng, miss, frame_turn(*window_cell(scene, card)), _any_frame(rng, WINDOW_SIDE))
    if scene.category == "flash":
        turns += [frame] if rng.random() < LOOK_FIRST else []
        number = scene.step * (SHEET_SIDE * cell[0] + cell[1])
        if len(turns) > 1 and card.inked[0] <= number < card.inked[1]:
            return tuple(turns)
        return (*turns, window, inside)
    via_window = scene.category == "which" and rng.random() < VIA_WINDOW
    return (*turns, window, inside) if via_window else (*turns, frame)


def sheet_turn(scene: Scene) -> str:
    """Return the turn that shows 64 frames of the whole video."""
    side, px = SHEET_SIDE, scene.side
    return code_turn(
        "n=len(video_clue_0)\n"
        f"f=video_clue_0.get_batch(range(0,n,n//{side * side})).asnumpy()"
        f".reshape({side},{side},{px},{px},3)\n{_FIGURE}"
    )


def window_turn(scene: Scene, window: int) -> str:
    """Return the turn that shows the 16 frames of a window."""
    side, px = WINDOW_SIDE, scene.side
    return code_turn(
        f"{WINDOW_START}{window_place(scene, window)}\n"
        f"f=video_clue_0.get_batch(range(i,i+{side * side})).asnumpy()"
        f".reshape({side},{side},{px},{px},3)\n{_FIGURE}"
    )


def window_place(scene: Scene, window: int) -> str:
    """Return where a window begins, as a row of the sheet and a part of that row."""
    row, part = divmod(window, scene.num_frames // SHEET_SIDE // WINDOW_STEP)
    return f"{row}+{WINDOW_STEP}*{part}"


def frame_turn(row: int, column: int) -> str:
    """Return the turn that shows one frame of the sheet or window that was shown last."""
    return code_turn(f"{FRAME_START}{row},{column}])")


def code_turn(code: str) -> str:
    """Return a turn that draws and shows."""
    return f"<code>\n```python\n{code}\nplt.show()\n```\n</code>"


def answer_turn(answer: str) -> str:
    """Return a turn that answers."""
    return f"<answer>\n{ANSWER_START}{answer}}}\n</answer>"


def _any_window(rng: np.random.Generator, scene: Scene) -> str:
    return window_turn(scene, int(rng.integers(scene.num_frames // WINDOW_STEP - 1)))


def _any_frame(rng: np.random.Generator, side: int) -> str:
    row, column = rng.integers(side, size=2).tolist()
    return frame_turn(row, column)


def _missed(rng: np.random.Generator, miss: float, right: str, other: str) -> str:
    """The right turn, or with probability ``miss`` the other."""
    return other if rng.random() < miss else right
