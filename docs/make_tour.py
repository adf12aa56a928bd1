"""Make the excerpts of ``tour.md`` and ``data-flow.md`` from one real episode.

Run it with ``python docs/make_tour.py``. It makes the tiny model of ``examples/own_tasks``, lets it
imitate a teacher for 60 steps so that it writes code at all, rolls out one group, makes one update,
and writes what it saw between the marks ``<!-- excerpt: NAME -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pyvision_rl.advantages import assign
from pyvision_rl.assemble import assemble, build_tasks
from pyvision_rl.collect import run_rollout
from pyvision_rl.config import Config, SelectionConfig
from pyvision_rl.config_file import load_config
from pyvision_rl.models.base import Expanded
from pyvision_rl.new_model import new_model
from pyvision_rl.rendering.base import Renderer
from pyvision_rl.selection import select
from pyvision_rl.train.learner import Learner
from pyvision_rl.train.sft import run_sft
from pyvision_rl.types import Batch, Group, Message, Scored, Segment, Text, UpdateStats

HERE = Path(__file__).parent
EXAMPLES = HERE.parent / "examples"
WIDTH = 96


@dataclass(frozen=True, slots=True)
class Story:
    """Everything the excerpts are taken from."""

    renderer: Renderer
    group: Group
    told: Scored
    """The episode that is walked through: one that looked and was right."""
    expanded: Expanded
    training_logprobs: tuple[float, ...]
    """Of the told episode's sampled tokens, before the update."""
    batch: Batch
    stats: UpdateStats


def play(folder: Path) -> Story:
    """Return one group with different rewards, and what an update makes of it."""
    sys.path.insert(0, str(EXAMPLES))
    config = prepare(folder)
    with assemble(config) as assembly:
        tasks = build_tasks(config.tasks)
        group = next(
            group
            for index in range(len(tasks))
            for group in assembly.rollout([tasks[index]], seed=index)
            if len({t.reward.total for t in group.trajectories if t.reward}) > 1
            and any(t.reward.correct and t.num_tool_calls for t in group.trajectories if t.reward)
        )
        group = assign(group)
        batch = select([group], SelectionConfig(groups_per_step=1))
        told = next(s for s in batch.samples if s.trajectory.reward.correct)
        learner = Learner(assembly.model, config.train)
        logprobs = learner.logprobs([told.trajectory])[0]
        expanded = assembly.model.expand(told.trajectory.segments)
        stats = learner.update(batch, config.policy.temperature)
        return Story(assembly.harness.renderer, group, told, expanded, logprobs, batch, stats)


def prepare(folder: Path) -> Config:
    """Make the model, the teacher's episodes and the imitating model; return its config."""
    rows = (EXAMPLES / "own_tasks" / "tasks.jsonl").as_posix()
    changes = [
        f"tasks.path={rows}",
        "tasks.limit=8",
        f"new_model.corpus_tasks.0.path={rows}",
        "prompts.template=minimal",
        f"policy.model={folder / 'model'}",
        f"sft.stages.0.data.0.path={folder / 'teacher'}",
    ]

    def config(*more: str) -> Config:
        return load_config(EXAMPLES / "own_tasks" / "config.toml", [*changes, *more])

    # The long template teaches the tokenizer more words, the short one keeps the episode short.
    new_model(config("prompts.template=question"), folder / "model")
    teacher = config("policy.name=new_policy:LookOnce", "rollout.group_size=16")
    run_rollout(teacher, folder / "teacher")
    run_sft(config(), folder / "sft")
    return config(f"policy.model={folder / 'sft' / 'final'}")


def task(story: Story) -> Iterator[str]:
    """The task's two halves."""
    public, gold = story.group.task.input, story.group.task.gold
    media = ", ".join(
        f"Media({m.kind}, {m.sha256[:8]}..., {m.width} x {m.height})" for m in public.media
    )
    yield f"TaskInput  id {public.id!r}, question {public.question!r}, category {public.category!r}"
    yield f"           media ({media})"
    yield f"Gold       answer {gold.answer!r}, answer_type {gold.answer_type!r}"


def messages(story: Story) -> Iterator[str]:
    """The episode as chat messages."""
    for number, message in enumerate(story.told.trajectory.messages):
        yield f"[{number}] {message.role}"
        yield from (f"    {line}" for line in flat(message).split("\n"))


def flat(message: Message) -> str:
    """A message as one text, images by their size."""
    return "".join(
        p.text if isinstance(p, Text) else f"[image {p.width} x {p.height}]" for p in message.parts
    )


def segments(story: Story) -> Iterator[str]:
    """The ledger, one line a segment."""
    yield "segment  who      ids  images  in the network  begins with"
    for number, segment in enumerate(story.told.trajectory.segments):
        text = visible(story.renderer.decode(segment.token_ids))
        yield (
            f"{number:7}  {'sampled' if segment.sampled else 'given':7}  {len(segment.token_ids):3}"
            f"  {len(segment.media):6}  {story.renderer.length(segment):14}  {text[:42]}..."
        )


def episode(story: Story) -> Iterator[str]:
    """Every token of the ledger, with its mask under it."""
    for number, segment in enumerate(story.told.trajectory.segments):
        images = ", one image" if segment.media else ""
        who = "sampled by the policy" if segment.sampled else "given"
        yield f"segment {number}: {len(segment.token_ids)} tokens {who}{images}"
        yield from draw(segment, story.renderer)
        yield ""


def draw(segment: Segment, renderer: Renderer) -> Iterator[str]:
    """Two lines for each stretch of tokens: their texts, and 1 under those that are trained on."""
    mark = "1" if segment.sampled else "0"
    texts = marks = ""
    for token in segment.token_ids:
        cell = visible(renderer.decode([token])) + "│"
        if len(texts) + len(cell) > WIDTH:
            yield from (f"  text {texts}", f"  mask {marks}".rstrip())
            texts = marks = ""
        texts += cell
        marks += mark.ljust(len(cell))
    yield from (f"  text {texts}", f"  mask {marks}".rstrip())


def visible(text: str) -> str:
    """The text on one line."""
    return text.replace("\n", "↵")


def image(story: Story) -> Iterator[str]:
    """The first image in the ledger, and the same place in the network's context."""
    ids, expanded = story.told.trajectory.token_ids, story.expanded
    offset = expanded.images[0][0]
    pad = expanded.token_ids[offset]
    at = ids.index(pad)
    pads = next(n for n, i in enumerate(expanded.token_ids[offset:]) if i != pad)
    before, after = (
        named([expanded.token_ids[i]], story.renderer) for i in (offset - 1, offset + pads)
    )
    in_ledger, in_network = f"index {at - 1} to {at + 1}", f"index {offset - 1} to {offset + pads}"
    yield f"ledger   {in_ledger:15}  " + named(ids[at - 1 : at + 2], story.renderer)
    yield f"network  {in_network:15}  {before} {pads} x {named([pad], story.renderer)} {after}"
    yield "positions (time, row, column):"
    for index in (offset - 1, offset, offset + 1, offset + pads - 1, offset + pads):
        where = tuple(int(p) for p in expanded.positions[:, index])
        yield f"  index {index:3}  {where}  {named([expanded.token_ids[index]], story.renderer)}"


def named(ids: tuple[int, ...] | list[int], renderer: Renderer) -> str:
    """Ids with their texts."""
    return " ".join(f"{i} {visible(renderer.decode([i]))}" for i in ids)


def token(story: Story) -> Iterator[str]:
    """One sampled token, from its draw to its loss: the first digit of the answer."""
    trajectory, advantage = story.told.trajectory, story.told.advantage
    final = trajectory.segments[-1]
    answer = story.renderer.encode(trajectory.answer or "")[0]
    place = len(final.token_ids) - 1 - final.token_ids[::-1].index(answer)
    before = sum(len(s.token_ids) for s in trajectory.segments[:-1])
    sampled = [i for i, mask in enumerate(story.expanded.sampled) if mask]
    number = len(sampled) - len(final.token_ids) + place
    old, new = final.logprobs[place], story.training_logprobs[number]
    tokens = story.stats.num_tokens
    yield f"token                        {named([answer], story.renderer)!r}, the answer"
    yield f"in its turn                  {place} of {len(final.token_ids)}"
    yield f"in the ledger                {before + place} of {len(trajectory.token_ids)}"
    yield f"in the network               {sampled[number]} of {len(story.expanded.token_ids)}"
    yield f"log-probability at sampling  {old:.6f}"
    yield f"log-probability at training  {new:.6f}"
    yield f"largest difference in batch  {'below' if story.stats.mismatch < 1e-5 else 'above'} 1e-5"
    yield f"advantage of its trajectory  {advantage:+.4f}"
    yield f"its term -min(r A, clip(r) A) at r = 1   {-advantage:+.4f}"
    yield f"divided by the batch's {tokens} sampled tokens  {-advantage / tokens:+.6f}"


def rewards(story: Story) -> Iterator[str]:
    """The group's rewards and advantages."""
    yield "rollout  calls  sampled  answer    accuracy  tool_use  reward  advantage"
    pairs = zip(story.group.trajectories, story.group.advantages or (), strict=True)
    for trajectory, advantage in pairs:
        parts = trajectory.reward.parts if trajectory.reward else {}
        told = "  <- this episode" if trajectory is story.told.trajectory else ""
        yield (
            f"{trajectory.rollout:7}  {trajectory.num_tool_calls:5}"
            f"  {trajectory.num_sampled_tokens:7}  {trajectory.answer or '-':8}"
            f"  {parts['accuracy']:8.1f}  {parts['tool_use']:8.1f}  {sum(parts.values()):6.2f}"
            f"  {advantage:+9.4f}{told}"
        )


def update(story: Story) -> Iterator[str]:
    """What the update says of itself."""
    stats = story.stats
    yield f"trajectories   {len(story.batch.samples)} used, {len(story.batch.rejected)} left out"
    yield f"num_tokens     {stats.num_tokens}"
    by_hand = sum(-s.advantage * s.trajectory.num_sampled_tokens for s in story.batch.samples)
    yield f"loss           {stats.loss:+.4f}"
    yield f"by hand        {by_hand / stats.num_tokens:+.4f}  (every ratio is 1 before the step)"
    yield f"entropy        {stats.entropy:.4f}"
    yield f"clip_fraction  {stats.clip_fraction:.4f}"
    yield f"grad_norm      {stats.grad_norm:.4f}"


EXCERPTS = {
    "tour.md": (task, messages, segments, image, rewards, token, update),
    "data-flow.md": (episode,),
}


def main() -> None:
    """Rewrite the excerpts of both pages."""
    with tempfile.TemporaryDirectory() as folder:
        story = play(Path(folder))
    for name, excerpts in EXCERPTS.items():
        page = HERE / name
        text = page.read_text(encoding="utf-8")
        for excerpt in excerpts:
            lines = "\n".join(line.rstrip() for line in excerpt(story)).strip("\n")
            block = f"<!-- excerpt: {excerpt.__name__} -->\n```text\n{lines}\n```\n<!-- end -->"
            pattern = rf"<!-- excerpt: {excerpt.__name__} -->.*?<!-- end -->"
            text, count = re.subn(pattern, lambda _, b=block: b, text, flags=re.DOTALL)
            if count != 1:
                raise SystemExit(f"{page}: {count} marks for the excerpt {excerpt.__name__!r}")
        page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
