"""A chat endpoint writes turns like any policy, tells no log-probabilities, and leaks no key."""

from __future__ import annotations

import asyncio
import base64
import json
import math
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from pyvision_rl.chat_endpoint import Reply
from pyvision_rl.checks.sections import check_config, check_policy
from pyvision_rl.cli.main import app
from pyvision_rl.collect import run_rollout
from pyvision_rl.config import Config, PolicyConfig
from pyvision_rl.config_file import dump_config
from pyvision_rl.errors import ConfigError, PolicyError
from pyvision_rl.evaluation.run import run_eval
from pyvision_rl.media import image_media
from pyvision_rl.policy.openai_chat import OpenAIChatPolicy, with_stop
from pyvision_rl.rendering.chars import CharsRenderer
from pyvision_rl.runs import RunReader
from pyvision_rl.show import render_run
from pyvision_rl.testing.fake_openai import FakeOpenAI, Fault
from pyvision_rl.train.rl import run_rl
from pyvision_rl.types import (
    Completion,
    EndReason,
    Message,
    SampleLimits,
    SampleRequest,
    Segment,
    StopReason,
    Text,
    Trajectory,
)

KEY = "sk-do-not-tell-4711"
STOP = "</code>"
CODE = "<code>\n```python\nplt.show()\n```\n"
ANSWER = "<answer>\n\\boxed{red}\n</answer>"
LIMITS = SampleLimits(500, temperature=0.7, top_p=0.9, stop=(STOP,))


def policy(server: FakeOpenAI, *, pixels: int | None = None, **options: Any) -> OpenAIChatPolicy:
    quick = {"timeout_s": 5.0, "retry_wait_s": 0.01, "max_wait_s": 0.1, "max_retries": 1}
    values = {"url": server.url, "model": "m", **quick, **options}
    config = PolicyConfig(name="openai_chat", options=values, max_pixels=pixels)
    return OpenAIChatPolicy(config, CharsRenderer())


def request(*messages: Message, **values: Any) -> SampleRequest:
    asked = messages or (Message("user", (Text("What colour?"),)),)
    values = {"limits": LIMITS, "seed": 2**40 + 5, **values}
    return SampleRequest("e", "t", 0, (Segment((1,), False),), asked, **values)


def sample(chat: OpenAIChatPolicy, *requests: SampleRequest) -> list[Completion]:
    async def one_by_one() -> list[Completion]:
        try:
            return [await chat.sample(each) for each in requests]
        finally:
            await chat.close()

    return asyncio.run(one_by_one())


# What is asked.


def test_messages_limits_and_seed_reach_the_server() -> None:
    talk = (
        Message("system", (Text("Be brief."),)),
        Message("user", (Text("What "), Text("colour?"))),
        Message("assistant", (Text("<code>"),)),
    )
    with FakeOpenAI(lambda _: ANSWER) as server:
        sample(policy(server, extra={"top_k": 5, "presence_penalty": 1}), request(*talk))
        (seen,) = server.requests
    assert seen.body == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "What colour?"},
            {"role": "assistant", "content": "<code>"},
        ],
        "temperature": 0.7,
        "top_p": 0.9,
        "max_tokens": 500,
        "stop": [STOP],
        "seed": 5 + 2**40 % 2**31,
        "top_k": 5,
        "presence_penalty": 1,
    }


def test_what_a_server_refuses_can_be_left_out_or_renamed() -> None:
    with FakeOpenAI(lambda _: ANSWER) as server:
        chat = policy(server, send_seed=False, max_tokens_name="max_completion_tokens")
        sample(chat, request())
        body = server.requests[0].body
    assert "seed" not in body
    assert "max_tokens" not in body
    assert body["max_completion_tokens"] == 500
    assert {"temperature", "top_p", "stop"} <= set(body)
    with FakeOpenAI(lambda _: ANSWER) as server:
        sample(policy(server, omit=["temperature", "top_p", "stop"]), request())
        assert not {"temperature", "top_p", "stop"} & set(server.requests[0].body)


@pytest.mark.parametrize(
    ("size", "pixels", "seen"),
    [
        ((40, 30), None, (40, 30)),
        ((40, 30), 1200, (40, 30)),
        ((400, 300), 1200, (40, 30)),  # 120000 pixels, a hundred times too many: a tenth each way
        ((1000, 10), 100, (100, 1)),  # a hundredth of the area: a tenth each way
        ((9000, 2), 10, (212, 1)),  # no side vanishes; 10/18000 of the area: 9000 * 0.02357 = 212.1
    ],
)
def test_images_are_sent_where_they_stand_and_within_the_limit(
    size: tuple[int, int], pixels: int | None, seen: tuple[int, int]
) -> None:
    picture = image_media(Image.new("RGB", size, "red"))
    message = Message("user", (Text("<clue>"), picture, Text("</clue> ?")))
    with FakeOpenAI(lambda _: ANSWER) as server:
        sample(policy(server, pixels=pixels), request(message), request(message))
        first, second = (s.body["messages"][0]["content"] for s in server.requests)
    assert first == second
    assert [part["type"] for part in first] == ["text", "image_url", "text"]
    head, _, data = first[1]["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64"
    image = Image.open(BytesIO(base64.b64decode(data)))
    assert image.size == seen
    assert image.getpixel((0, 0)) == (255, 0, 0)


# What comes back.


def test_a_turn_has_text_ids_and_no_log_probabilities() -> None:
    with FakeOpenAI(lambda _: ANSWER) as server:
        (made,) = sample(policy(server), request())
    assert (made.text, made.stop, made.logprobs) == (ANSWER, StopReason.END, None)
    shown = CharsRenderer().decode(made.token_ids)
    assert shown == ANSWER + "<|im_end|>"


@pytest.mark.parametrize(
    ("text", "finish", "extra", "want", "stop"),
    [
        # The stop string was left out, as servers do; vLLM says so, others do not.
        (CODE, "stop", {"stop_reason": STOP}, CODE + STOP, StopReason.STOP_STRING),
        (CODE, "stop", {}, CODE + STOP, StopReason.STOP_STRING),
        # It was kept, or even written past.
        (CODE + STOP, "stop", {}, CODE + STOP, StopReason.STOP_STRING),
        (CODE + STOP + "\nResult: 7", "stop", {}, CODE + STOP, StopReason.STOP_STRING),
        (CODE + STOP + "\nResult: 7", "length", {}, CODE + STOP, StopReason.STOP_STRING),
        # The model ended by itself; vLLM then gives null or the id of a token.
        (CODE, "stop", {"stop_reason": None}, CODE, StopReason.END),
        (CODE, "stop", {"stop_reason": 151645}, CODE, StopReason.END),
        (ANSWER, "stop", {}, ANSWER, StopReason.END),
        ("", "stop", {}, "", StopReason.END),
        # Cut off at the limit.
        (CODE, "length", {}, CODE, StopReason.LENGTH),
        ("", "length", {}, "", StopReason.LENGTH),
    ],
)
def test_turns_end_where_the_model_or_the_tag_ended_them(
    text: str, finish: str, extra: dict[str, Any], want: str, stop: StopReason
) -> None:
    choice = {"message": {"content": text}, "finish_reason": finish, **extra}
    with FakeOpenAI(lambda _: choice) as server:
        (made,) = sample(policy(server), request())
    assert (made.text, made.stop) == (want, stop)
    closed = "<|im_end|>" if stop is StopReason.END else ""
    assert CharsRenderer().decode(made.token_ids) == want + closed


def test_no_stop_string_is_added_that_was_not_asked_for() -> None:
    assert with_stop(Reply(CODE, "stop", None, False), ()) == (CODE, False)
    assert with_stop(Reply(CODE, "stop", "###", True), (STOP,)) == (CODE, False)


def test_a_withheld_turn_is_our_failure_and_no_words_are_the_models() -> None:
    choices = iter(
        [
            {"message": {"content": None}, "finish_reason": "content_filter"},
            {"message": {"content": None}, "finish_reason": "stop"},
        ]
    )
    with FakeOpenAI(lambda _: next(choices)) as server:
        with pytest.raises(PolicyError, match="content_filter"):
            sample(policy(server), request())
        (made,) = sample(policy(server), request())
    assert made.text == ""


@pytest.mark.parametrize("finish", ["abort", "error", "insufficient_system_resource"])
def test_a_turn_that_the_server_broke_off_is_our_failure(finish: str) -> None:
    choice = {"message": {"content": CODE}, "finish_reason": finish}
    with FakeOpenAI(lambda _: choice) as server, pytest.raises(PolicyError, match=finish):
        sample(policy(server), request())


def test_a_server_that_fails_for_all_retries_is_our_failure() -> None:
    with FakeOpenAI(always=Fault(status=503)) as server:
        chat = policy(server)
        with pytest.raises(PolicyError, match=r"status 503.*\(2 tries\)"):
            sample(chat, request())
    assert chat.stats()["policy_failures"] == 1


def test_a_forced_beginning_is_refused() -> None:
    with FakeOpenAI() as server, pytest.raises(ConfigError, match="no probe"):
        sample(policy(server), request(forced=(5,)))


def test_wrong_options_are_named() -> None:
    with FakeOpenAI() as server:
        with pytest.raises(ConfigError, match=r"policy\.options\.modle.*'model'"):
            policy(server, modle="x")
        with pytest.raises(ConfigError, match=r"policy\.options\.url is empty"):
            policy(server, url="")
        with pytest.raises(ConfigError, match=r"policy\.options\.api_key_env = 'NO_SUCH_KEY'"):
            policy(server, api_key_env="NO_SUCH_KEY")


# Whole episodes.


def looks_then_answers(body: dict[str, Any]) -> str:
    return CODE if len(body["messages"]) == 1 else ANSWER


def run_config(server: FakeOpenAI, **options: Any) -> Config:
    served = {"url": server.url, "model": "m", "retry_wait_s": 0.01, "max_retries": 1}
    keyed = {**served, "api_key_env": "CHAT_KEY"}
    return Config.model_validate(
        {
            "tasks": {"name": "tests.fakes:Colours", "limit": 4},
            "sandbox": {"name": "scripted", "options": {"outputs": ["done"]}},
            "rollout": {"group_size": 2, "max_tool_calls": 2},
            "policy": {"name": "openai_chat", "options": {**keyed, **options}},
            "rewards": {"name": "judge", "judge": {**keyed, "cache": ""}},
        }
    )


def served(body: dict[str, Any]) -> str:
    """Both servers in one: the judge's requests begin with a system message."""
    return "0" if body["messages"][0]["role"] == "system" else looks_then_answers(body)


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAT_KEY", KEY)


@pytest.mark.usefixtures("key")
def test_a_rollout_and_an_evaluation_are_graded_counted_and_shown(tmp_path: Path) -> None:
    with FakeOpenAI(served) as server:
        run_rollout(run_config(server), tmp_path / "rollout")
        result = run_eval(run_config(server), tmp_path / "eval")
    assert (result.overall.episodes, result.overall.failed, result.overall.ungraded) == (4, 0, 0)
    assert result.overall.accuracy == 0.25  # red, of red, lime, blue and cyan
    reader = RunReader(tmp_path / "rollout")
    saved = list(reader.trajectories())
    assert {s.trajectory.end for s in saved} == {EndReason.ANSWERED}
    assert [len(s.trajectory.turns) for s in saved] == [2] * 8
    assert saved[0].trajectory.turns[0].text == CODE + STOP
    sampled = [s for s in saved[0].trajectory.segments if s.sampled]
    assert [s.logprobs for s in sampled] == [None, None]
    (numbers,) = reader.metrics()
    # Eight episodes of two turns; the answer "red" is right by rule once (two rollouts), and the
    # judge is asked once for each of the three other colours.
    assert (numbers["policy_requests"], numbers["policy_failures"]) == (16, 0)
    assert (numbers["policy_prompt_tokens"], numbers["policy_completion_tokens"]) == (160, 32)
    assert (numbers["judge_calls"], numbers["judge_rules"]) == (3, 2)
    assert numbers["judge_cache_hits"] == 3
    console = Console(width=200, record=True, file=StringIO())
    console.print(render_run(tmp_path / "rollout", None, "colour-1", 0))
    text = console.export_text()
    assert "judge m: wrong" in text
    assert "plt.show()" in text


@pytest.mark.usefixtures("key")
def test_the_key_is_nowhere_in_a_run_folder_even_if_servers_repeat_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    echo = Fault(status=400, echo=True)
    with FakeOpenAI(served, faults=[None, None, echo, *[None] * 13, echo]) as server:
        run_rollout(run_config(server), tmp_path / "run")
        assert all(s.headers["Authorization"] == f"Bearer {KEY}" for s in server.requests)
    errors = [s.trajectory.error for s in RunReader(tmp_path / "run").trajectories()]
    assert any("Bearer ***" in error for error in errors)
    files = [f for f in (tmp_path / "run").rglob("*") if f.is_file()]
    assert {"run.json", "metrics.jsonl", "step_000001.jsonl"} <= {f.name for f in files}
    for file in files:
        assert KEY.encode() not in file.read_bytes(), file
    assert "CHAT_KEY" in (tmp_path / "run" / "run.json").read_text()
    assert KEY not in caplog.text


@pytest.mark.usefixtures("key")
def test_an_episode_that_the_server_fails_is_counted_and_the_others_go_on(tmp_path: Path) -> None:
    with FakeOpenAI(served, faults=[Fault(status=400), None, Fault(drop=True)]) as server:
        run_rollout(run_config(server), tmp_path / "run")
    reader = RunReader(tmp_path / "run")
    saved = [s.trajectory for s in reader.trajectories()]
    failed = [t for t in saved if t.end is EndReason.FAILED]
    assert len(failed) == 1
    assert "PolicyError" in failed[0].error
    assert "status 400" in failed[0].error
    assert failed[0].reward is None
    assert sum(t.reward is not None for t in saved) == 7
    (numbers,) = reader.metrics()
    assert numbers["policy_failures"] == 1
    assert numbers["end_failed"] == 1 / 8


@pytest.mark.usefixtures("key")
def test_fifty_episodes_share_the_bound_on_requests(tmp_path: Path) -> None:
    with FakeOpenAI(served) as server:
        config = run_config(server, max_concurrent=8)
        config = config.model_copy(
            update={"rollout": config.rollout.model_copy(update={"group_size": 13})}
        )
        run_rollout(config, tmp_path / "run")
    assert len(list(RunReader(tmp_path / "run").trajectories())) == 52
    assert server.most_live <= 8 + 3  # the judge, whose bound is its own, has three answers to see


@pytest.mark.usefixtures("key")
def test_checks_know_the_endpoint() -> None:
    with FakeOpenAI(served) as server:
        config = run_config(server)
        details = {f.name: f for f in check_config(config)}
        findings = {f.name: f for f in check_policy(config)}
    assert details["[policy]"].detail == f"m at {server.url}"
    assert findings["log-probabilities"].status == "note"
    assert not [f for f in findings.values() if not f.ok]


@pytest.mark.usefixtures("key")
def test_the_budget_is_an_option_of_the_command_line(tmp_path: Path) -> None:
    with FakeOpenAI(served) as server:
        file = tmp_path / "run.json"
        file.write_text(dump_config(run_config(server)))
        typed = ["rollout", str(file), "--out", str(tmp_path / "run"), "--max-judge-calls", "1"]
        done = CliRunner().invoke(app, typed)
    assert done.exit_code == 0, done.output
    saved = [s.trajectory for s in RunReader(tmp_path / "run").trajectories()]
    # red by rule and one other colour by the judge; the two others stay ungraded.
    assert sum(t.reward is not None for t in saved) == 4
    assert "rewards.judge.max_calls = 1" in next(t.error for t in saved if t.reward is None)
    plan = CliRunner().invoke(
        app, ["rl", str(file), "--dry-run", "--json", "--max-judge-calls", "7"]
    )
    assert json.loads(plan.stdout)["config"]["rewards"]["judge"]["max_calls"] == 7


@pytest.mark.usefixtures("key")
def test_an_evaluation_may_go_on_with_another_budget(tmp_path: Path) -> None:
    with FakeOpenAI(served) as server:
        config = run_config(server)
        run_eval(config, tmp_path / "run")
        judge = config.rewards.judge.model_copy(update={"max_calls": 50})
        more = config.rewards.model_copy(update={"judge": judge})
        again = config.model_copy(update={"rewards": more})
        result = run_eval(again, tmp_path / "run", resume=tmp_path / "run")
    assert result.overall.episodes == 4


@pytest.mark.usefixtures("key")
def test_rl_refuses_a_policy_that_is_not_in_this_process(tmp_path: Path) -> None:
    with FakeOpenAI(served) as server, pytest.raises(ConfigError, match=r'policy\.name = "local"'):
        run_rl(run_config(server), tmp_path / "run")


# Records without log-probabilities.


def test_untold_log_probabilities_are_no_zeros() -> None:
    untold = Segment((5, 6), True, None)
    told = Segment((7,), True, (-0.5,))
    given = Segment((8,), False)
    trajectory = Trajectory("t", 0, (given, untold, told), (), (), EndReason.ANSWERED)
    first, *middle, last = trajectory.logprobs
    assert (first, last) == (0.0, -0.5)
    assert all(math.isnan(value) for value in middle)
    with pytest.raises(ValueError, match="wants 0"):
        Segment((1,), False, None)
