"""What is exported is whole, opens alone, and runs no script but its own."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pyvision_rl.config import Config
from pyvision_rl.errors import ConfigError, RunError
from pyvision_rl.media import image_media
from pyvision_rl.runs import RunReader, RunWriter
from pyvision_rl.runs_codec import encode
from pyvision_rl.runs_files import line_of
from pyvision_rl.study.conduct import write_study as write_config
from pyvision_rl.study.config import StudyConfig
from pyvision_rl.types import EndReason
from pyvision_rl.view.against import Other
from pyvision_rl.view.export import export_folder
from pyvision_rl.view.limits import parse_steps
from pyvision_rl.view.lines import Problems
from pyvision_rl.view.notes import append_note, check_note, read_notes
from pyvision_rl.view.single import export_file
from pyvision_rl.view.site import PAGE, Options, RunSite, StudySite, web_names
from pyvision_rl.view.study import study_payload
from pyvision_rl.view.thumbs import SIDE, thumbnail, write_thumbnails
from tests.unit.test_view_payloads import payload_of
from tests.view_example import saved_groups, write_run, write_study

NOTE = {"step": 1, "task": "needle-4", "rollout": 0, "tags": ["x"], "text": "</script>"}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "r", 2)


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    return write_study(tmp_path_factory.mktemp("studies") / "s")


def test_a_folder_holds_every_name_of_the_site(run: Path, tmp_path: Path) -> None:
    written = export_folder(run, tmp_path / "out")
    site = RunSite(run, Options())
    for name in site.names():
        assert (tmp_path / "out" / name).is_file(), name
    files = [f for f in (tmp_path / "out").rglob("*") if f.is_file()]
    assert len(files) == len(set(site.names()))
    assert written.bytes == sum(f.stat().st_size for f in files)
    assert (written.trajectories, written.images) == (40, len(site.images()))
    told = payload_of((tmp_path / "out/data/run.js").read_bytes(), "run")
    assert (told["live"], told["notes_token"], told["home"]) == (False, None, None)


def test_another_run_stands_beside_with_its_grades_by_task(run: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", 1, seed=1)
    options = Options(against=other)
    site = RunSite(run, options)
    assert "data/other.js" in set(site.names())
    assert "data/other.js" not in set(RunSite(run, Options()).names())
    assert RunSite(run, Options()).get("data/other.js", {}) is None
    found = site.get("data/other.js", {})
    assert found is not None
    assert isinstance(found.body, bytes)
    told = payload_of(found.body, "other")
    graded: dict[str, list[int]] = {}
    for saved in RunReader(other).trajectories():
        counts = graded.setdefault(saved.task.id, [0, 0])
        reward = saved.trajectory.reward
        counts[0] += reward is not None and reward.correct
        # What failed by our own fault is wrong, as in every evaluation.
        counts[1] += reward is not None or saved.trajectory.end is EndReason.FAILED
    assert {task: [good, count] for task, good, count in told["tasks"]} == graded
    assert sum(good for good, _ in graded.values()) > 0
    failed = [s for s in RunReader(other).trajectories() if s.trajectory.end is EndReason.FAILED]
    assert failed
    export_folder(run, tmp_path / "out", against=other)
    assert (tmp_path / "out/data/other.js").is_file()
    told = payload_of((tmp_path / "out/data/run.js").read_bytes(), "run")
    assert told["other"] == "other"
    export_file(run, tmp_path / "one.html", against=other)
    assert 'give("other"' in (tmp_path / "one.html").read_text()


def test_the_other_run_is_told_from_this_one(tmp_path: Path) -> None:
    mine, theirs = write_run(tmp_path / "a/free", 1), write_run(tmp_path / "b/free", 1)
    assert Other(theirs, mine).name == "b/free"
    assert Other(tmp_path / "b" / ".." / "b" / "free", mine / "..").name == "free"
    assert Other(mine, mine).name == "free"


def test_what_is_no_run_cannot_stand_beside(run: Path, study: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run folder"):
        export_folder(run, tmp_path / "a", against=tmp_path)
    with pytest.raises(ConfigError, match="--against is for a run"):
        export_folder(study, tmp_path / "b", against=run)
    assert not list(tmp_path.iterdir())


def test_the_page_is_the_last_file(run: Path) -> None:
    assert list(RunSite(run, Options()).names())[-1] == PAGE
    assert web_names()[-1] == PAGE


def test_pictures_are_exported_as_they_are(run: Path, tmp_path: Path) -> None:
    export_folder(run, tmp_path / "out")
    for picture in (run / "media").glob("*.png"):
        assert (tmp_path / "out/media" / picture.name).read_bytes() == picture.read_bytes()


def test_a_folder_that_holds_something_is_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    with pytest.raises(ConfigError, match="not an empty folder"):
        export_folder(run, tmp_path)
    with pytest.raises(RunError, match="no run folder"):
        export_folder(tmp_path, tmp_path / "out")


def test_steps_and_tokens_can_be_left_out(run: Path, tmp_path: Path) -> None:
    export_folder(run, tmp_path / "out", limits=parse_steps("2"), tokens=False)
    names = {f.name for f in (tmp_path / "out/data").iterdir()}
    assert names == {"run.js", "index.js", "notes.js", "c000002-00.js"}
    index = payload_of((tmp_path / "out/data/index.js").read_bytes(), "index")
    assert index["chunks"][0]["tokens"] is None


def scripts_of(page: str) -> list[str]:
    return re.findall(r"<script>(.*?)</script>", page, re.DOTALL)


def test_a_single_file_holds_all_data_and_pictures(run: Path, tmp_path: Path) -> None:
    written = export_file(run, tmp_path / "one.html")
    page = written.page.read_text(encoding="utf-8")
    scripts = scripts_of(page)
    given = [s for s in scripts if s.startswith("window.PVRL.give(")]
    media = payload_of(given[0].encode(), "media")
    site = RunSite(run, Options())
    assert sorted(media) == site.images()
    for digest, url in media.items():
        data = base64.b64decode(url.removeprefix("data:image/png;base64,"), validate=True)
        assert data == (run / "media" / f"{digest}.png").read_bytes()
    names = [name for name in site.names() if name.startswith("data/")]
    assert len(given) == len(names) + 1
    for made, name in zip(given[1:], names, strict=True):
        found = site.get(name, {})
        assert found is not None
        assert made.encode() == found.body


def test_a_single_file_allows_exactly_its_own_scripts(run: Path, tmp_path: Path) -> None:
    page = export_file(run, tmp_path / "one.html").page.read_text(encoding="utf-8")
    scripts = scripts_of(page)
    found = re.search(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', page)
    assert found is not None
    policy = html.unescape(found[1])
    allowed = re.search(r"script-src ([^;]*)", policy)
    assert allowed is not None
    hashes = {
        f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'"
        for s in scripts
    }
    assert set(allowed[1].split()) == hashes
    assert not re.search(r"<script[^>]+src=|<link[^>]+stylesheet", page)
    # Every script element is one that was put there: no text has opened or ended any.
    assert len(re.findall(r"<script", page, re.IGNORECASE)) == len(scripts)
    assert len(re.findall(r"</script", page, re.IGNORECASE)) == len(scripts)


def test_a_single_file_that_would_be_too_large_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"larger than 0\.1 MB.*--limit-steps.*--export"):
        export_file(run, tmp_path / "one.html", max_mb=0.1)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "one.html").write_text("mine")
    with pytest.raises(ConfigError, match="already"):
        export_file(run, tmp_path / "one.html")
    assert (tmp_path / "one.html").read_text() == "mine"


def lines_of(numbers: Iterable[int]) -> bytes:
    """Lines of an evaluation, an episode of each of these items of a set."""
    line = encode(saved_groups(1)[0])
    ids = ({"index": k, "task": line["task"] | {"id": f"item-{k:03}"}} for k in numbers)
    return b"".join(line_of({"index": 0} | line | each) for each in ids)


@pytest.fixture
def running(tmp_path: Path) -> Path:
    """An evaluation of two steps, of whose first the odd items of 200 have ended: two chunks."""
    RunWriter(tmp_path / "r", Config(), "eval").close()
    (tmp_path / "r/rollouts/step_000001.jsonl").write_bytes(lines_of(range(1, 200, 2)))
    (tmp_path / "r/rollouts/step_000002.jsonl").write_bytes(lines_of(range(200, 210)))
    return tmp_path / "r"


def in_a_folder(run: Path, out: Path, report: Callable[[str], None]) -> dict[str, Any]:
    """All data of an export by name."""
    export_folder(run, out / "site", report=report)
    return {f.stem: payload_of(f.read_bytes(), f.stem) for f in (out / "site/data").iterdir()}


def in_a_file(run: Path, out: Path, report: Callable[[str], None]) -> dict[str, Any]:
    """The same of a single file."""
    page = export_file(run, out / "one.html", report=report).page.read_text()
    given = re.findall(r'<script>(window\.PVRL\.give\("([a-z0-9-]+)".*?)</script>', page, re.DOTALL)
    return {name: payload_of(text.encode(), name) for text, name in given}


def items(data: dict[str, Any]) -> list[str]:
    """The item of every entry of the list; what an entry opens has to be the same."""
    index = data["index"]
    entries = zip(*(index[k] for k in ("chunk", "group", "task")), strict=True)
    found = [(index["chunks"][c]["name"], g, index["tasks"][t]["id"]) for c, g, t in entries]
    chunks = [name for name in data if re.fullmatch(r"c\d+-\d+", name)]
    opened = [(c, g["group"], g["task"]["id"]) for c in chunks for g in data[c]["groups"]]
    assert sorted(found) == sorted(opened)
    assert len(data["run"]["steps"]) == 2
    assert sum(step["num"] for step in data["run"]["steps"]) == len(found)
    return [item for _, _, item in found]


@pytest.mark.parametrize("export", [in_a_folder, in_a_file])
def test_an_export_of_what_is_being_written_is_of_one_moment(
    running: Path, tmp_path: Path, export: Any
) -> None:
    said: list[str] = []

    def grow(text: str) -> None:
        said.append(text)
        # The first step has been read by now.
        if "step_000002" in text:
            with (running / "rollouts/step_000001.jsonl").open("ab") as file:
                file.write(lines_of(range(0, 200, 2)))

    wanted = [f"item-{k:03}" for k in (*range(1, 200, 2), *range(200, 210))]
    assert items(export(running, tmp_path, grow)) == wanted
    assert not any("begins again" in text for text in said)


@pytest.mark.parametrize("export", [in_a_folder, in_a_file])
def test_an_export_begins_again_when_lines_are_written_anew(
    running: Path, tmp_path: Path, export: Any
) -> None:
    said: list[str] = []

    def end(text: str) -> None:
        said.append(text)
        if "step_000002" in text:
            (running / "rollouts/step_000001.jsonl").write_bytes(lines_of(range(9, -1, -1)))

    wanted = [f"item-{k:03}" for k in (*range(10), *range(200, 210))]
    assert items(export(running, tmp_path, end)) == wanted
    assert "step_000001.jsonl was written anew: the export begins again" in said


def test_an_export_of_what_never_stands_still_is_refused(running: Path, tmp_path: Path) -> None:
    numbers = [*range(1, 200, 2)]

    def change(text: str) -> None:
        if text.startswith("copied"):
            numbers.reverse()
            (running / "rollouts/step_000001.jsonl").write_bytes(lines_of(numbers))

    with pytest.raises(RunError, match=r"written anew 3 times .* try again .* --limit-steps"):
        export_folder(running, tmp_path / "site", report=change)
    # It may be tried again with the same folder.
    assert list((tmp_path / "site").iterdir()) == []


def test_every_run_that_an_exported_study_lists_has_a_page(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s")

    def begin(text: str) -> None:
        if text == "export variants/full/seed-0/rl":
            write_run(study / "variants/full/seed-9/rl", 1)

    export_folder(study, tmp_path / "site", report=begin)
    listed = payload_of((tmp_path / "site/data/run.js").read_bytes(), "run")["runs"]
    assert len(listed) == 8
    assert all((tmp_path / "site" / each["href"]).is_file() for each in listed)


def test_a_study_has_curves_of_every_seed_and_pages_of_every_run(
    study: Path, tmp_path: Path
) -> None:
    written = export_folder(study, tmp_path / "out")
    assert written.runs == 8
    told = payload_of((tmp_path / "out/data/run.js").read_bytes(), "run")
    facts = told["study"]
    assert (facts["title"], facts["seeds"]) == ("Does the tool term matter?", [0, 1])
    assert facts["quick"]
    assert told["config"]["rl"]["config"] == "tiny_image_rl"
    start, *variants = facts["variants"]
    assert (start["name"], start["kind"], start["seeds"]) == ("main", "start", [])
    assert [v["name"] for v in variants] == ["full", "no_tool"]
    assert variants[1]["label"] == "no tool"
    for variant in variants:
        assert [s["seed"] for s in variant["seeds"]] == [0, 1]
        for seed in variant["seeds"]:
            assert (seed["status"], seed["metrics"]["steps"]) == ("done", [1, 2, 3, 4, 5, 6])
            [evaluation] = seed["evaluations"]
            assert evaluation["name"] == "test"
            assert evaluation["result"]["overall"]["accuracy"] == 0.4 + 0.1 * seed["seed"]
            assert {seed["run"], evaluation["run"]} <= {r["name"] for r in told["runs"]}
    for each in told["runs"]:
        page = tmp_path / "out" / each["href"]
        assert page.is_file()
        inner = payload_of((page.parent / "data/run.js").read_bytes(), "run")
        assert (page.parent / inner["home"]).resolve() == (tmp_path / "out" / PAGE).resolve()
    assert told["study"]["tables"].startswith("# Does the tool term matter?")


def test_variants_stand_in_the_order_of_the_study_with_its_labels(tmp_path: Path) -> None:
    values = {
        "title": "Which is better?",
        "seeds": [3, 4],
        "cold_starts": [{"name": "z"}, {"name": "c"}],
        "rl": {"config": "tiny_image_rl"},
        "variants": [{"name": "b", "label": "Plain"}, {"name": "a", "label": "Paid"}],
    }
    write_config(StudyConfig.model_validate(values), tmp_path, quick=False)
    # What is in no config comes last.
    (tmp_path / "variants" / "0_unknown").mkdir(parents=True)
    told = study_payload(tmp_path)["study"]
    assert (told["title"], told["seeds"], told["quick"]) == ("Which is better?", [3, 4], False)
    starts = [("start", "z", "z"), ("start", "c", "c")]
    variants = [("b", "Plain"), ("a", "Paid"), ("0_unknown", "0_unknown")]
    assert [(v["kind"], v["name"], v["label"]) for v in told["variants"]] == [
        *starts,
        *(("variant", *pair) for pair in variants),
    ]


def test_a_study_as_one_file_lists_no_pages(study: Path, tmp_path: Path) -> None:
    page = export_file(study, tmp_path / "one.html").page.read_text()
    [told] = [s for s in scripts_of(page) if s.startswith('window.PVRL.give("run"')]
    assert payload_of(told.encode(), "run")["runs"] == []


def test_a_study_that_is_running_or_broken_is_shown(study: Path, tmp_path: Path) -> None:
    base = study / "variants/full/seed-0/rl/run.json"
    before = base.read_text()
    (study / "units" / "variants--full--seed-1--rl.json").rename(tmp_path / "note")
    try:
        base.write_text("{")
        site = StudySite(study, Options())
        found = site.get("data/run.js", {})
        assert found is not None
        told = payload_of(found.body, "run")  # type: ignore[arg-type]
        assert [s["status"] for s in told["study"]["variants"][1]["seeds"]] == ["done", "running"]
        assert any("run.json" in problem for problem in told["problems"])
        assert site.get("runs/variants/full/seed-0/rl/index.html", {}) is None
        assert site.get("runs/variants/full/seed-1/rl/index.html", {}) is not None
        for text in ("[]", '{"config": 3}', "{"):
            (study / "study.json").write_text(text)
            assert StudySite(study, Options()).get("data/run.js", {}) is not None
    finally:
        base.write_text(before)


def test_thumbnails_are_small_or_exact(tmp_path: Path) -> None:
    small = Image.effect_noise((SIDE, 40), 60).convert("RGB")
    small.save(tmp_path / "small.png")
    made = thumbnail(tmp_path / "small.png")
    assert made is not None
    (tmp_path / "small.webp").write_bytes(made)
    with Image.open(tmp_path / "small.webp") as image:
        assert image_media(image.convert("RGB")) == image_media(small)
    Image.new("RGB", (1000, 300), "red").save(tmp_path / "large.png")
    made = thumbnail(tmp_path / "large.png")
    assert made is not None
    (tmp_path / "large.webp").write_bytes(made)
    with Image.open(tmp_path / "large.webp") as image:
        assert image.size == (SIDE, 96)


def test_a_file_that_is_no_picture_has_no_thumbnail(run: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\njunk")
    # Another format under the name of a PNG is not decoded.
    Image.new("RGB", (4, 4)).save(tmp_path / "b.png", "GIF")
    assert thumbnail(tmp_path / "a.png") is None
    assert thumbnail(tmp_path / "b.png") is None
    good = next((run / "media").glob("*.png"))
    jobs = [(f, tmp_path / f"{f.stem}.webp") for f in (tmp_path / "a.png", good)]
    assert write_thumbnails(jobs, 1, lambda _: None) == 1
    assert jobs[1][1].is_file()


@pytest.mark.slow
def test_several_processes_make_the_same_thumbnails(tmp_path: Path) -> None:
    """Starts processes, which takes seconds."""
    jobs = []
    for k in range(220):
        Image.new("RGB", (400, 300), (k, 90, 20)).save(tmp_path / f"{k}.png")
        jobs.append((tmp_path / f"{k}.png", tmp_path / f"{k}.webp"))
    assert write_thumbnails(jobs, 2, lambda _: None) == 0
    for source, target in jobs:
        assert target.read_bytes() == thumbnail(source)


def test_a_note_behind_a_cut_line_loses_neither(tmp_path: Path) -> None:
    append_note(tmp_path, check_note(NOTE))
    with (tmp_path / "notes.jsonl").open("a") as file:
        file.write('{"time": 1, "step": 2, "ta')
    append_note(tmp_path, check_note({**NOTE, "rollout": 1}))
    problems = Problems("notes.jsonl")
    found = read_notes(tmp_path, problems)
    assert [note["rollout"] for note in found] == [0, 1]
    assert found[0]["text"] == "</script>"
    assert problems.count == 1
    lines = (tmp_path / "notes.jsonl").read_bytes()
    assert lines.count(b"\n") == 3
    assert json.loads(lines.splitlines()[-1])["rollout"] == 1


def test_notes_are_part_of_what_is_exported(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r", 1)
    note = append_note(run, check_note(NOTE))
    export_folder(run, tmp_path / "out")
    made = payload_of((tmp_path / "out/data/notes.js").read_bytes(), "notes")
    assert made == {"notes": [note]}
