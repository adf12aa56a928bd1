"""A run's episodes for other tools: chat messages as JSON lines, or a Parquet file with images.

In: a run folder. Out: ``messages.jsonl`` (OpenAI's message format; images as files beside it or
inside as data URLs), or ``train.parquet`` (a column of images that Hugging Face datasets decodes).
Every episode, message and image is counted; an image whose pixels the run did not keep stays named
by its hash and is counted as missing. Token ids and log-probabilities are not exported.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pyvision_rl.errors import ConfigError, RunError
from pyvision_rl.evaluation.reading import Episodes
from pyvision_rl.media import data_url
from pyvision_rl.runs_codec import SavedRollout
from pyvision_rl.runs_files import writing
from pyvision_rl.template import spelt_out
from pyvision_rl.types import GiveAnswer, Media, Message, RunCode, Text, Turn

Json: TypeAlias = dict[str, Any]
Format: TypeAlias = Literal["openai", "parquet"]

FORMATS: tuple[Format, ...] = ("openai", "parquet")
_TEXTS = (
    *("task_id", "question", "category", "data_source", "reference", "answer", "end"),
    *("why", "error", "left_out_by", "turns", "reward_parts"),
)
"""Columns of the Parquet file that hold text."""
_ROW_GROUP = 64
"""Episodes whose images are in memory at the same time."""


@dataclass(slots=True)
class Counts:
    """What was written."""

    episodes: int = 0
    messages: int = 0
    images: int = 0
    """Places of messages that show one."""
    files: int = 0
    """Different ones that were written."""
    missing: int = 0
    """Of ``images``: those whose pixels the run did not keep."""
    skipped: int = 0
    """Lines of the run that a kill had cut."""
    superseded: int = 0
    """Lines of samples that were run again, or of trajectories that were carried to a later step;
    the later lines are among ``episodes``.
    """

    def to_json(self) -> Json:
        """Return plain JSON values."""
        return asdict(self)


def export_log(run: Path, out: Path, form: str, *, data_urls: bool = False) -> Counts:
    """Write every episode of ``run`` to the folder ``out``, new or empty.

    Args:
        run: A run folder.
        out: Where to write.
        form: One of ``FORMATS``.
        data_urls: With openai: images inside the lines instead of files beside them.

    Raises:
        ConfigError: No such format, ``out`` holds something, or Parquet without the extra ``data``.
        RunError: ``run`` holds no episodes, or the disk refuses.
    """
    if form not in FORMATS:
        raise ConfigError(f"--format {form}: wants one of {', '.join(FORMATS)}")
    if data_urls and form != "openai":
        raise ConfigError("--data-urls is for --format openai; Parquet holds its images anyway")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out {out} is there already and not an empty folder; name another")
    episodes = Episodes(run)
    counts = Counts()
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        if form == "openai":
            _write_openai(episodes, out, counts, data_urls=data_urls)
        else:
            _write_parquet(episodes, out, counts)
    counts.skipped = len(episodes.problems)
    counts.superseded = episodes.superseded
    return counts


def facts_of(saved: SavedRollout) -> Json:
    """Return what is known of an episode beside its messages."""
    task, trajectory, reward = saved.task, saved.trajectory, saved.trajectory.reward
    return {
        "task_id": task.id,
        "rollout": trajectory.rollout,
        "step": saved.step,
        "question": task.input.question,
        "category": task.input.category,
        "data_source": task.input.data_source,
        "reference": task.gold.answer,
        "answer": trajectory.answer,
        "end": trajectory.end.value,
        "correct": None if reward is None else reward.correct,
        "reward": None if reward is None else reward.total,
        "reward_parts": None if reward is None else dict(reward.parts),
        "why": "" if reward is None else reward.why,
        "error": trajectory.error,
        "advantage": saved.advantage,
        "left_out_by": saved.reason,
        "turns": [_turn(turn) for turn in trajectory.turns],
    }


def _turn(turn: Turn) -> Json:
    done = turn.execution
    kinds = {RunCode: "code", GiveAnswer: "answer"}
    return {
        "action": kinds.get(type(turn.action), "malformed"),
        "stop": turn.stop.value,
        "num_tokens": turn.num_tokens,
        "status": None if done is None else done.status.value,
        "sample_s": turn.sample_s,
        "run_s": None if done is None else done.duration_s,
    }


def _write_openai(episodes: Episodes, out: Path, counts: Counts, *, data_urls: bool) -> None:
    written: dict[str, str | None] = {}

    def address(media: Media) -> str | None:
        if data_urls:
            data = _pixels(media)
            return None if data is None else data_url(data)
        if media.sha256 not in written:
            written[media.sha256] = _copied(media, out / "images")
        return written[media.sha256]

    with (out / "messages.jsonl").open("w", encoding="utf-8") as lines:
        for _, saved in episodes:
            messages = [_openai(m, address, counts) for m in saved.trajectory.messages]
            line = {"messages": messages, "metadata": facts_of(saved)}
            # Half a surrogate pair, which a model may write, is no UTF-8: as "\ud800" it is JSON.
            lines.write(spelt_out(json.dumps(line, ensure_ascii=False)) + "\n")
            counts.episodes += 1
            counts.messages += len(messages)
    counts.files = sum(name is not None for name in written.values())


def _openai(message: Message, address: Callable[[Media], str | None], counts: Counts) -> Json:
    """One message: a plain text, or parts where it shows an image."""
    if not message.media:
        said = "".join(p.text for p in message.parts if isinstance(p, Text))
        return {"role": message.role, "content": said}
    parts: list[Json] = []
    for part in message.parts:
        if isinstance(part, Text):
            parts.append({"type": "text", "text": part.text})
            continue
        counts.images += 1
        url = address(part)
        if url is None:
            counts.missing += 1
            url = f"missing:{part.sha256}"
        parts.append({"type": "image_url", "image_url": {"url": url}})
    return {"role": message.role, "content": parts}


def _write_parquet(episodes: Episodes, out: Path, counts: Counts) -> None:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ConfigError(
            "--format parquet needs pyarrow, which is not installed; "
            'run: pip install "pyvision-rl[data]"'
        ) from error
    schema = _schema(pa)
    different: set[str] = set()
    with pq.ParquetWriter(out / "train.parquet", schema) as writer:
        for rows in _batches(_row(saved, counts, different) for _, saved in episodes):
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    counts.files = len(different)


def _row(saved: SavedRollout, counts: Counts, different: set[str]) -> Json:
    """One episode; its messages name images by their place in the column ``images``."""
    images: list[Json | bytes | None] = []
    messages = []
    for message in saved.trajectory.messages:
        parts: list[Json] = []
        for part in message.parts:
            if isinstance(part, Text):
                parts.append({"type": "text", "text": part.text, "image": None})
                continue
            data = _pixels(part)
            counts.images += 1
            counts.missing += data is None
            if data is not None:
                different.add(part.sha256)
            parts.append({"type": "image", "text": None, "image": len(images)})
            images.append(data and {"bytes": data, "path": f"{part.sha256}.png"})
        messages.append({"role": message.role, "content": parts})
    counts.episodes += 1
    counts.messages += len(messages)
    facts = facts_of(saved)
    texts = {name: json.dumps(facts.pop(name)) for name in ("turns", "reward_parts")}
    row: Json = _spelt_out(facts | texts | {"messages": messages, "images": images})
    return row


def _spelt_out(value: Any) -> Any:
    """The value with every text in it spelt out: Parquet holds UTF-8."""
    if isinstance(value, str):
        return spelt_out(value)
    if isinstance(value, dict):
        return {key: _spelt_out(each) for key, each in value.items()}
    return [_spelt_out(each) for each in value] if isinstance(value, list) else value


def _schema(pa: Any) -> Any:
    """The columns, and what tells Hugging Face datasets that ``images`` are images."""
    text, whole, real = pa.string(), pa.int64(), pa.float64()
    part = pa.struct([("type", text), ("text", text), ("image", whole)])
    message = pa.struct([("role", text), ("content", pa.list_(part))])
    image = pa.struct([("bytes", pa.binary()), ("path", text)])
    columns = dict.fromkeys(_TEXTS, text)
    columns |= {"rollout": whole, "step": whole, "correct": pa.bool_()}
    columns |= {"reward": real, "advantage": real}
    columns |= {"messages": pa.list_(message), "images": pa.list_(image)}
    return pa.schema(columns.items(), metadata={"huggingface": json.dumps(_features())})


def _features() -> Json:
    def value(kind: str) -> Json:
        return {"dtype": kind, "_type": "Value"}

    kinds: Mapping[str, str] = {
        **dict.fromkeys(("rollout", "step"), "int64"),
        **dict.fromkeys(("reward", "advantage"), "float64"),
        "correct": "bool",
    }
    features: Json = {name: value(kinds.get(name, "string")) for name in (*_TEXTS, *kinds)}
    parts = [{"type": value("string"), "text": value("string"), "image": value("int64")}]
    features["messages"] = [{"role": value("string"), "content": parts}]
    features["images"] = [{"_type": "Image"}]
    return {"info": {"features": features}}


def _batches(rows: Iterator[Json]) -> Iterator[list[Json]]:
    batch: list[Json] = []
    for row in rows:
        batch.append(row)
        if len(batch) == _ROW_GROUP:
            yield batch
            batch = []
    if batch:
        yield batch


def _copied(media: Media, folder: Path) -> str | None:
    """Where an image lies beside the lines; None if the run did not keep it."""
    file = _file(media)
    if file is None or not file.exists():
        return None
    folder.mkdir(exist_ok=True)
    shutil.copyfile(file, folder / f"{media.sha256}.png")
    return f"images/{media.sha256}.png"


def _pixels(media: Media) -> bytes | None:
    """An image as it lies in the run folder."""
    file = _file(media)
    if file is None:
        return None
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RunError(f"cannot read {file}: {error}") from error


def _file(media: Media) -> Path | None:
    """The file of an image; a video, whose file lies anywhere, is never taken for one."""
    return media.source if media.kind == "image" and isinstance(media.source, Path) else None
