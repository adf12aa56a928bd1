"""One vision-language model as the sampler and the learner share it.

In: segments of the token ledger (one placeholder per image) and their images. Out: the network's
token ids (placeholders expanded to N pads), explicit 3-D rotary positions, hidden states and
log-probabilities. Sampler and learner both expand here, so they cannot disagree. Layers are
transformers' own; nothing of the network is rewritten here.

Axes: B rows, T query tokens, S key tokens, H width, V vocabulary. Positions are [3, ...] for
(time, height, width), as in Qwen2-VL (arXiv 2409.12191, M-RoPE).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyvision_rl.images import VisionSpec, expand_segment, grid, patches
from pyvision_rl.types import Media, Segment

_PATCH_CACHE_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Expanded:
    """A piece of an episode as the network sees it; T counts expanded tokens."""

    token_ids: tuple[int, ...]
    positions: np.ndarray
    """[3, T] int64."""
    sampled: np.ndarray
    """[T] bool."""
    logprobs: np.ndarray
    """[T] float32, 0.0 where not sampled; NaN where a policy did not tell them."""
    images: tuple[tuple[int, Media], ...]
    """(index of the first pad, image), in order."""
    next_position: int
    """Where the next text token stands on all three axes."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """Input embeddings with image features in place of pads."""

    inputs: Tensor
    """[B, T, H]."""
    visual: Tensor | None = None
    """[B, T] True on image pads; None when the family adds no deep features."""
    deep: tuple[Tensor, ...] = ()
    """Per early layer [B, T, H], zero outside pads (Qwen3-VL's DeepStack)."""


class VisionLanguageModel:
    """A Qwen2.5-VL or Qwen3-VL network behind explicit positions, masks and caches."""

    def __init__(
        self, module: nn.Module, vision: VisionSpec, vocab_size: int | None = None
    ) -> None:
        """Wrap a network; ids from ``vocab_size`` (the tokenizer's entries) on are never sampled.

        Networks are often wider than their tokenizer, and what pads them has no text.
        """
        config: Any = module.config
        width: int = config.get_text_config().vocab_size
        self.module = module
        self.vision = vision
        self.family: str = config.model_type
        self.image_token_id: int = config.image_token_id
        media = {config.image_token_id, config.video_token_id}
        self.vocab_size = vocab_size or width
        self.banned_ids = tuple(sorted(media.union(range(self.vocab_size, width))))
        """Media placeholders and padding: at -inf for sampler and learner alike."""
        self._banned: dict[torch.device, Tensor] = {}
        self._core: Any = module.model
        self._head: Any = module.lm_head
        self._patches: OrderedDict[str, np.ndarray] = OrderedDict()
        self._patch_bytes = 0

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters."""
        return next(self.module.parameters()).dtype

    def expand(self, segments: Iterable[Segment], first_position: int = 0) -> Expanded:
        """Return the segments as the network's tokens, with positions from ``first_position``.

        Raises:
            RenderError: Placeholders and images of a segment do not match.
        """
        ids: list[int] = []
        columns: list[np.ndarray] = []
        sampled: list[bool] = []
        logprobs: list[float] = []
        images: list[tuple[int, Media]] = []
        position = first_position

        def add_text(count: int) -> None:
            nonlocal position
            columns.append(np.broadcast_to(np.arange(count) + position, (3, count)))
            position += count

        for segment in segments:
            expanded, spans = expand_segment(segment, self.image_token_id, self.vision)
            done = 0
            for (first, rows, cols), media in zip(spans, segment.media, strict=True):
                add_text(first - done)
                images.append((len(ids) + first, media))
                columns.append(_image_positions(position, rows, cols))
                position += max(rows, cols)
                done = first + rows * cols
            add_text(len(expanded) - done)
            ids += expanded
            sampled += [segment.sampled] * len(expanded)
            logprobs += segment.known_logprobs if segment.sampled else [0.0] * len(expanded)
        return Expanded(
            tuple(ids),
            np.concatenate(columns, axis=1) if columns else np.zeros((3, 0), np.int64),
            np.array(sampled, bool),
            np.array(logprobs, np.float32),
            tuple(images),
            position,
        )

    def embed(self, token_ids: Tensor, images: Sequence[tuple[int, int, Media]]) -> Embedded:
        """Return embeddings with every image's features at its pads.

        Args:
            token_ids: [B, T] int64, pads already expanded.
            images: (row, index of the first pad, image). Each distinct image is encoded once.
        """
        inputs = self._core.language_model.embed_tokens(token_ids)
        if not images:
            return Embedded(inputs)
        B, T, H = inputs.shape
        distinct: dict[str, Media] = {}
        for _, _, media in images:
            distinct.setdefault(media.sha256, media)
        features, deep, spans = self._encode(list(distinct.values()))
        where = dict(zip(distinct, spans, strict=True))
        source, target = [], []
        for row, offset, media in images:
            start, stop = where[media.sha256]
            source.append(torch.arange(start, stop))
            target.append(torch.arange(stop - start) + (row * T + offset))
        source_N = torch.cat(source).to(self.device)
        target_N = torch.cat(target).to(self.device)

        def scatter(base: Tensor, values: Tensor) -> Tensor:
            flat = base.reshape(B * T, H)
            return flat.index_copy(0, target_N, values[source_N].to(flat.dtype)).view(B, T, H)

        if not deep:
            return Embedded(scatter(inputs, features))
        visual = torch.zeros(B * T, dtype=torch.bool, device=self.device)
        visual[target_N] = True
        layers = tuple(scatter(torch.zeros_like(inputs), d) for d in deep)
        return Embedded(scatter(inputs, features), visual.view(B, T), layers)

    def _encode(
        self, media: Sequence[Media]
    ) -> tuple[Tensor, tuple[Tensor, ...], list[tuple[int, int]]]:
        """Return features [sum N, H], deep features alike, and each image's (start, stop)."""
        pixels = torch.from_numpy(np.concatenate([self._pixels(m) for m in media]))
        grids = torch.tensor([grid(m, self.vision) for m in media], device=self.device)
        out = self._core.visual(
            pixels.to(self.device, self.dtype), grid_thw=grids, return_dict=True
        )
        stops = np.cumsum([g[1] * g[2] // self.vision.merge_size**2 for g in grids.tolist()])
        spans = list(zip([0, *stops[:-1].tolist()], stops.tolist(), strict=True))
        return out.pooler_output, tuple(getattr(out, "deepstack_features", None) or ()), spans

    def _pixels(self, media: Media) -> np.ndarray:
        # A task's image is asked for by the sampler and again by the learner, G times each.
        if media.sha256 in self._patches:
            self._patches.move_to_end(media.sha256)
            return self._patches[media.sha256]
        values = patches(media, self.vision)
        self._patches[media.sha256] = values
        self._patch_bytes += values.nbytes
        while self._patch_bytes > _PATCH_CACHE_BYTES and len(self._patches) > 1:
            self._patch_bytes -= self._patches.popitem(last=False)[1].nbytes
        return values

    def hidden(
        self,
        embedded: Embedded,
        positions: Tensor,
        *,
        mask: Tensor | None = None,
        cache: Any = None,
    ) -> Tensor:
        """Return the last hidden states [B, T, H].

        Args:
            embedded: From ``embed``.
            positions: [3, B, T] int64.
            mask: [B, 1, T, S] True where a query may look; None is plain causal, under which
                right padding is invisible to real tokens.
            cache: Receives ``update(key, value, layer)`` of every layer and returns all keys and
                values so far; None keeps nothing.
        """
        extra: dict[str, Any] = {}
        if embedded.visual is not None:
            extra["visual_pos_masks"] = embedded.visual
            extra["deepstack_visual_embeds"] = [d[embedded.visual] for d in embedded.deep]
        hidden: Tensor = self._core.language_model(
            inputs_embeds=embedded.inputs,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=cache is not None,
            **extra,
        ).last_hidden_state
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Return float32 logits [..., V] with ``banned_ids`` at -inf."""
        logits: Tensor = self._head(hidden).float()
        if logits.device not in self._banned:
            self._banned[logits.device] = torch.tensor(self.banned_ids, device=logits.device)
        return logits.index_fill(-1, self._banned[logits.device], float("-inf"))

    def save(self, path: Path) -> None:
        """Write weights and config as an ordinary Hugging Face directory (no tokenizer).

        Adapters are merged in, and saved in its folder ``adapter`` besides.
        """
        module: Any = self.module
        if hasattr(module, "peft_config"):
            from pyvision_rl.models.adapters import save_merged

            save_merged(module, path)
            return
        module.save_pretrained(path, safe_serialization=True)


def _image_positions(start: int, rows: int, cols: int) -> np.ndarray:
    """Return [3, rows*cols]: one time step, rows and columns counted from ``start``."""
    row, col = np.divmod(np.arange(rows * cols), cols)
    return start + np.stack([np.zeros_like(row), row, col])
