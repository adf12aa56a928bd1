"""Every token an episode was given is counted once, and frames only as far as they were seen."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from pyvision_rl.config import PromptsConfig, RewardsConfig, RolloutConfig
from pyvision_rl.evaluation.evaluate import result_of
from pyvision_rl.frames_seen import Frames, frames_seen
from pyvision_rl.images import VisionSpec
from pyvision_rl.media import image_media
from pyvision_rl.metrics import rollout_metrics
from pyvision_rl.parsing import CODE_CLOSE
from pyvision_rl.policy.scripted import ScriptedPolicy
from pyvision_rl.prompts import PromptBuilder
from pyvision_rl.rendering.chars import CharsRenderer
from pyvision_rl.rewards import build_rewarder
from pyvision_rl.rollout import Harness, run_groups
from pyvision_rl.runs_codec import SavedRollout, encode
from pyvision_rl.runs_decode import decode
from pyvision_rl.sandbox.base import SandboxLimits
from pyvision_rl.sandbox.scripted import ScriptedSandbox
from pyvision_rl.show import render_rollout
from pyvision_rl.study.names import metric_names
from pyvision_rl.study.reading import evaluation_numbers, task_scores
from pyvision_rl.types import (
    EndReason,
    ExecStatus,
    Execution,
    Gold,
    Group,
    Media,
    Message,
    Observation,
    Reward,
    RunCode,
    SampleLimits,
    StopReason,
    Task,
    TaskInput,
    Text,
    TokenCount,
    Trajectory,
    Turn,
    VideoFrames,
)
from pyvision_rl.usage import NUMBERS, observed, used
from pyvision_rl.video import file_video
from tests.clips import counting, write_clip
from tests.fakes import a_video

RENDERER = CharsRenderer(VisionSpec())
CODE = "<code>\n```python\nlook()\n```\n</code>"
ANSWER = "<answer>\n\\boxed{7}\n</answer>"
COUNTED = ("text_tokens", "visual_tokens")


def picture(width: int, height: int) -> Media:
    return image_media(Image.new("RGB", (width, height), "red"))


TASK = Task(TaskInput("t", "Which?", (picture(56, 56),), "colour"), Gold("7"))


def play(
    turns: Sequence[str],
    executions: Sequence[Execution],
    task: Task = TASK,
    *,
    prompts: PromptBuilder | None = None,
    **config: object,
) -> Trajectory:
    harness = Harness(
        prompts=prompts or PromptBuilder(PromptsConfig(template="minimal")),
        renderer=RENDERER,
        policy=ScriptedPolicy({"t": turns}, lambda text: RENDERER.script(text, (CODE_CLOSE,))),
        sandbox=ScriptedSandbox.playing(executions),
        rewarder=build_rewarder(RewardsConfig()),
        config=RolloutConfig(**config),  # type: ignore[arg-type]
        sampling=SampleLimits(max_new_tokens=1000, stop=(CODE_CLOSE,)),
        sandbox_limits=SandboxLimits(),
    )
    (group,) = asyncio.run(run_groups(harness, [task], seed=1, group_size=1))
    return group.trajectories[0]


def shown(*pictures: Media, output: str = "") -> Execution:
    return Execution(ExecStatus.OK, output, images=pictures)


def test_the_ledger_of_three_turns_by_hand() -> None:
    executions = [shown(picture(640, 480)), shown(picture(28, 28), output="12\n")]
    done = play([CODE, CODE, ANSWER], executions)
    # A character is a token; so are the three control signs. The prompt: start, "user\n" 5,
    # "<image_clue_0>" 14, "</image_clue_0>" 15, "\n", "Which?" 6, end, "\n", start,
    # "assistant\n" 10: 1+5+14+15+1+6+1+1+1+10 = 55. 56 x 56 pixels are 2 x 2 tokens.
    assert done.prompted == TokenCount(55, 4)
    # Around each observation: end, "\n", start, "user\n" 5, end, "\n", start, "assistant\n" 10:
    # 21. First: "<interpreter>\n" 14, "Image Result:\n" 14, tags 14 + 15, "\n</interpreter>" 15:
    # 21 + 72 = 93. 480 x 640 is scaled to 476 x 644: 17 x 23 tokens of 28 pixels.
    # Second: "Text Result:\n12\n" 16 more: 109. 28 x 28 is scaled up to 56 x 56.
    assert [turn.observed for turn in done.turns] == [
        TokenCount(93, 17 * 23),
        TokenCount(109, 4),
        TokenCount(),
    ]
    # Written, with the end of the last turn: not given.
    assert sum(turn.num_tokens for turn in done.turns) == 2 * len(CODE) + len(ANSWER) + 1
    assert observed(done) == TokenCount(202, 395)
    assert used(TASK.input, done) == {"text_tokens": 257, "visual_tokens": 399}


SIDES = st.integers(1, 1500)
EXECUTIONS = st.builds(
    shown, st.builds(lambda w, h: Media("image", f"{w}x{h}", w, h), SIDES, SIDES), output=st.text()
) | st.builds(Execution, st.just(ExecStatus.RAISED), st.text(), st.text())


@given(
    executions=st.lists(EXECUTIONS, min_size=4, max_size=4),
    turns=st.lists(st.sampled_from([CODE, ANSWER, "?", "漢"]), min_size=5, max_size=5),
    room=st.integers(1, 5000),
    max_images=st.integers(1, 4),
)
@settings(max_examples=60, deadline=None)
def test_what_is_counted_adds_up_to_what_the_network_reads(
    executions: list[Execution], turns: list[str], room: int, max_images: int
) -> None:
    done = play(turns, executions, max_context_tokens=room, max_images=max_images)
    assert done.prompted is not None
    given_ = [done.prompted, *(turn.observed for turn in done.turns)]
    total = sum(count.text + count.visual for count in given_) + sum(
        t.num_tokens for t in done.turns
    )
    assert total == sum(map(RENDERER.length, done.segments))
    for turn in done.turns:
        assert (turn.observed == TokenCount()) == (turn.observation is None)
    # No visual token without a picture in the context.
    pads = sum(len(s.token_ids) - len(s.media) for s in done.segments if not s.sampled)
    assert pads == sum(count.text for count in given_)


def test_counts_are_kept_and_a_record_from_before_them_is_read() -> None:
    done = play([CODE, ANSWER], [shown(picture(640, 480))])
    saved = SavedRollout(TASK, done)
    for tokens in (True, False):
        line = json.loads(json.dumps(encode(saved, tokens=tokens)))
        assert decode(line).trajectory.prompted == done.prompted
        assert decode(line).trajectory.turns == done.turns
    del line["prompted"]
    for turn in line["turns"]:
        turn.pop("observed", None)
    old = decode(line).trajectory
    assert old.prompted is None
    # Not counted is not zero: means go over the others.
    assert used(TASK.input, old) == {}
    found = rollout_metrics([Group(TASK, (done, old))])
    assert found["visual_tokens"] == used(TASK.input, done)["visual_tokens"]
    assert not set(NUMBERS) & set(rollout_metrics([Group(TASK, (old,))]))


FILMS = Task(TaskInput("f", "When?", (a_video("a"), picture(56, 56), a_video("b"))), Gold("7"))
"""Two videos of 64 frames."""


def frames(*numbers: int, of: int = 0) -> VideoFrames:
    return VideoFrames(f"video_clue_{of}", numbers)


def watched(
    fetched: Sequence[VideoFrames],
    sources: Sequence[VideoFrames | None],
    *,
    seen: bool = True,
    visual: int = 16,
) -> Turn:
    """A turn whose code fetched frames and showed pictures of them."""
    pictures = tuple(picture(56 + k, 56) for k in range(len(sources)))
    ran = Execution(
        ExecStatus.OK, "", images=pictures, sources=tuple(sources), fetched=tuple(fetched)
    )
    said = Observation(Message("user", (Text("Image Result:"), *pictures)), ran)
    return Turn(
        *("c", StopReason.END, RunCode("look()"), 3),
        observation=said if seen else None,
        execution=ran,
        observed=TokenCount(20, visual) if seen else TokenCount(),
    )


PROMPTED = TokenCount(50)


def film(*turns: Turn, right: bool | None = True, prompted: TokenCount = PROMPTED) -> Trajectory:
    reward = None if right is None else Reward({"accuracy": float(right)}, right)
    end = EndReason.ANSWERED
    return Trajectory("f", 0, (), (), turns, end, "7", reward, prompted=prompted)


SEEN = film(
    watched([frames(*range(8))], [frames(0, 2)]),
    # No video_clue_9 is bound, and frame 64 of 64 is none.
    watched([frames(*range(4, 12)), frames(0, 64, of=1), frames(1, 2, of=9)], [frames(2, 3), None]),
    # Did not fit into the context: fetched, not shown.
    watched([frames(20)], [frames(20)], seen=False),
)


def test_frames_are_counted_by_hand() -> None:
    # Fetched: 8 + 8 + 1 + 1, of which 4 to 7 twice. Shown: 2 + 2, of which frame 2 twice.
    assert frames_seen(FILMS.input, SEEN) == Frames(128, 18, 14, 4, 3)
    assert used(FILMS.input, SEEN) == {
        "text_tokens": 50 + 40,
        "visual_tokens": 32,
        "frames_fetched": 18,
        "frames_shown": 4,
        "frames_unique": 3,
        "video_share": 3 / 128,
    }


def test_the_shares_are_of_different_frames() -> None:
    seen = frames_seen(FILMS.input, SEEN)
    assert (seen.share, seen.fetched_share) == (3 / 128, 14 / 128)


def test_frames_beyond_those_that_are_named_are_counted() -> None:
    some = VideoFrames("video_clue_0", (0, 2), 5)
    seen = frames_seen(FILMS.input, film(watched([some, replace(some, num_left_out=900)], [])))
    # Of one block and video there are no more than the video has.
    assert (seen.fetched, seen.fetched_unique) == (7 + 64, 2)


@pytest.mark.parametrize("context", ["initial_frames", "frames"])
@pytest.mark.parametrize("labels", [True, False])
def test_frames_in_the_prompt_were_shown_and_not_fetched(
    context: str, labels: bool, tmp_path: Path
) -> None:
    clip = file_video(write_clip(tmp_path / "film.mp4", counting(64, 56, 56)))
    task = Task(TaskInput("t", "When?", (clip,)), Gold("7"))
    config = {"context": context, "num_frames": 4, "frame_labels": labels}
    prompts = PromptBuilder(PromptsConfig.model_validate(config | {"template": "minimal"}))
    look = Execution(
        ExecStatus.OK, "", images=(picture(56, 56),), sources=(frames(8, 9),), fetched=(frames(9),)
    )
    done = play([CODE, ANSWER], [look], task, prompts=prompts)
    assert done.prompt_frames == (frames(8, 24, 40, 56),)
    # Frame 8 was shown twice.
    assert frames_seen(task.input, done) == Frames(64, 1, 1, 6, 5)
    line = json.loads(json.dumps(encode(SavedRollout(task, done))))
    assert decode(line).trajectory.prompt_frames == done.prompt_frames
    del line["prompt_frames"]  # of an older record
    assert frames_seen(task.input, decode(line).trajectory).shown == 2


def test_equal_frames_of_two_videos_are_different_frames() -> None:
    both = film(watched([], [frames(5), frames(5, of=1)]))
    seen = frames_seen(FILMS.input, both)
    assert (seen.shown, seen.shown_unique) == (2, 2)


def test_a_picture_too_narrow_to_be_given_is_not_shown() -> None:
    turn = watched([], [frames(1), frames(2)])
    assert turn.observation is not None
    first = turn.observation.message.media[0]
    said = Observation(Message("user", (first,)), turn.execution)
    assert frames_seen(FILMS.input, film(replace(turn, observation=said))).shown == 1


@given(
    st.lists(
        st.builds(
            VideoFrames,
            st.sampled_from(["video_clue_0", "video_clue_1", "video_clue_2", "x"]),
            st.sets(st.integers(-3, 70)).map(lambda numbers: tuple(sorted(numbers))),
        ),
        max_size=6,
    )
)
def test_no_claim_of_model_code_makes_more_of_a_video_than_there_is(
    claims: list[VideoFrames],
) -> None:
    seen = frames_seen(FILMS.input, film(watched(claims, claims)))
    assert 0 <= seen.share == seen.fetched_share <= 1
    assert seen.shown_unique <= seen.shown <= sum(len(c.frames) for c in claims)


def test_initial_frames_cost_visual_tokens_and_are_not_fetched() -> None:
    start = film(prompted=TokenCount(50, 64))
    found = used(FILMS.input, start)
    assert found["visual_tokens"] == 64
    assert (found["frames_fetched"], found["frames_shown"], found["video_share"]) == (0, 0, 0)


def test_metrics_are_means_and_frames_are_of_tasks_with_videos_alone() -> None:
    plain = replace(film(prompted=TokenCount(10, 4)), task_id="t")
    only = rollout_metrics([Group(TASK, (plain,))])
    assert {name: only[name] for name in NUMBERS if name in only} == {
        "text_tokens": 10,
        "visual_tokens": 4,
    }
    both = rollout_metrics([Group(TASK, (plain,)), Group(FILMS, (SEEN, film()))])
    # Visual: (4 + 32 + 0) / 3. Frames: over the two episodes with videos.
    assert both["visual_tokens"] == 12
    assert (both["frames_fetched"], both["video_share"]) == (9, 3 / 256)


def test_an_evaluation_tells_what_was_seen_by_category() -> None:
    image = TASK.input
    other = replace(FILMS.input, id="g", category="film")
    films = replace(FILMS.input, category="film")
    items = [
        (image, film(prompted=TokenCount(10, 4))),
        (films, SEEN),
        (films, film()),
        (other, film(watched([frames(1)], [frames(1)], visual=8))),
        # Not graded: in no rate.
        (other, film(watched([], [frames(*range(64))]), right=None)),
    ]
    result = result_of(items).to_json()
    found = json.loads(json.dumps(result))
    # Tasks f: (32 + 0) / 2 = 16 and g: 8. Mean 12; sd of 16 and 8 is 5.657, se 4.
    assert found["categories"]["film"]["visual_tokens"] == 12
    assert found["categories"]["film"]["visual_tokens_se"] == pytest.approx(4)
    # f: (3 + 0) / 2 / 128, g: 1 / 128.
    assert found["categories"]["film"]["video_share"] == pytest.approx(1.25 / 128)
    assert found["categories"]["colour"]["visual_tokens"] == 4
    assert not any("frames" in name for name in found["categories"]["colour"])
    # Overall 4, 16 and 8; frames of f and g.
    assert found["overall"]["visual_tokens"] == pytest.approx(28 / 3)
    assert found["overall"]["frames_unique"] == pytest.approx(1.25)
    told = result_of(items).metrics()
    assert told["eval_visual_tokens"] == pytest.approx(28 / 3)
    assert told["eval_video_share"] == pytest.approx(1.25 / 128)
    # A study reads the same numbers, and the scores of each task for its intervals.
    assert evaluation_numbers(found)["visual_tokens.film"] == 12
    assert task_scores(items)["visual_tokens"] == {"t": 4, "f": 16, "g": 8}
    assert task_scores(items)["frames_shown"] == {"f": 2, "g": 1}


def test_show_tells_what_an_episode_was_given_and_saw() -> None:
    out = io.StringIO()
    console = Console(file=out, width=120)
    for part in render_rollout(SavedRollout(FILMS, SEEN)):
        console.print(part)
    for piece in (
        "then given 20 text + 16 visual",
        "wrote 9; given 50 text + 0 visual in the prompt, 40 text + 32 visual after it",
        "fetched 18 (14 different), shown 4 (3 different): 2.3% of 128",
    ):
        assert piece in out.getvalue(), piece


def test_a_study_may_compare_what_was_given_and_seen() -> None:
    for name in NUMBERS:
        assert metric_names(f"free.{name}", ["free"]) == ()
        assert metric_names(f"free.{name}.film", ["free"]) == ()
        assert metric_names(f"train.{name}", ["free"]) == ()
    assert "free.visual_tokens" in metric_names("free.visual_token", ["free"])
