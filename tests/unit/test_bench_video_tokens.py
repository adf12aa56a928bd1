"""The curve of accuracy over visual tokens: its baselines, and what it says of the goal."""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from benchmarks import video_tokens
from benchmarks.video_tokens import (
    BASELINES,
    QUICK,
    SECONDS,
    Sizes,
    _pvrl,
    baseline_config,
)
from benchmarks.video_tokens_report import draw, goal, to_markdown
from pyvision_rl.config import SCHEMA, Config


def point(name: str, kind: str, accuracy: float, tokens: float, **more: Any) -> dict[str, Any]:
    return {
        **{"name": name, "kind": kind, "accuracy": accuracy, "accuracy_se": 0.02},
        **{"visual_tokens": tokens, "categories": {"when": accuracy}, **more},
    }


POLICY = point("policy 1", "policy", 0.70, 20.0)


def page(points: list[dict[str, Any]], left_out: tuple[str, ...] = ()) -> str:
    result = {"quick": False, "points": points, "left_out": [*left_out], "goal": goal(points)}
    return to_markdown(result)


def test_baselines_are_those_that_the_goal_names() -> None:
    assert {(b.px, b.num_frames or "1 a second") for b in BASELINES} == {
        (px, n) for px in (28, 56) for n in (8, 16, 32, 64, "1 a second")
    }
    tokens = {b.name: b.tokens for b in BASELINES}
    assert tokens["8 frames, 28 px"] == 8
    assert tokens["64 frames, 56 px"] == 256
    assert tokens["1 a second, 56 px"] == 4 * SECONDS


def test_every_baseline_is_a_config_that_shows_frames_and_takes_no_code() -> None:
    for baseline in BASELINES:
        raw = baseline_config(baseline, Path("start"), 150, 0, Sizes())
        config = Config.model_validate(raw)
        assert config.prompts.context == "frames"
        assert config.rollout.max_tool_calls == 0
        assert [stage.steps for stage in config.sft.stages] == [150]


def test_each_baseline_begins_with_the_one_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def trained(baseline: Any, start: Path, *_: Any) -> tuple[dict[str, Any], Path]:
        return {"name": baseline.name, "started_from": str(start)}, Path(baseline.name)

    monkeypatch.setattr(video_tokens, "run_baseline", trained)
    line = [b for b in BASELINES if b.px == 28]
    found = video_tokens.run_line(line[::-1], Path("cold start"), Path("work"), Sizes())
    names = [point["name"] for point in found]
    assert names == [*(f"{n} frames, 28 px" for n in (8, 16, 32, 64)), "1 a second, 28 px"]
    assert [point["started_from"] for point in found] == ["cold start", *names[:-1]]


def test_what_an_earlier_result_left_out_is_added_and_begins_where_it_would_have_begun(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ran: list[tuple[str, int, str]] = []

    def sft(verb: str, config: dict[str, Any], out: Path) -> None:
        """Note what is trained and with what it begins; an evaluation finds half of it right."""
        if verb == "sft":
            frames = config["prompts"]["num_frames"] or 128
            begun = Path(config["policy"]["model"])
            name = begun.name if len(begun.parts) == 1 else "/".join(begun.parts[-5:-2])
            ran.append((name, frames, out.parent.name))
            return
        out.mkdir(parents=True)
        info = {"schema": SCHEMA, "verb": verb, "config": {}, "versions": {"torch": "1"}}
        (out / "run.json").write_text(json.dumps(info))
        scores = {"when": {"accuracy": 0.5}}
        found = {"accuracy": 0.5, "accuracy_se": 0.1, "visual_tokens": 512.0}
        (out / "result.json").write_text(json.dumps({"overall": found, "categories": scores}))

    rounds = [[0.3, 0.2], [0.4, 0.4], [0.4, 0.6, 0.5], [0.6, 0.5]]
    earlier = {
        **{"quick": False, "sizes": asdict(Sizes()), "left_out": ["1 a second, 56 px"]},
        **{"date": "then", "command": "before"},
        "points": [
            POLICY,
            *(
                point(b.name, "baseline", 0.5, b.tokens, px=b.px)
                | {"rounds": [{"validation_accuracy": a} for a in rounds[min(k % 5, 3)]]}
                for k, b in enumerate(BASELINES)
                if b.name != "1 a second, 56 px"
            ),
        ],
    }
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text(json.dumps(earlier))
    monkeypatch.setattr(video_tokens, "_pvrl", sft)
    words = ["--start", "cold", "--add-to", str(old), "--json", str(new), "--threads", "2"]
    monkeypatch.setattr("sys.argv", ["", *words, "--work", str(tmp_path / "work")])
    assert video_tokens.main() == 1  # the goal is missed

    assert ran == [
        ("cold", 8, "round-1"),
        ("baselines/8-frames-56-px/round-1", 16, "round-1"),
        ("baselines/16-frames-56-px/round-1", 32, "round-1"),
        ("baselines/32-frames-56-px/round-1", 32, "round-2"),
        ("baselines/32-frames-56-px/round-2", 64, "round-1"),
        ("baselines/64-frames-56-px/round-1", 128, "round-1"),
        ("baselines/1-a-second-56-px/round-1", 128, "round-2"),
    ]
    result = json.loads(new.read_text())
    assert result["left_out"] == []
    assert [p["name"] for p in result["points"]] == ["policy 1", *(b.name for b in BASELINES)]
    assert (result["date"], result["command"]) == ("then", "before")
    (added,) = result["added"]
    assert (added["sizes"]["threads"], added["versions"]) == (2, {"torch": "1"})
    (last,) = (p for p in result["points"] if p["name"] == "1 a second, 56 px")
    again = {"validation_accuracy_before": 0.6, "validation_accuracy": 0.5}
    assert last["remade"] == {"name": "64 frames, 56 px", **again}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"sizes": asdict(QUICK)}, "other sizes"),
        ({"sizes": asdict(Sizes(steps=3))}, "other sizes"),
        ({"left_out": []}, "no baseline is left to run"),
    ],
)
def test_a_result_that_does_not_fit_is_not_added_to(
    change: dict[str, Any],
    why: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    earlier = {
        "quick": False,
        "sizes": asdict(Sizes()),
        "left_out": [BASELINES[-1].name],
        "points": [],
    }
    (old := tmp_path / "old.json").write_text(json.dumps(earlier | change))
    words = ["--start", "cold", "--add-to", str(old), "--json", str(tmp_path / "new.json")]
    monkeypatch.setattr("sys.argv", ["", *words])
    with pytest.raises(SystemExit):
        video_tokens.main()
    assert why in capsys.readouterr().err


def test_the_cheapest_baseline_that_is_as_good_is_compared() -> None:
    points = [
        POLICY,
        point("a", "baseline", 0.60, 32.0),
        point("b", "baseline", 0.69, 256.0),
        point("c", "baseline", 0.90, 512.0),
    ]
    found = goal(points)
    assert found["cheapest_equal_baseline"] == "b"
    assert found["ratio"] == pytest.approx(12.8)
    assert found["met"]
    assert not goal([POLICY, point("a", "baseline", 0.71, 100.0)])["met"]


def test_where_no_baseline_is_as_good_the_best_one_is_compared() -> None:
    points = [POLICY, point("a", "baseline", 0.30, 8.0), point("b", "baseline", 0.50, 64.0)]
    found = goal(points)
    assert found["cheapest_equal_baseline"] is None
    assert (found["best_baseline"], found["ratio"]) == ("b", pytest.approx(3.2))
    assert "no baseline comes near it" in page(points)


def test_what_was_left_out_or_did_not_converge_is_said(tmp_path: Path) -> None:
    points = [POLICY, point("a", "baseline", 0.30, 8.0, px=28, converged=False)]
    text = page(points, ("64 frames, 56 px", "1 a second, 56 px"))
    assert "Left out: 64 frames, 56 px; 1 a second, 56 px." in text
    assert "a (not converged)" in text
    assert "Goal 9: open." in text
    assert "Left out" not in page(points)
    assert "Goal 9: **missed**." in page(points)
    draw(points, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 1000


def test_a_run_that_was_stopped_goes_on_and_is_there_only_when_it_is_done(tmp_path: Path) -> None:
    config = {
        "tasks": {"name": "needle", "options": {"mix": {"easy": 1}}},
        "prompts": {"template": "minimal"},
        "policy": {"name": "scripted"},
        "sandbox": {"name": "scripted"},
        "eval": {"num_tasks": 2, "samples": 1},
    }
    out = tmp_path / "round-1" / "eval"
    with pytest.raises(subprocess.CalledProcessError):
        _pvrl("eval", config | {"eval": {"num_tasks": -1}}, out)
    assert not out.exists()

    _pvrl("eval", config, out)
    result = (out / "result.json").read_text()
    unfinished = out.with_name("eval.part")
    out.rename(unfinished)
    (unfinished / "result.json").unlink()

    _pvrl("eval", config, out.with_name("eval.2"))
    assert sorted(file.name for file in out.parent.glob("*.json")) == ["eval.2.json", "eval.json"]

    _pvrl("eval", {"not": "read again"}, out)
    assert json.loads((out / "result.json").read_text())["overall"] == json.loads(result)["overall"]
    assert not unfinished.exists()
