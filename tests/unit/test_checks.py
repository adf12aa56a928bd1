"""Every check passes on what is sound and fails, by name, on what is broken."""

from __future__ import annotations

import itertools
import random
import sys
from dataclasses import replace

import pytest

from pyvision_rl.checks.sandbox import PROMISES, require, try_check
from pyvision_rl.checks.sections import check_config, check_policy, check_sandbox
from pyvision_rl.checks.tasks import check_tasks
from pyvision_rl.config import (
    Config,
    PolicyConfig,
    PromptsConfig,
    RewardsConfig,
    SandboxConfig,
    SelectionConfig,
    SftConfig,
    SftDataConfig,
    SftStageConfig,
    TasksConfig,
    TokenWeight,
)
from pyvision_rl.config_file import load_config, packaged_configs
from pyvision_rl.errors import ConfigError, RewardError, SandboxError
from pyvision_rl.rewards.base import Grade
from pyvision_rl.sandbox.inside.attacks import ATTACKS
from pyvision_rl.sandbox.levels import UnsafeSandboxWarning
from pyvision_rl.sizes.needed import needed
from pyvision_rl.types import ExecStatus, Execution, Gold, StopReason, Task, TaskInput

HERE = __name__
CODE = "<code>\n```python\nprint(1)\n```\n</code>"
ANSWER = "<answer>\n\\boxed{4}\n</answer>"


def by_name(findings):
    return {f.name: f for f in findings}


def failed(findings):
    return {f.name: f.detail for f in findings if f.status == "failed"}


def own(name: str, **sections) -> Config:
    """A config whose task set is a class of this file."""
    return Config(tasks=TasksConfig(name=f"{HERE}:{name}"), **sections)


@pytest.fixture(autouse=True)
def _importable():
    # ``HERE:Class`` is resolved by import; this module goes by its own name under any import mode.
    assert sys.modules[HERE].__file__ == __file__


# Task sets.


class Sound:
    """Two tasks with scripts."""

    def __init__(self, config):
        self.turns = (CODE, ANSWER)

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return Task(TaskInput(f"t{index}", "2 + 2?"), Gold("4"))

    def script(self, index):
        return self.turns


class SameIds(Sound):
    def __getitem__(self, index):
        return Task(TaskInput("t", "2 + 2?"), Gold("4"))


class Changing(Sound):
    counter = itertools.count()

    def __getitem__(self, index):
        return Task(TaskInput(f"t{index}", f"{next(self.counter)}?"), Gold("4"))


class EndsInCode(Sound):
    def script(self, index):
        return (CODE,)


class TooManyCalls(Sound):
    def script(self, index):
        return (CODE,) * 5 + (ANSWER,)


class Raises(Sound):
    def script(self, index):
        raise KeyError("glyph")


def test_sound_tasks_pass():
    findings = check_tasks(own("Sound"))
    assert not failed(findings)
    assert by_name(findings)["looked at"].detail == "2 of 2 tasks"


@pytest.mark.parametrize(
    ("name", "check", "word"),
    [
        ("SameIds", "ids are unique", "tasks 0 and 1 share the id 't'"),
        ("Changing", "an index always gives the same task", "task 0 changes"),
        ("EndsInCode", "scripts parse and end in an answer", "instead of GiveAnswer"),
        ("TooManyCalls", "scripts parse and end in an answer", "5 calls"),
        ("Raises", "scripts parse and end in an answer", "KeyError"),
    ],
)
def test_each_fault_of_a_task_set_fails_its_own_check(name, check, word):
    found = failed(check_tasks(own(name)))
    assert list(found) == [check]
    assert word in found[check]


class NeverRight:
    """A grader; the checks below break it in three ways."""

    def __init__(self, config):
        pass

    async def __call__(self, task, trajectory):
        return Grade(0.0, False, "no")


class AlwaysRight(NeverRight):
    async def __call__(self, task, trajectory):
        return Grade(1.0, True)


class NoServer(NeverRight):
    async def __call__(self, task, trajectory):
        raise RewardError("no server")


@pytest.mark.parametrize(
    ("grader", "word"),
    [
        ("NeverRight", "'4' is graded wrong (no)"),
        ("AlwaysRight", "without an answer is graded right"),
        ("NoServer", "no server"),
    ],
)
def test_tasks_and_grader_that_do_not_fit_fail(grader, word):
    rewards = RewardsConfig(name=f"{HERE}:{grader}")
    found = failed(check_tasks(own("Sound", rewards=rewards)))
    assert list(found) == ["the reference answer is graded right"]
    assert word in found["the reference answer is graded right"]


def test_tasks_without_scripts_are_no_fault():
    findings = check_tasks(own("Plain"))
    assert by_name(findings)["scripts parse and end in an answer"].detail == "no scripts"


class Plain:
    def __init__(self, config):
        pass

    def __len__(self):
        return 1000

    def __getitem__(self, index):
        return Task(TaskInput(f"t{index}", "2 + 2?"), Gold("4"))


def test_large_sets_are_sampled_and_say_so():
    finding = by_name(check_tasks(own("Plain")))["looked at"]
    assert (finding.status, finding.detail) == ("note", "200 of 1000 tasks")


def test_no_tasks_is_bad_usage():
    with pytest.raises(ConfigError, match=r"\[tasks\] is missing"):
        check_tasks(Config())


# Configs.


@pytest.mark.parametrize("name", sorted(packaged_configs()))
def test_shipped_configs_lack_only_data_that_is_not_shipped(name):
    config = load_config(packaged_configs()[name])
    data = [n for verb in ("rl", "sft") for n in needed(config, verb) if n.startswith("data: ")]
    assert bool(data) == name.startswith(("pyvision_", "qwen3vl_"))
    for where, detail in failed(check_config(config)).items():
        assert "no such file" in detail, (where, detail)
        path = detail.partition(": no such file")[0]
        assert any(f"= {path!r}" in line for line in data), (where, detail)


def test_every_broken_section_is_found_at_once(tmp_path):
    config = Config(
        tasks=TasksConfig(path=str(tmp_path / "none.jsonl")),
        prompts=PromptsConfig(template=str(tmp_path / "none.txt")),
        policy=PolicyConfig(name="nobody", max_new_tokens=99_999),
        sandbox=SandboxConfig(figure={"figure.dpy": 50}),
        rewards=RewardsConfig(terms={"formatt": {}}),
        selection=SelectionConfig(filters=("infra", "zero_sd")),
        sft=SftConfig(
            stages=(
                SftStageConfig(
                    name="a",
                    steps=1,
                    data=(SftDataConfig(kind="scripts"),),
                    token_weights=(TokenWeight(pattern="(", weight=2),),
                ),
                SftStageConfig(name="b", steps=1, data=(SftDataConfig(kind="trajectories"),)),
            )
        ),
    )
    found = failed(check_config(config))
    assert set(found) == {
        "[tasks]",
        "[prompts]",
        "[policy]",
        "[sandbox]",
        "[rollout]",
        "[rewards]",
        "[selection]",
        "[[sft.stages]] 0 'a'",
        "[[sft.stages]] 0 'a' token_weights",
        "[[sft.stages]] 1 'b'",
    }
    assert "did you mean 'figure.dpi'" in found["[sandbox]"]
    assert "sft.stages[0].data[0].tasks" in found["[[sft.stages]] 0 'a'"]
    assert "did you mean 'format'" in found["[rewards]"]
    assert "zero_sd" in found["[selection]"]


def test_what_is_only_not_there_yet_is_a_note(tmp_path):
    missing = Config(policy=PolicyConfig(model=str(tmp_path / "model")))
    assert by_name(check_config(missing))["[policy]"].status == "note"
    named = Config(policy=PolicyConfig(model="Qwen/Qwen2.5-VL-7B-Instruct"))
    assert by_name(check_config(named))["[policy]"].status == "ok"


@pytest.mark.parametrize(
    ("sections", "status", "word"),
    [
        ({}, "ok", "100 RL steps"),
        ({"selection": {"min_survivors": 99}}, "failed", "min_survivors = 99"),
        (
            {"selection": {"carry_over": True}, "train": {"old_logprobs": "learner"}},
            "failed",
            "tis_cap",
        ),
        (
            {
                "selection": {"carry_over": True},
                "train": {"old_logprobs": "learner", "tis_cap": 2.0},
            },
            "ok",
            "",
        ),
        (
            {"train": {"kl_coefficient": 0.1, "kl_reference": "/nowhere"}},
            "note",
            "kl_reference: /nowhere",
        ),
        ({"train": {"kl_coefficient": 0.1, "kl_reference": "Qwen/Qwen2.5-VL-7B"}}, "ok", ""),
        ({"rollout": {"group_size": 1}}, "note", "group_size = 1"),
        # Most configs with it only evaluate; RL and SFT refuse it.
        ({"policy": {"dtype": "float16"}}, "note", "float16"),
    ],
)
def test_sections_that_rl_needs_together_are_checked(sections, status, word):
    finding = by_name(check_config(Config.model_validate(sections)))["[train]"]
    assert finding.status == status
    assert word in finding.detail


def stage(**values) -> Config:
    return Config.model_validate({"sft": {"stages": [{"name": "s", "steps": 3, **values}]}})


def test_pairs_from_a_file_are_no_fault(tmp_path):
    path = tmp_path / "pairs.jsonl"
    data = [{"kind": "pairs", "path": str(path)}]
    assert "no such file" in failed(check_config(stage(data=data)))["[[sft.stages]] 0 's'"]
    path.touch()
    assert not failed(check_config(stage(data=data)))


def test_conversations_and_held_out_sources_are_looked_for_too(tmp_path):
    path = tmp_path / "set.json"
    good = {"kind": "pairs", "tasks": {"name": "needle"}}
    held_out = [{"kind": "conversations", "path": str(path)}]
    config = stage(data=[good], eval_data=held_out)
    assert "no such file" in failed(check_config(config))["[[sft.stages]] 0 's'"]
    path.touch()
    assert not failed(check_config(config))
    unknown = [{"kind": "scripts", "tasks": {"name": "nedle"}}]
    assert "[sft.stages.0.eval_data.0.tasks]" in failed(
        check_config(stage(data=[good], eval_data=unknown))
    )


def test_a_run_to_learn_from_that_is_not_there_yet_is_a_note(tmp_path):
    data = [{"kind": "trajectories", "path": str(tmp_path / "run")}]
    found = by_name(check_config(stage(data=data)))["[[sft.stages]] 0 's'"]
    assert (found.status, found.detail) == ("note", f"no run at {tmp_path / 'run'} yet")


def test_a_stage_is_checked_as_training_checks_it():
    data = [{"kind": "pairs", "tasks": {"name": "needle"}}]
    config = stage(data=data, stop_when="probe")
    assert "needs [probe.tasks]" in failed(check_config(config))["[[sft.stages]] 0 's'"]


def test_a_sandbox_is_checked_as_it_checks_itself():
    wrong = [
        {"figure": {"figure.dpi": "many"}},
        {"figure": {"backend": "tk"}},
        {"options": {"a": 1}},
    ]
    for values in wrong:
        config = Config(sandbox=SandboxConfig.model_validate(values))
        assert list(failed(check_config(config))) == ["[sandbox]"]


def test_sizes_of_a_new_model_are_checked():
    config = Config.model_validate({"new_model": {"num_kv_heads": 3}})
    assert list(failed(check_config(config))) == ["[new_model]"]


def test_missing_optional_package_is_a_note_that_names_the_extra():
    def needs() -> str:
        from pyvision_rl.registry import missing

        cause = ModuleNotFoundError("No module named 'pyarrow'", name="pyarrow")
        raise missing(cause, "tasks.path") from cause

    finding = try_check("x", needs)
    assert finding.status == "note"
    assert "pyvision-rl[data]" in finding.detail


# Sandboxes.


def test_shipped_sandbox_keeps_every_promise():
    findings = check_sandbox(Config(sandbox=SandboxConfig(options={"preload": []})))
    held = [f.name for f in findings if f.name.startswith("No session")]
    assert len(findings) == len(PROMISES) + 1 + len(held)
    assert {*ATTACKS} <= {name.removeprefix("No session ") for name in held}
    assert not failed(findings)


def test_a_sandbox_without_isolation_is_a_note_in_capitals():
    unsafe = SandboxConfig(level="unsafe", allow_unsafe=True, options={"preload": []})
    with pytest.warns(UnsafeSandboxWarning, match="WITHOUT ISOLATION"):
        findings = check_sandbox(Config(sandbox=unsafe))
    assert findings[0].status == "note"
    assert "WITHOUT ISOLATION" in findings[0].detail


class Deaf:
    """A sandbox that accepts everything and says nothing."""

    def __init__(self, config):
        self.closed = 0

    async def open(self, bindings, limits, seed):
        return self

    async def run(self, code):
        return Execution(ExecStatus.OK, "")

    async def close(self):
        self.closed += 1


class Broken(Deaf):
    """A sandbox that cannot open a session."""

    async def open(self, bindings, limits, seed):
        raise SandboxError("no room")


def test_sandbox_that_does_nothing_fails_every_promise_about_code():
    found = failed(check_sandbox(Config(sandbox=SandboxConfig(name=f"{HERE}:Deaf"))))
    # It does close twice; all else is a lie.
    assert len(found) == len(PROMISES) - 1


def test_sandbox_that_cannot_open_is_reported_not_raised():
    found = failed(check_sandbox(Config(sandbox=SandboxConfig(name=f"{HERE}:Broken"))))
    assert set(found.values()) == {"no room"}


# Policies.


class Good:
    """Writes one answer, whatever is asked."""

    def __init__(self, config, renderer):
        self.renderer = renderer

    async def sample(self, request):
        return self.renderer.script(ANSWER)

    def release(self, episode):
        pass

    async def close(self):
        pass


class Unseeded(Good):
    async def sample(self, request):
        return self.renderer.script(ANSWER.replace("4", str(random.random())))


class Certain(Good):
    async def sample(self, request):
        made = self.renderer.script(ANSWER)
        return replace(made, logprobs=(0.5,) * len(made.logprobs))


class Unfaithful(Good):
    async def sample(self, request):
        return replace(self.renderer.script(ANSWER), text="something else")


class Restless(Good):
    async def sample(self, request):
        return replace(self.renderer.script(ANSWER), stop=StopReason.LENGTH)


class Bare(Good):
    """Says that the turn ended, and leaves out the token that ends it."""

    async def sample(self, request):
        whole = self.renderer.script(ANSWER)
        return replace(whole, token_ids=whole.token_ids[:-1], logprobs=whole.logprobs[:-1])


class Overlong(Good):
    """The last token ends beyond the stop string."""

    async def sample(self, request):
        return replace(self.renderer.script(f"{CODE}\n"), stop=StopReason.STOP_STRING)


class Silent(Good):
    async def sample(self, request):
        raise RuntimeError("no device")


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("Good", set()),
        ("Unseeded", {"one seed gives one turn", "greedy turns repeat"}),
        ("Certain", {"log-probabilities are finite and at most 0"}),
        ("Unfaithful", {"the text is that of the ids"}),
        ("Restless", {"the stop reason fits"}),
        ("Bare", {"the stop reason fits"}),
        ("Overlong", set()),
        ("Silent", {"writes a turn"}),
    ],
)
def test_each_fault_of_a_policy_fails_its_own_check(name, wrong):
    config = Config(policy=PolicyConfig(name=f"{HERE}:{name}"))
    assert set(failed(check_policy(config))) == wrong


def test_scripted_policy_passes_with_its_tasks():
    config = own("Sound", policy=PolicyConfig(name="scripted"))
    assert not failed(check_policy(config))


def test_a_promise_that_breaks_is_told_in_its_own_words():
    finding = try_check("sums", lambda: str(require(1 + 1 == 3, "it is 2")))
    assert (finding.ok, finding.detail) == (False, "it is 2")
