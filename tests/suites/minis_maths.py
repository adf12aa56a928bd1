"""Miniatures of the four benchmarks of mathematics, with exactly the published columns.

Pictures are drawn and questions are ours: no row of a published benchmark is in this repository.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.suites.minis import as_base64, drawn, encoded, write_parquet, write_tsv

MATHVERSE_COLUMNS = (
    *("sample_index", "problem_index", "problem_version", "question", "image", "answer"),
    *("question_type", "metadata", "query_wo", "query_cot", "question_for_eval"),
)
MATHVISION_COLUMNS = (
    *("id", "question", "options", "image", "decoded_image", "answer", "solution", "level"),
    "subject",
)
WEMATH_COLUMNS = (
    *("ID", "split", "knowledge concept", "question", "option", "answer", "image_path", "key"),
    *("question number", "knowledge concept description"),
)
DYNAMATH_COLUMNS = (
    *("id", "question", "image", "decoded_image", "ground_truth", "answer_type", "subject"),
    "knowledge_level",
)
VERSIONS = ("Text Dominant", "Text Lite", "Vision Intensive", "Vision Dominant", "Vision Only")

MATHVERSE = (
    (
        "In triangle PQR, angle P = 70 and angle Q = 60, then angle R is ()",
        "\nChoices:\nA:40°\nB:50°\nC:60°\nD:130°",
        "B",
        ("Plane Geometry", "Angle"),
    ),
    ("A ball has radius 3. Find its volume.", "", "36\\pi", ("Solid Geometry", "Volume")),
    ("Find the bearing of X from Y.", "", "225^\\circ T", ("Plane Geometry", "Applied")),
    ("How far is it, to one decimal place?", "", "12.4", ("Functions", "Applied")),
)
"""(question, options, answer, (subject, subfield))"""

MATHVISION = (
    ("How many dots are there?\n<image1>", [], "7", 1, "counting"),
    ("Which figure comes next?\n<image1>", list("ABCDE"), "D", 2, "logic"),
    (
        "What is the area of <image1>?",
        ["$\\frac{1}{2}$", "$2 \\sqrt{3}$", "$30^{\\circ}$", "24", "none of these"],
        "B",
        4,
        "metric geometry - area",
    ),
    ("<image1> balances <image2>. What is the length?", [], "$4 \\pi$", 5, "algebra"),
    ("Where does it end?\n<image1>", [], "(3,-4)", 3, "analytic geometry"),
    ("Which part is shaded?\n<image1>", [], "\\frac{3}{8}", 3, "arithmetic"),
)
"""(question, options, answer, level, subject)"""

WEMATH = (
    ("2steps_1", "1", "Length", "a = ( ) m", "A. 3;B. 30;C. 300; D. No correct answer", "B"),
    ("2steps_1", "2", "Area", "area = ( ) m²", "A. 6; B. 60; C. 90; D. No correct answer", "C"),
    ("2steps_1", "multi", "Area", "cost = ( )", "A. 1 B. 2 ;C. 3; D. No correct answer", "A"),
    ("3steps_7", "1", "Angles", "∠1 = ( )", "A. 10°; B. 20°; C. 30°; F. No correct answer", "C"),
    ("3steps_7", "2", "Angles", "It is called", "A. Acute;B. Right;C. ∠AB;E.; D. Flat", "A"),
    ("3steps_7", "3", "Angles", "∠2 = ( )", "A. 70°; B. 80°; C. 90°; D. No correct answer", "B"),
    ("3steps_7", "multi", "Angles", "∠3 = ( )", "A. 1π; B. 2π; C. 3π; D. 4π; E. None", "E"),
)
"""(ID, part of the key, concept, question, option, answer)"""

DYNAMATH = (
    ("12", "What is the period? Answer with a number.", "float", "algebra", "high school"),
    (
        "40",
        "Which is larger? Choices: (A) red (B) blue",
        "multiple choice",
        "statistics",
        "college",
    ),
    ("41", "Which month is hottest?", "text", "statistics", "elementary school"),
    ("77", "Where is the vertex?", "text", "analytic geometry", "high school"),
    ("90", "Which set?\nA: [1, 2]\nB: [3]\n", "multiple choice", "arithmetic", "college"),
)
"""(id, question, answer_type, subject, knowledge_level); the answer depends on the variant."""


def mathverse_rows() -> list[dict[str, Any]]:
    """Return every problem in its five versions, pictures as bytes."""
    rows = []
    for problem, (question, options, answer, about) in enumerate(MATHVERSE, start=1):
        kind = "multi-choice" if options else "free-form"
        ask = "provide the correct option letter" if options else "provide the final value"
        metadata = dict(zip(("subject", "subfield"), about, strict=True))
        for version in VERSIONS:
            seen = "" if version == "Vision Only" else question + options
            picture = {"bytes": encoded(drawn(len(rows))), "path": f"image_{problem}.png"}
            values = (
                *(str(len(rows) + 1), str(problem), version, seen, picture, answer, kind),
                {"split": "testmini", "source": "made", **metadata},
                f"Please directly answer the question and {ask}.\nQuestion: {seen}",
                f"Please first conduct reasoning, and then {ask}.\nQuestion: {seen}",
                question + options,
            )
            rows.append(dict(zip(MATHVERSE_COLUMNS, values, strict=True)))
    return rows


def mathverse_parquet(folder: Path) -> Path:
    """Write ``testmini.parquet``; return the folder."""
    write_parquet(folder / "testmini.parquet", mathverse_rows())
    return folder


def mathverse_text_only(path: Path) -> Path:
    """Write the text-only version: ``image`` is an empty text, and there is no text for judges."""
    rows = [row for row in mathverse_rows() if row["problem_version"] == "Text Dominant"]
    for row in rows:
        row |= {"image": "", "problem_version": "Text Only"}
        del row["question_for_eval"]
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def mathverse_tsv(path: Path) -> Path:
    """Write VLMEvalKit's TSV: metadata is the text of a mapping."""
    rows = []
    for number, row in enumerate(mathverse_rows()):
        row |= {"image": as_base64(drawn(number)), "metadata": str(row["metadata"])}
        rows.append((number, *row.values()))
    return write_tsv(path, ("index", *MATHVERSE_COLUMNS), rows)


def mathvision_rows() -> list[dict[str, Any]]:
    """Return the problems, pictures as bytes."""
    rows = []
    for number, (question, options, answer, level, subject) in enumerate(MATHVISION, start=4):
        path = f"images/{number}.jpg"
        picture = {"bytes": encoded(drawn(number), "JPEG"), "path": path}
        values = (str(number), question, options, path, picture, answer, None, level, subject)
        rows.append(dict(zip(MATHVISION_COLUMNS, values, strict=True)))
    return rows


def mathvision_parquet(path: Path) -> Path:
    """Write the Parquet file."""
    return write_parquet(path, mathvision_rows())


def mathvision_folder(folder: Path) -> Path:
    """Write ``test.jsonl`` and its pictures; return the folder."""
    lines = []
    for row in mathvision_rows():
        picture = row.pop("decoded_image")
        path = folder / row["image"]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(picture["bytes"])
        lines.append(json.dumps(row) + "\n")
    (folder / "test.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def mathvision_tsv(path: Path) -> Path:
    """Write VLMEvalKit's TSV: its question lists the choices, which are also a text of a list."""
    rows = []
    for number, (question, options, answer, _, subject) in enumerate(MATHVISION, start=4):
        listed = f"{question}\nChoices: {options}" if options else question
        rows.append((number, as_base64(drawn(number)), listed, str(options), answer, subject))
    return write_tsv(path, ("index", "image", "question", "choices", "answer", "category"), rows)


def wemath_rows() -> list[dict[str, Any]]:
    """Return two problems with their steps, pictures as paths."""
    rows = []
    for number, (problem, part, concept, question, option, answer) in enumerate(WEMATH, start=1):
        key = f"{problem.partition('_')[0]}_{part}"
        image = f"{problem.partition('_')[0]}/image/{problem}-{part}.png"
        values = (
            *(problem, "testmini", concept, question, option, answer, image, key, number),
            f"{concept}:\n1. ...",
        )
        rows.append(dict(zip(WEMATH_COLUMNS, values, strict=True)))
    return rows


def wemath_folder(folder: Path) -> Path:
    """Write ``testmini.json`` and its pictures; return the folder."""
    rows = wemath_rows()
    for number, row in enumerate(rows):
        path = folder / row["image_path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(drawn(number)))
    (folder / "testmini.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder


def wemath_parquet(path: Path) -> Path:
    """Write the Parquet file: ``image_path`` holds the picture."""
    rows = wemath_rows()
    for number, row in enumerate(rows):
        row["image_path"] = {"bytes": encoded(drawn(number)), "path": row["image_path"]}
    return write_parquet(path, rows)


def dynamath_answer(problem: str, variant: int) -> str:
    """Return the reference of a problem's variant."""
    letter = "AB"[variant % 2]
    answers = {"12": f"{variant}.0944", "40": letter, "41": "May", "90": letter}
    return answers.get(problem, f"({variant}, -3)")


def dynamath_rows(variant: int) -> list[dict[str, Any]]:
    """Return the problems of one variant; ``id`` is the problem's."""
    rows = []
    for problem, question, kind, subject, level in DYNAMATH:
        path = f"images/image{problem}_{variant}.png"
        picture = {"bytes": encoded(drawn(variant)), "path": path}
        answer = dynamath_answer(problem, variant)
        values = (problem, question, path, picture, answer, kind, subject, level)
        rows.append(dict(zip(DYNAMATH_COLUMNS, values, strict=True)))
    return rows


def dynamath_folder(folder: Path) -> Path:
    """Write the ten Parquet files; return the folder."""
    for variant in range(1, 11):
        name = f"sample_variant{variant}-00000-of-00001.parquet"
        write_parquet(folder / name, dynamath_rows(variant))
    return folder


def dynamath_tsv(path: Path) -> Path:
    """Write VLMEvalKit's TSV, with columns for problem and variant."""
    columns = ("index", "image", "question", "answer", "answer_type", "subject", "knowledge_level")
    rows = []
    for variant in range(1, 11):
        for row in dynamath_rows(variant):
            values = (row["question"], row["ground_truth"], row["answer_type"], row["subject"])
            picture = as_base64(drawn(variant))
            rows.append((len(rows), picture, *values, row["knowledge_level"], row["id"], variant))
    return write_tsv(path, (*columns, "qid", "varid"), rows)


BLIND_COLUMNS = ("image", "task", "prompt", "groundtruth", "metadata")
BLIND = (
    ("Subway Connections", "How many paths go from A to B? Answer in {}, e.g. {3}.", "3"),
    ("Nested Squares", "Count the squares. Answer in {}, e.g. {3}.", "4"),
    ("Line Plot Intersections", "How often do the lines cross? Answer in {}, e.g. {3}.", "2"),
    ("Touching Circles", "Are the circles touching? Answer Yes or No.", "No"),
    ("Counting Grid - Word Grids", "Count rows and columns: rows={5} columns={6}", "4,5"),
    ("Counting Grid - Blank Grids", "Count rows and columns: rows={5} columns={6}", "10,3"),
    ("Olympic Counting - Pentagons", "How many pentagons? Answer in {}, e.g. {3}.", "5"),
    ("Olympic Counting - Circles", "How many circles? Answer in {}, e.g. {3}.", "9"),
    ("Circled Letter", "Which letter is circled? Answer in {}, e.g. {a}.", "c"),
)
"""(task, prompt, groundtruth)"""


def blind_parquet(path: Path) -> Path:
    """Write the Parquet file."""
    rows = []
    for number, row in enumerate(BLIND):
        picture = {"bytes": encoded(drawn(number)), "path": f"{number}.png"}
        rows.append(dict(zip(BLIND_COLUMNS, (picture, *row, "{}"), strict=True)))
    return write_parquet(path, rows)


def blind_tsv(path: Path) -> Path:
    """Write VLMEvalKit's TSV."""
    columns = ("index", "image", "task", "question", "answers")
    rows = [(number, as_base64(drawn(number)), *row) for number, row in enumerate(BLIND)]
    return write_tsv(path, columns, rows)
