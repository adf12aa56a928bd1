"""Faults of the reference that no other test shows to be absent (docs/reference-faults.md)."""

from __future__ import annotations

import ast
import asyncio
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from typer.main import get_command

from pyvision_rl.advantages import assign
from pyvision_rl.cli.main import app
from pyvision_rl.config import PromptsConfig, RewardsConfig, RolloutConfig, SelectionConfig
from pyvision_rl.config.base import Section
from pyvision_rl.parsing import CODE_CLOSE
from pyvision_rl.prompts import PromptBuilder
from pyvision_rl.rendering.chars import CharsRenderer
from pyvision_rl.rewards import build_rewarder
from pyvision_rl.rollout import Harness, run_groups
from pyvision_rl.sandbox.base import SandboxLimits
from pyvision_rl.sandbox.scripted import ScriptedSandbox
from pyvision_rl.selection import select
from pyvision_rl.types import (
    Completion,
    EndReason,
    ExecStatus,
    Execution,
    Gold,
    Message,
    SampleLimits,
    SampleRequest,
    Segment,
    Task,
    TaskInput,
)

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src" / "pyvision_rl"
CODE = "<code>\n```python\nprint(1)\n```\n</code>"
ANSWER = "<answer>\n\\boxed{7}\n</answer>"


class CountingRenderer(CharsRenderer):
    """Counts the prompts it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = 0

    def open(self, messages: Sequence[Message]) -> Segment:
        self.opened += 1
        return super().open(messages)


class Patient:
    """Writes code, then the answer; the first turn of the task ``slow`` waits for all others."""

    def __init__(self, renderer: CharsRenderer) -> None:
        self._renderer = renderer
        self._others_are_done = asyncio.Event()
        self.asked: list[str] = []

    async def sample(self, request: SampleRequest) -> Completion:
        self.asked.append(request.task_id)
        if request.task_id == "slow" and request.turn == 0:
            await self._others_are_done.wait()
        elif request.turn == 1:
            self._others_are_done.set()
        return self._renderer.script(CODE if request.turn == 0 else ANSWER, (CODE_CLOSE,))

    def release(self, episode: str) -> None:
        pass

    async def close(self) -> None:
        pass


def harness(**config: object) -> Harness:
    renderer = CountingRenderer()
    printed = Execution(ExecStatus.OK, "1\n")
    return Harness(
        prompts=PromptBuilder(PromptsConfig()),
        renderer=renderer,
        policy=Patient(renderer),
        sandbox=ScriptedSandbox.playing(lambda _index, _code: printed),
        rewarder=build_rewarder(RewardsConfig()),
        config=RolloutConfig(**config),  # type: ignore[arg-type]
        sampling=SampleLimits(max_new_tokens=1000, stop=(CODE_CLOSE,)),
        sandbox_limits=SandboxLimits(),
    )


def task(name: str, question: str = "Which digit?") -> Task:
    return Task(TaskInput(name, question), Gold("7"))


def test_an_episode_that_waits_holds_up_no_other() -> None:
    # In lockstep the quick one's second turn waits for the slow one's first, for ever.
    async def play(schedule: str, patience_s: float) -> list[EndReason]:
        made = harness(schedule=schedule)
        work = run_groups(made, [task("slow"), task("quick")], seed=1, group_size=1)
        groups = await asyncio.wait_for(work, patience_s)
        return [t.end for g in groups for t in g.trajectories]

    assert asyncio.run(play("async", 30)) == [EndReason.ANSWERED] * 2
    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(play("lockstep", 0.2))


def test_a_prompt_is_rendered_once_for_its_whole_group() -> None:
    made = harness()
    groups = asyncio.run(run_groups(made, [task("a"), task("b")], seed=1, group_size=8))
    assert sum(len(g.trajectories) for g in groups) == 16
    assert made.renderer.opened == 2  # type: ignore[attr-defined]
    assert len({id(t.segments[0]) for g in groups for t in g.trajectories}) == 2


def test_a_prompt_too_long_for_the_context_ends_its_own_episodes_only() -> None:
    made = harness(max_context_tokens=5000)
    tasks = [task("long", "Which digit? " * 1000), task("short")]
    groups = asyncio.run(run_groups(made, tasks, seed=1, group_size=2))
    ends = [[t.end for t in g.trajectories] for g in groups]
    assert ends == [[EndReason.TOKEN_LIMIT] * 2, [EndReason.ANSWERED] * 2]
    assert "long" not in made.policy.asked  # type: ignore[attr-defined]
    config = SelectionConfig(filters=("infra", "ungraded", "over_length"))
    batch = select([assign(g) for g in groups], config)
    assert (len(batch.samples), batch.dropped) == (2, {"over_length": 2})


def commands(page: Path) -> Iterator[list[str]]:
    """The command lines that a page shows, without the program's name."""
    text = page.read_text(encoding="utf-8")
    blocks = "".join(re.findall(r"^ *```.*?\n(.*?)^ *```", text, flags=re.MULTILINE | re.DOTALL))
    found = re.findall(r"^ *(?:\w+=\S+ )*pvrl +(.+)$", blocks, flags=re.MULTILINE)
    found += re.findall(r"`pvrl ([^`]+)`", text)
    for line in found:
        yield shlex.split(re.sub(r"[\[\]]", "", line) if "[-" in line else line, comments=True)


def misunderstood(words: Sequence[str]) -> str:
    """What is wrong with a command line; a verb that is only mentioned needs no arguments."""
    command, left = get_command(app), list(words)
    while left and hasattr(command, "commands"):
        if left[0].startswith("-"):
            return ""
        name = left.pop(0)
        if name not in command.commands:
            return f"no command {name}"
        command = command.commands[name]
    if left:
        try:
            command.make_context(" ".join(words), left)
        except Exception as error:  # noqa: BLE001 - typer's own classes are no public names
            return f"{type(error).__name__}: {error}"
    return ""


@pytest.mark.parametrize(
    "page",
    sorted(
        [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
    ),
    ids=lambda p: p.name,
)
def test_commands_of_every_page_are_understood(page: Path) -> None:
    wrong = {" ".join(words): misunderstood(words) for words in commands(page)}
    assert not {line: why for line, why in wrong.items() if why}


def test_a_command_that_is_none_is_told(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "Use `pvrl check tasks FILE`.\n```bash\npvrl train X\npvrl rl --resme R  # go on\n```\n",
        encoding="utf-8",
    )
    told = [misunderstood(words) for words in commands(page)]
    assert [told[0], told[2]] == ["no command train", ""]
    assert "--resme" in told[1]


def unread_keys(section: type[Section], words: set[str]) -> list[str]:
    found = [f"{section.__name__}.{key}" for key in section.model_fields if key not in words]
    return found + [key for kind in section.__subclasses__() for key in unread_keys(kind, words)]


def words_of_the_code() -> set[str]:
    """Attributes that are read, and texts, anywhere but in the sections themselves."""
    found: set[str] = set()
    for path in SRC.rglob("*.py"):
        if path.parent == SRC / "config":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                found.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


def test_every_config_key_is_read() -> None:
    # Keys of one name hide each other: it finds a key that nothing at all reads.
    words = words_of_the_code()
    assert not unread_keys(Section, words)
    assert unread_keys(Section, words - {"tis_cap"}) == ["TrainConfig.tis_cap"]


_ADDRESS = re.compile(r"(?<![\d.=])(?:\d{1,3}\.){3}\d{1,3}(?![\d.])")
_FOLDER = re.compile(
    r"(?<![\w.~/:}-])/(?:home|root|mnt|data|scratch|nfs|lustre|gpfs|cpfs|Users|work\w*)\d*/\w+"
)
_OWN = {"127.0.0.1", "0.0.0.0"}
_VERSION = re.compile(r"(opencv-python(?:-headless)?\W+)(?:\d+\.){3}\d+")
"""A release of OpenCV: the one library in our results whose versions have four parts."""
PUBLISHED = ("src", "configs", "docs", "examples", "benchmarks", ".ci")
FRONT = ("*.md", "*.toml", "*.txt", "Makefile", ".gitignore")


def traces(text: str) -> list[str]:
    """Addresses and folders that exist on somebody's machine only."""
    text = _VERSION.sub(r"\1", text)
    addresses = [a for a in _ADDRESS.findall(text) if a not in _OWN]
    return addresses + _FOLDER.findall(text)


def published() -> list[Path]:
    """What a person runs or reads. Tests may make paths up."""
    kinds = {".py", ".md", ".toml", ".txt", ".json", ".jsonl", ""}
    inside = [p for folder in PUBLISHED for p in (ROOT / folder).rglob("*")]
    front = [p for pattern in FRONT for p in ROOT.glob(pattern)]
    found = [p for p in (*front, *inside) if p.is_file() and p.suffix in kinds]
    return [p for p in found if not {"runs", "__pycache__"} & set(p.relative_to(ROOT).parts)]


def test_no_address_or_folder_of_a_machine_is_written_down() -> None:
    files = published()
    assert len(files) > 100
    found = {str(p.relative_to(ROOT)): traces(p.read_text("utf-8", "replace")) for p in files}
    assert not {name: what for name, what in found.items() if what}


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ('host = "10.39.3.123"', 1),
        ('open("/home/ma-user/data.json")', 1),
        ("PATH=/cpfs01/user/x", 1),
        ("see /mnt/petrelfs/models and 192.168.0.1", 2),
        ("http://127.0.0.1:8000/v1, version==5.0.0.93, docs/data/x, ./home/me, 1.2.3", 0),
        ('"opencv-python-headless": "5.0.0.93"', 0),
        ('"opencv-python-headless": "5.0.0.93 at 10.39.3.123"', 1),
    ],
)
def test_traces_of_a_machine_are_found(text: str, count: int) -> None:
    assert len(traces(text)) == count
