"""Draw the pictures of this folder and write ``tasks.jsonl``: how the 20 lines were made.

Run it with ``python examples/own_tasks/make_tasks.py``; your own file needs no such script. The
digits are real handwriting from scikit-learn, the shapes are drawn.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from sklearn.datasets import load_digits

HERE = Path(__file__).parent
SIDE_PX = 112
COLORS = {"red": (214, 39, 40), "blue": (31, 119, 180), "green": (44, 160, 44)}


def digit(value: int) -> Image.Image:
    """Return a handwritten digit, dark on white, 112 x 112 pixels."""
    digits = load_digits()
    glyph = digits.images[np.flatnonzero(digits.target == value)[3]]
    small = Image.fromarray((255 - glyph * 15).astype(np.uint8))
    return small.resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC)


def shapes(seed: int, counts: dict[tuple[str, str], int]) -> Image.Image:
    """Return a picture with the given numbers of (color, shape), 160 x 120 pixels."""
    image = Image.new("RGB", (160, 120), "white")
    draw = ImageDraw.Draw(image)
    cells = np.random.default_rng(seed).permutation(12).tolist()
    for (color, shape), count in counts.items():
        for _ in range(count):
            row, column = divmod(cells.pop(), 4)
            box = (column * 40 + 6, row * 40 + 6, column * 40 + 33, row * 40 + 33)
            paint = draw.ellipse if shape == "circle" else draw.rectangle
            paint(box, fill=COLORS[color])
    return image


def rows() -> list[dict[str, Any]]:
    """Return the 20 lines."""
    made: list[dict[str, Any]] = [
        {"id": f"digit-{v}", "question": "Which digit is written here?", "answer": v}
        | {"image": f"images/digit_{v}.png", "category": "digit"}
        for v in range(8)
    ]
    options = "(A) red (B) blue (C) green"
    asked = [
        ("shapes_0", "How many red circles are there?", 3, "integer"),
        ("shapes_0", "How many shapes are there in all?", 6, "integer"),
        ("shapes_0", f"Which color do the squares have? {options}", "B", "letter"),
        ("shapes_1", "Is there a red shape?", "no", "yes_no"),
        ("shapes_1", f"Which color is the most frequent? {options}", "C", "letter"),
        ("shapes_1", "What share of the shapes is blue?", "2/7", "float"),
        ("shapes_1", "Which colors are there?", "blue, green", "set"),
    ]
    for number, (name, question, answer, kind) in enumerate(asked):
        row = {"id": f"shapes-{number}", "question": question, "answer": answer}
        made.append(row | {"answer_type": kind, "image": f"images/{name}.png", "category": "shape"})
    for first, second in ((2, 5), (7, 1), (3, 4)):
        row = {"id": f"sum-{first}-{second}", "question": "What is the sum of the two digits?"}
        images = [f"images/digit_{v}.png" for v in (first, second)]
        made.append(row | {"answer": first + second, "images": images, "category": "several"})
    for values in ((6, 0, 4), (5, 2)):
        row = {"id": "order-" + "".join(map(str, values)), "question": "Read the digits in order."}
        images = [f"images/digit_{v}.png" for v in values]
        row |= {"answer": ", ".join(map(str, values)), "answer_type": "sequence"}
        made.append(row | {"images": images, "category": "several"})
    return made


def main() -> None:
    """Write images/ and tasks.jsonl."""
    (HERE / "images").mkdir(exist_ok=True)
    for value in range(8):
        digit(value).save(HERE / "images" / f"digit_{value}.png", optimize=True)
    both = (
        {("red", "circle"): 3, ("blue", "square"): 3},
        {("green", "circle"): 5, ("blue", "square"): 2},
    )
    for number, counts in enumerate(both):
        shapes(number, counts).save(HERE / "images" / f"shapes_{number}.png", optimize=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows())
    (HERE / "tasks.jsonl").write_text(lines, encoding="utf-8")


if __name__ == "__main__":
    main()
