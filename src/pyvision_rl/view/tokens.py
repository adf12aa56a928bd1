"""The tokens of trajectories, for the raw view: what the network read and wrote.

In: the records of a chunk with their segments, and where the model was. Out: JSON values: ids, what
each says, and log-probabilities. Without a tokenizer on this machine there are ids only. Downloads
nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pyvision_rl.rendering import load_renderer
from pyvision_rl.rendering.base import Renderer
from pyvision_rl.runs_codec import SavedRollout
from pyvision_rl.types import Segment
from pyvision_rl.view.scripts import Json


class TokenTexts:
    """Says what single tokens are; the tokenizer is loaded when it is first asked."""

    def __init__(self, path: Path, model: str) -> None:
        """Prepare.

        Args:
            path: The run folder; its checkpoints hold the tokenizer too.
            model: ``policy.model`` of the run.
        """
        self._path, self._model = path, model
        self._renderer: Renderer | None = None
        self._tried = False
        self._known: dict[int, str] = {}
        self._lock = threading.Lock()
        self.why = ""
        """Why there are no texts."""

    def __call__(self, ids: Sequence[int]) -> list[str] | None:
        """Return a text per token, or None."""
        with self._lock:
            if not self._tried:
                self._tried = True
                self._renderer = self._load()
            if self._renderer is None:
                return None
            known, renderer = self._known, self._renderer
            known |= {token: _text(renderer, token) for token in set(ids) - known.keys()}
            return [known[token] for token in ids]

    def _load(self) -> Renderer | None:
        if not self._model:
            from pyvision_rl.rendering.chars import CharsRenderer

            return CharsRenderer()
        checkpoints = sorted((self._path / "checkpoints").glob("step_*"), reverse=True)
        places = [Path(self._model), self._path / "final", *checkpoints[:1]]
        here = [place for place in places if place.is_dir()]
        self.why = f"no tokenizer of {self._model} on this machine"
        for place in here:
            try:
                return load_renderer(str(place))
            except Exception as error:  # noqa: BLE001 - tokenizers raise any type; ids are shown
                self.why = f"{place}: {error}"
        return None


def _text(renderer: Renderer, token: int) -> str:
    try:
        return renderer.decode((token,))
    except Exception:  # noqa: BLE001 - an id that another tokenizer wrote says nothing
        return f"[{token}]"


def tokens_payload(step: int, saved: Iterable[SavedRollout], texts: TokenTexts) -> Json:
    """Return the content of a file of tokens."""
    told = [[_segment(s, texts) for s in record.trajectory.segments] for record in saved]
    return {"step": step, "why": texts.why or None, "trajectories": told}


def _segment(segment: Segment, texts: TokenTexts) -> Json:
    told: Any = segment.logprobs if segment.sampled else None
    return {
        "sampled": segment.sampled,
        "ids": list(segment.token_ids),
        "texts": texts(segment.token_ids),
        "logprobs": None if told is None else list(told),
        "images": [m.sha256 for m in segment.media],
    }
