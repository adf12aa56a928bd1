"""Prove that a config, a task set or a policy works before time is spent on it.

In: a config. Out: ``Finding`` records, one per thing looked at; a fault is a finding and never an
exception, so that all of them are seen at once. The checks of a sandbox are in ``sandbox``, those
of a task set in ``tasks``. Trains nothing and writes nothing.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

from pyvision_rl import policy as policies
from pyvision_rl import sandbox as sandboxes
from pyvision_rl.absent import no_file
from pyvision_rl.assemble import assemble, build_tasks, num_tasks
from pyvision_rl.checks.rl import absent_model, training_detail
from pyvision_rl.checks.sandbox import Finding, require, sandbox_findings, try_async, try_check
from pyvision_rl.checks.sft import check_stage, compile_rules
from pyvision_rl.config import (
    Config,
    NewModelConfig,
    SandboxConfig,
    SelectionConfig,
    SftStageConfig,
    TasksConfig,
)
from pyvision_rl.errors import MissingKeyError
from pyvision_rl.new_model import check_sizes
from pyvision_rl.prompts import PromptBuilder
from pyvision_rl.registry import resolve
from pyvision_rl.rewards import build_rewarder, build_terms
from pyvision_rl.rollout import Harness
from pyvision_rl.selection import check_filters
from pyvision_rl.sources import data_sources
from pyvision_rl.tasks.base import Scripted, with_scripts
from pyvision_rl.tracking.base import check_trackers
from pyvision_rl.types import (
    Completion,
    SampleRequest,
    StopReason,
    TaskInput,
)
from pyvision_rl.video_prompt import check_room


def check_config(config: Config) -> list[Finding]:
    """Return what is right and wrong with every section; loads no model, starts no sandbox.

    A part that is only not there yet (a model directory, an optional package) is a note.
    """
    findings = [
        try_check(f"[{key}]", partial(_tasks_detail, section, key))
        for key, section in _task_sections(config)
    ]
    findings += [
        try_check("[prompts]", lambda: _done(PromptBuilder(config.prompts))),
        try_check("[policy]", partial(_policy_detail, config)),
        try_check("[sandbox]", partial(_sandbox_detail, config.sandbox)),
        try_check("[rollout]", partial(_rollout_detail, config)),
        try_check("[rewards]", partial(_rewards_detail, config)),
        try_check("[selection]", partial(_filters_detail, config.selection)),
        try_check("[train]", partial(training_detail, config)),
    ]
    if config.run.trackers:
        findings.append(try_check("[run]", lambda: _trackers_detail(config)))
    for index, stage in enumerate(config.sft.stages):
        where = f"[[sft.stages]] {index} {stage.name!r}"
        findings.append(try_check(where, partial(_stage_detail, config, index)))
        if stage.token_weights:
            findings.append(try_check(f"{where} token_weights", partial(_rules_detail, stage)))
    findings.append(try_check("[new_model]", partial(_new_model_detail, config.new_model)))
    for file in config.new_model.corpus_files:
        findings.append(try_check("[new_model] corpus_files", partial(_file_detail, file)))
    return findings


def check_sandbox(config: Config) -> list[Finding]:
    """Return whether the backend of ``[sandbox]`` keeps each promise of ``sandbox.base``."""
    backend = resolve(config.sandbox.name, sandboxes.TABLE, "sandbox.name")
    return sandbox_findings(lambda: backend(config.sandbox), config.sandbox)


def check_policy(config: Config) -> list[Finding]:
    """Return whether the policy of ``config`` writes sound turns. Loads the model.

    The prompt is that of the first task, or a plain question without ``[tasks]``.
    """
    task, scripts = TaskInput("check", "What is 1 + 1?"), None
    if config.tasks is not None:
        tasks = build_tasks(config.tasks)
        task = tasks[0].input
        if config.policy.name == "scripted" and isinstance(tasks, Scripted):
            scripts = {task.id: tasks.script(0)}
    with assemble(config, scripts=scripts) as assembly:
        return asyncio.run(_policy_findings(assembly.harness, task))


async def _policy_findings(harness: Harness, task: TaskInput) -> list[Finding]:
    prompt = harness.prompts.prompt(task)
    limits = replace(harness.sampling, max_new_tokens=min(64, harness.sampling.max_new_tokens))
    segments = (harness.renderer.open(prompt.messages),)
    request = SampleRequest("check-0", task.id, 0, segments, prompt.messages, limits, seed=1)
    again = replace(request, episode="check-1")
    greedy = replace(request, episode="check-2", limits=replace(limits, temperature=0.0))
    made: list[Completion] = []

    async def sample(asked: SampleRequest) -> Completion:
        completion = await harness.policy.sample(asked)
        harness.policy.release(asked.episode)
        return completion

    async def writes() -> str:
        made.append(await sample(request))
        return f"{len(made[0].token_ids)} tokens, stopped at {made[0].stop.value}"

    async def repeats(asked: SampleRequest) -> str:
        first, second = await sample(asked), await sample(replace(asked, episode="check-3"))
        require(first.token_ids == second.token_ids, f"{first.text!r}, then {second.text!r}")
        return ""

    async def releases() -> str:
        harness.policy.release("never-seen")
        await harness.policy.close()
        await harness.policy.close()
        return ""

    findings = [await try_async("writes a turn", writes)]
    if made and made[0].logprobs is None:
        untold = "none: its episodes can be graded and imitated, RL cannot train on them"
        findings.append(Finding("log-probabilities", "note", untold))
    elif made:
        decode = harness.renderer.decode
        findings += [
            try_check("log-probabilities are finite and at most 0", lambda: _logprobs(made[0])),
            try_check("the text is that of the ids", lambda: _text(made[0], decode)),
            try_check(
                "the stop reason fits",
                lambda: _stop(made[0], request, harness.renderer.end_of_turn),
            ),
            await try_async("one seed gives one turn", lambda: repeats(again)),
            await try_async("greedy turns repeat", lambda: repeats(greedy)),
        ]
    return [*findings, await try_async("unknown episodes and a second close do no harm", releases)]


def _task_sections(config: Config) -> Iterable[tuple[str, TasksConfig]]:
    """Yield every task set the config names, with its key."""
    for key, section in (("tasks", config.tasks), ("probe.tasks", config.probe.tasks)):
        if section is not None:
            yield key, section
    if config.eval.tasks is not None:
        yield "eval.tasks", config.eval.tasks
    for index, stage in enumerate(config.sft.stages):
        for kind, sources in (("data", stage.data), ("eval_data", stage.eval_data)):
            for position, data in enumerate(sources):
                if data.tasks is not None:
                    yield f"sft.stages.{index}.{kind}.{position}.tasks", data.tasks
    for index, section in enumerate(config.new_model.corpus_tasks):
        yield f"new_model.corpus_tasks.{index}", section


def _done(_: object) -> str:
    """Say nothing of what was only built to see that it can be."""
    return ""


def _tasks_detail(section: TasksConfig, key: str) -> str:
    return f"{section.name}: {num_tasks(build_tasks(section, key), section)} tasks"


def _policy_detail(config: Config) -> str:
    policy = config.policy
    if policy.name not in ("local", "scripted"):
        resolve(policy.name, policies.TABLE, "policy.name")
        if policy.name == "openai_chat":
            from pyvision_rl.policy.openai_chat import read_options

            return f"{read_options(policy).model} at {read_options(policy).url}"
        if policy.name == "vllm":
            from pyvision_rl.policy import vllm_options

            return f"a vLLM server at {vllm_options.read_options(policy).url}"
        return policy.name
    if policy.name == "scripted":
        for section, key in ((config.tasks, "tasks"), (config.eval.tasks, "eval.tasks")):
            if section is not None:
                with_scripts(build_tasks(section, key), section.name)
        return "plays back the task set's own scripts"
    if not policy.model:
        return "note: no model yet; give one with --set policy.model=DIR"
    absent = absent_model(policy.model)
    return f"note: {absent}" if absent else policy.model


def _sandbox_detail(config: SandboxConfig) -> str:
    # Making a backend checks its options; it starts nothing before the first session.
    resolve(config.name, sandboxes.TABLE, "sandbox.name")(config)
    return config.name


def _rollout_detail(config: Config) -> str:
    check_room(config.prompts, config.rollout)
    room, turn = config.rollout.max_context_tokens, config.policy.max_new_tokens
    require(
        turn < room, f"policy.max_new_tokens = {turn} fills rollout.max_context_tokens = {room}"
    )
    return f"{config.rollout.max_tool_calls} calls, {config.rollout.group_size} rollouts a task"


def _rewards_detail(config: Config) -> str:
    rewarder, _ = build_rewarder(config.rewards), build_terms(config.rewards)
    try:
        rewarder.check(lambda: data_sources(config, build_tasks))
    except MissingKeyError as error:
        return f"note: {error}"
    return ", ".join([config.rewards.name, "tool_use", *config.rewards.terms])


def _filters_detail(config: SelectionConfig) -> str:
    check_filters(config)
    return ", ".join(config.filters)


def _trackers_detail(config: Config) -> str:
    check_trackers(config.run.trackers)
    return ", ".join(config.run.trackers)


def _stage_detail(config: Config, index: int) -> str:
    check_stage(config, index)
    data = config.sft.stages[index].data
    for source in (*data, *config.sft.stages[index].eval_data):
        if source.kind == "trajectories" and not Path(source.path).exists():
            return f"note: no run at {source.path} yet"
        if source.kind in ("pairs", "conversations") and source.path:
            _file_detail(source.path)
    return ", ".join(source.kind for source in data)


def _rules_detail(stage: SftStageConfig) -> str:
    rules = compile_rules(stage.token_weights, f"stage {stage.name!r}")
    return ", ".join(pattern.pattern for pattern, _ in rules)


def _new_model_detail(config: NewModelConfig) -> str:
    check_sizes(config)
    return config.family


def _file_detail(file: str) -> str:
    require(bool(file), "no file is named")
    require(Path(file).exists(), no_file(file))
    return file


def _logprobs(completion: Completion) -> str:
    assert completion.logprobs is not None
    bad = [p for p in completion.logprobs if not math.isfinite(p) or p > 0]
    require(not bad, f"{len(bad)} of {len(completion.logprobs)} are not, e.g. {bad[:1]}")
    return ""


def _text(completion: Completion, decode: Callable[[tuple[int, ...]], str]) -> str:
    decoded = decode(completion.token_ids)
    require(
        decoded.startswith(completion.text), f"the ids say {decoded!r}, not {completion.text!r}"
    )
    return repr(completion.text[:60])


def _stop(completion: Completion, request: SampleRequest, end_of_turn: int) -> str:
    number, most = len(completion.token_ids), request.limits.max_new_tokens
    stop = completion.stop
    require(0 < number <= most, f"{number} tokens; the limit is {most}")
    if stop is StopReason.LENGTH:
        require(number == most, f"stopped for length after {number} of {most} tokens")
    if stop is StopReason.END:
        require(completion.token_ids[-1] == end_of_turn, "it ended without the end-of-turn token")
    if stop is StopReason.STOP_STRING:
        # A token may reach beyond the stop string that it completes.
        stopped = any(s in completion.text for s in request.limits.stop)
        require(stopped, f"no stop string in {completion.text[-40:]!r}")
    return stop.value
