"""How an episode behaves, in a numbered list. Whoever changes a test here changes what every
trained model has learned to expect, and says so in the changelog.

 1. Code is run and what it gave is shown; the model goes on until it answers.
 2. The answer wins over code in the same turn, and the code is not run.
 3. The model sees its own traceback and may go on; the call does not count as a tool call.
 4. With ``end_on_code_error`` the first error ends the episode (the reference's behaviour).
 5. A malformed turn is refused in words and uses up a turn; it may go on.
 6. With ``end_on_malformed`` it ends the episode.
 7. ``max_tool_calls`` counts calls; one more turn remains for the answer, in which code is not run.
 8. An observation that does not fit is left out whole, images and pads together.
 9. More images than allowed end the episode before they are shown.
10. Our own failure ends the episode as FAILED and is never graded.
11. Shown images are labelled on from the prompt's.
12. Segments alternate given and sampled; the ids of a turn are exactly the sampled ones.
13. A turn that ended at the code close tag is closed by a given end-of-turn token.
14. Lockstep and async schedules make equal records.
15. A forced start stands at the beginning of the first turn only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest
from PIL import Image

from pyvision_rl.config import PromptsConfig, RewardsConfig, RolloutConfig
from pyvision_rl.errors import PolicyError, SandboxError
from pyvision_rl.media import image_media
from pyvision_rl.parsing import CODE_CLOSE
from pyvision_rl.policy.scripted import ScriptedPolicy
from pyvision_rl.prompts import PromptBuilder
from pyvision_rl.rendering.chars import CharsRenderer
from pyvision_rl.rewards import build_rewarder
from pyvision_rl.rollout import Harness, derive_seed, run_groups
from pyvision_rl.sandbox.base import SandboxLimits
from pyvision_rl.sandbox.scripted import ScriptedSandbox
from pyvision_rl.types import (
    Completion,
    EndReason,
    ExecStatus,
    Execution,
    Gold,
    SampleLimits,
    SampleRequest,
    Task,
    TaskInput,
    Text,
    Trajectory,
)
from tests.fakes import a_video

RENDERER = CharsRenderer()
CODE = "<code>\n```python\nprint(1)\n```\n</code>"
ANSWER = "<answer>\n\\boxed{7}\n</answer>"
PICTURE = image_media(Image.new("RGB", (56, 56), "red"))
TASK = Task(TaskInput("t", "which digit?", (image_media(Image.new("RGB", (28, 28))),)), Gold("7"))
PRINTED = Execution(ExecStatus.OK, "1\n")
SHOWN = Execution(ExecStatus.OK, "", images=(PICTURE,))
RAISED = Execution(ExecStatus.RAISED, "", error="NameError: name 'x' is not defined")


def script(text: str) -> Completion:
    return RENDERER.script(text, (CODE_CLOSE,))


def harness(
    turns: Sequence[str],
    executions: Sequence[Execution] | Callable[[int, str], Execution] = (),
    **config: object,
) -> Harness:
    return Harness(
        prompts=PromptBuilder(PromptsConfig()),
        renderer=RENDERER,
        policy=ScriptedPolicy({"t": tuple(turns)}, script),
        sandbox=ScriptedSandbox.playing(executions),
        rewarder=build_rewarder(RewardsConfig()),
        config=RolloutConfig(**config),  # type: ignore[arg-type]
        sampling=SampleLimits(max_new_tokens=1000, stop=(CODE_CLOSE,)),
        sandbox_limits=SandboxLimits(),
    )


def play(
    turns: Sequence[str],
    executions: Sequence[Execution] | Callable[[int, str], Execution] = (),
    **config: object,
) -> Trajectory:
    groups = asyncio.run(
        run_groups(harness(turns, executions, **config), [TASK], seed=1, group_size=1)
    )
    return groups[0].trajectories[0]


def said(trajectory: Trajectory) -> str:
    """All text the model was given after the prompt."""
    observed = (t.observation for t in trajectory.turns)
    parts = (p for o in observed if o for p in o.message.parts)
    return "".join(p.text for p in parts if isinstance(p, Text))


def test_01_code_runs_and_the_model_goes_on_until_it_answers() -> None:
    done = play([CODE, CODE, ANSWER], [PRINTED, SHOWN])
    assert (done.end, done.answer, done.num_tool_calls) == (EndReason.ANSWERED, "7", 2)
    assert done.reward is not None
    assert done.reward.parts == {"accuracy": 1.0, "tool_use": pytest.approx(0.2)}


def test_02_answer_wins_over_code_and_the_code_is_not_run() -> None:
    made = harness([f"{CODE}\n{ANSWER}"], [PRINTED])
    done = asyncio.run(run_groups(made, [TASK], seed=1, group_size=1))[0].trajectories[0]
    assert done.end is EndReason.ANSWERED
    assert made.sandbox.codes == []  # type: ignore[attr-defined]


def test_03_the_model_sees_its_traceback_and_may_go_on() -> None:
    done = play([CODE, ANSWER], [RAISED])
    assert done.end is EndReason.ANSWERED
    assert "NameError: name 'x' is not defined" in said(done)
    assert (done.num_executions, done.num_tool_calls) == (1, 0)
    assert done.reward is not None
    assert done.reward.total == 1.0


def test_04_end_on_code_error_reproduces_the_reference() -> None:
    done = play([CODE, ANSWER], [RAISED], end_on_code_error=True)
    assert (done.end, len(done.turns)) == (EndReason.CODE_ERROR, 1)
    assert done.turns[0].execution == RAISED


def test_05_a_malformed_turn_is_refused_and_may_go_on() -> None:
    done = play(["I wonder.", ANSWER])
    assert done.end is EndReason.ANSWERED
    assert "<code>" in said(done)
    assert done.turns[0].execution is None


def test_06_end_on_malformed_ends_the_episode() -> None:
    done = play(["I wonder.", ANSWER], end_on_malformed=True)
    assert (done.end, len(done.turns)) == (EndReason.MALFORMED, 1)
    assert done.reward is not None
    assert done.reward.total == 0.0


@pytest.mark.parametrize("calls", [0, 1, 2])
def test_07_the_budget_counts_calls_and_leaves_a_turn_to_answer(calls: int) -> None:
    answered = play([CODE] * calls + [ANSWER], [PRINTED] * 9, max_tool_calls=calls)
    assert (answered.end, answered.num_tool_calls) == (EndReason.ANSWERED, calls)
    over = play([CODE] * (calls + 1), [PRINTED] * 9, max_tool_calls=calls)
    assert (over.end, over.num_executions) == (EndReason.TURN_LIMIT, calls)


def test_08_an_observation_that_does_not_fit_is_left_out_whole() -> None:
    fits = play([CODE, ANSWER], [SHOWN])
    before = sum(RENDERER.length(s) for s in fits.segments[:2])
    observed = RENDERER.length(fits.segments[2])
    # An observation must leave room for at least one token after it.
    assert (
        play([CODE, ANSWER], [SHOWN], max_context_tokens=before + observed + 1).turns[0].observation
    )
    done = play([CODE, ANSWER], [SHOWN], max_context_tokens=before + observed)
    assert (done.end, len(done.segments), len(done.media)) == (EndReason.TOKEN_LIMIT, 2, 1)
    assert done.turns[0].observation is None
    assert done.turns[0].execution == SHOWN


def test_09_too_many_images_end_the_episode_before_they_are_shown() -> None:
    done = play([CODE, CODE, ANSWER], [SHOWN, SHOWN], max_images=2)
    assert (done.end, len(done.media)) == (EndReason.IMAGE_LIMIT, 2)


def test_09b_too_many_images_of_a_task_end_nothing_but_further_pictures() -> None:
    assert play([CODE, ANSWER], [PRINTED], max_images=1).end is EndReason.ANSWERED


def test_10_our_own_failure_is_never_the_models() -> None:
    def broken(run: int, code: str) -> Execution:
        raise SandboxError("the template died")

    done = play([CODE, ANSWER], broken)
    assert (done.end, done.reward) == (EndReason.FAILED, None)
    assert "the template died" in done.error
    assert play([CODE], [PRINTED]).end is EndReason.FAILED  # the script has no second turn


def test_11_shown_images_are_labelled_on_from_the_prompts() -> None:
    done = play([CODE, CODE, ANSWER], [SHOWN, Execution(ExecStatus.OK, "", images=(PICTURE,) * 2)])
    text = said(done)
    assert [k for k in range(6) if f"<image_clue_{k}>" in text] == [1, 2, 3]


def test_11_shown_images_are_labelled_from_0_where_the_sandbox_holds_videos_only() -> None:
    film = Task(TaskInput("t", "Which digit?", (a_video(),)), Gold("7"))
    made = harness([CODE, CODE, ANSWER], [SHOWN, SHOWN])
    (group,) = asyncio.run(run_groups(made, [film], seed=1, group_size=1))
    text = said(group.trajectories[0])
    assert [k for k in range(6) if f"<image_clue_{k}>" in text] == [0, 1]


def test_12_segments_alternate_and_hold_the_sampled_ids() -> None:
    done = play([CODE, ANSWER], [SHOWN])
    assert [s.sampled for s in done.segments] == [False, True, False, True]
    assert done.segments[1].token_ids == script(CODE).token_ids
    assert done.segments[3].token_ids == script(ANSWER).token_ids
    assert len(done.token_ids) == len(done.loss_mask) == len(done.logprobs)
    assert sum(done.loss_mask) == done.num_sampled_tokens


def test_13_a_turn_cut_at_the_close_tag_is_closed_by_a_given_token() -> None:
    done = play([CODE, ANSWER], [SHOWN])
    end = RENDERER.end_of_turn
    assert end not in done.segments[1].token_ids
    assert done.segments[2].token_ids[0] == end
    assert done.segments[3].token_ids[-1] == end


def test_14_schedules_make_equal_records() -> None:
    def strip(t: Trajectory) -> tuple[object, ...]:
        return (t.segments, t.end, t.answer, t.reward)

    turns = [CODE, "?", CODE, ANSWER]
    lockstep = play(turns, [PRINTED, SHOWN], schedule="lockstep")
    free = play(turns, [PRINTED, SHOWN], schedule="async")
    assert strip(lockstep) == strip(free)


class Recorder:
    """A policy that keeps the requests it was sent and answers at once."""

    def __init__(self) -> None:
        self.requests: list[SampleRequest] = []

    async def sample(self, request: SampleRequest) -> Completion:
        self.requests.append(request)
        return script(CODE if request.turn == 0 else ANSWER)

    def release(self, episode: str) -> None:
        self.requests.append(None)  # type: ignore[arg-type]

    async def close(self) -> None:
        pass


def test_15_a_forced_start_stands_at_the_first_turn_only() -> None:
    made = harness([], [PRINTED] * 9)
    policy = Recorder()
    made = Harness(made.prompts, made.renderer, policy, made.sandbox, *_rest(made))
    asyncio.run(run_groups(made, [TASK], seed=1, group_size=2, forced="<code>"))
    sent = [r for r in policy.requests if r is not None]
    assert [(r.turn, bool(r.forced)) for r in sent] == [(0, True)] * 2 + [(1, False)] * 2
    assert sent[0].forced == RENDERER.encode("<code>")
    assert len({r.seed for r in sent}) == 4
    assert policy.requests.count(None) == 2, "every episode is released"  # type: ignore[arg-type]


def _rest(made: Harness) -> tuple[object, ...]:
    return (made.rewarder, made.config, made.sampling, made.sandbox_limits)


def test_lockstep_asks_for_turns_in_task_and_rollout_order() -> None:
    made = harness([], [PRINTED] * 99)
    policy = Recorder()
    made = Harness(made.prompts, made.renderer, policy, made.sandbox, *_rest(made))
    asyncio.run(run_groups(made, [TASK, TASK], seed=1, group_size=2))
    turns = [r.turn for r in policy.requests if r is not None]
    assert turns == sorted(turns), "no episode takes its second turn before all took their first"


def test_a_policy_failure_fails_its_episode_only() -> None:
    class Flaky(Recorder):
        async def sample(self, request: SampleRequest) -> Completion:
            if request.order[1] == 1:
                raise PolicyError("server gone")
            return await super().sample(request)

    made = harness([], [PRINTED] * 9)
    made = Harness(made.prompts, made.renderer, Flaky(), made.sandbox, *_rest(made))
    group = asyncio.run(run_groups(made, [TASK], seed=1, group_size=3))[0]
    ends = [t.end for t in group.trajectories]
    assert ends == [EndReason.ANSWERED, EndReason.FAILED, EndReason.ANSWERED]
    assert group.trajectories[1].reward is None


def test_seeds_depend_on_every_part() -> None:
    assert derive_seed(1, 2) == derive_seed(1, 2)
    assert (
        len({derive_seed(1, 2), derive_seed(2, 1), derive_seed(12), derive_seed("1", 2, "")}) == 4
    )
