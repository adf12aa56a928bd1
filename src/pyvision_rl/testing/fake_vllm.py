"""A vLLM server in this process: the JSON of a real one over a function that gives logits.

In: an ``Engine`` and how the server was started. Out: a server on a local port that samples, stops,
bans, scores prompts, expands placeholders, reloads weights and loads adapters as vLLM does, fails
on demand, and can be made to reload wrongly. Standard library only; for tests and for trying a
config.

Recorded from vLLM 0.32 (CPU build): ``/inference/v1/generate`` with ``content_parts`` of flat
``image_url``s, and that it is absent without ``--enable-scale-out``; ``prompt_token_ids`` and
``mm_placeholders``; that one placeholder per image is expanded, and that already expanded ones are
accepted and read wrongly; that a reload may answer "ok" and leave wrong weights (``reload``), and
that a picture in a cache that was not reset before it ends the engine ("Encoder cache miss"). Read
in vLLM's sources, not recorded: the other control paths and what they answer, that they are absent
without their flags, ``prompt_logprobs`` of the whole vocabulary at temperature 1, ``token_id`` in
log-probabilities, the stop token among the ids. Assumed: the texts of refusals.
"""

from __future__ import annotations

import base64
import json
import math
import random
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from pyvision_rl.testing.fake_openai import FakeOpenAI, Fault, Seen

GENERATE = "/inference/v1/generate"
_RESETS = ("/reset_mm_cache", "/reset_encoder_cache", "/reset_prefix_cache")


class Engine(Protocol):
    """What the server serves."""

    vocab_size: int
    image_token_id: int

    def num_pads(self, image: bytes) -> int:
        """Return how many tokens an image file takes."""
        ...

    def logits(
        self, token_ids: Sequence[int], images: Sequence[bytes], adapter: str
    ) -> Sequence[Sequence[float]]:
        """Return [expanded tokens, V] logits; row t is for the token after t.

        Args:
            token_ids: One placeholder per image.
            images: The files, in order.
            adapter: Name of a loaded one; "" for the model itself.
        """
        ...

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, special tokens recognised."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return ids as text, special tokens shown."""
        ...

    def reload(self, path: str, take: Callable[[int], bool]) -> None:
        """Load those of a folder's weights whose number, by name, ``take`` says to take."""
        ...

    def load_adapter(self, name: str, path: str) -> None:
        """Load an adapter under a name."""
        ...


class RefusedError(Exception):
    """The server answers with an error."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


@dataclass(frozen=True, slots=True)
class Started:
    """How the server was started."""

    model: str = "tiny"
    version: str = "0.32.0"
    scale_out: bool = True
    """--enable-scale-out"""
    dev_mode: bool = True
    """VLLM_SERVER_DEV_MODE=1"""
    lora: bool = True
    """--enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"""
    processed_logprobs: bool = True
    """--logprobs-mode processed_logprobs"""
    max_model_len: int = 100_000
    reload: Literal["right", "keeps_old", "mixed"] = "right"
    """What a reload that is answered as done has really done."""
    forgets_adapters: bool = False
    """It was started anew before every load."""
    late_pause: bool = False
    """It pauses, and the answer is lost."""
    omit: tuple[str, ...] = ()
    """Fields that its answers lack, as those of another version do."""
    end_at: frozenset[int] = frozenset()
    """Ids at which it ends a turn whatever was asked for."""


@dataclass(slots=True)
class _State:
    paused: bool = False
    reset: set[str] = field(default_factory=set)
    """Caches that were reset since the last reload or request."""
    seen: set[bytes] = field(default_factory=set)
    """Pictures in the caches."""
    stale: set[bytes] = field(default_factory=set)
    """Pictures that a reload left in one cache and not in the other."""
    adapters: list[str] = field(default_factory=list)


class FakeVLLM(FakeOpenAI):
    """The server; a context manager that starts and ends it."""

    def __init__(
        self,
        engine: Engine,
        started: Started | None = None,
        *,
        faults: Iterable[Fault | None] = (),
        broken: Mapping[str, Fault] | None = None,
    ) -> None:
        """Take what is served, and what goes wrong.

        Args:
            engine: Used by one request at a time.
            started: With which flags; None takes all that are needed.
            faults: Of the first requests, in order of arrival; None lets one pass.
            broken: Path -> what goes wrong with each request to it.
        """
        super().__init__(faults=faults)
        self.engine = engine
        self.started = started or Started()
        self.broken = dict(broken or {})
        self._state = _State()
        self._one_at_a_time = threading.Lock()

    @property
    def url(self) -> str:
        """The base address, as a config names it."""
        return super().url.removesuffix("/v1")

    def arrive(self, seen: Seen) -> Fault:
        """Note a request and return what goes wrong with it."""
        fault = super().arrive(seen)
        return self.broken.get(seen.path.partition("?")[0], fault)

    def reply(self, seen: Seen) -> tuple[int, bytes]:
        """Return status and body of the answer."""
        with self._one_at_a_time:
            try:
                return 200, self._answer_to(seen)
            except RefusedError as error:
                message = {"error": {"message": str(error), "code": error.status}}
                return error.status, json.dumps(message).encode()

    def paths(self) -> list[str]:
        """Return the paths asked for so far, queries included."""
        return [seen.path for seen in self.requests]

    def _answer_to(self, seen: Seen) -> bytes:
        path, started = seen.path.partition("?")[0], self.started
        if path == "/version":
            return json.dumps({"version": started.version}).encode()
        if path == "/v1/models":
            return json.dumps({"object": "list", "data": self._cards()}).encode()
        if path == "/tokenize":
            ids = self.engine.encode(seen.body["prompt"])
            return json.dumps({"count": len(ids), "tokens": ids}).encode()
        if path == GENERATE and started.scale_out:
            return json.dumps(self._generated(seen.body)).encode()
        if path in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter") and started.lora:
            return self._adapters(path, seen.body)
        if started.dev_mode:
            return self._control(path, seen.body)
        raise RefusedError(404, "Not Found")

    def _cards(self) -> list[dict[str, Any]]:
        card: dict[str, Any] = {"id": self.started.model, "parent": None}
        card |= {"max_model_len": self.started.max_model_len, "object": "model"}
        return [card, *({**card, "id": n, "parent": card["id"]} for n in self._state.adapters)]

    def _adapters(self, path: str, body: Mapping[str, Any]) -> bytes:
        name, known = body["lora_name"], self._state.adapters
        if path.startswith("/v1/unload"):
            if name not in known:
                raise RefusedError(404, f"The lora adapter '{name}' cannot be found.")
            known.remove(name)
            return b"Success: LoRA adapter removed."
        if self.started.forgets_adapters:
            known.clear()
        if name in known:
            raise RefusedError(400, f"The lora adapter '{name}' has already been loaded.")
        self.engine.load_adapter(name, body["lora_path"])
        known.append(name)
        return b"Success: LoRA adapter added."

    def _control(self, path: str, body: Mapping[str, Any]) -> bytes:
        state = self._state
        if path in ("/pause", "/resume"):
            state.paused = path == "/pause"
            if state.paused and self.started.late_pause:
                raise RefusedError(504, "gateway timeout")
            return json.dumps({"status": "paused" if state.paused else "resumed"}).encode()
        if path in _RESETS:
            state.reset.add(path)
            return b'{"success": true}' if path == "/reset_prefix_cache" else b""
        if path != "/collective_rpc" or body.get("method") != "reload_weights":
            raise RefusedError(404, "Not Found")
        takes: dict[str, Callable[[int], bool]] = {
            "right": lambda _: True,
            "keeps_old": lambda _: False,
            "mixed": lambda number: number % 2 == 0,
        }
        self.engine.reload(body["kwargs"]["weights_path"], takes[self.started.reload])
        if not (state.paused and {*_RESETS[:2]} <= state.reset):
            state.stale |= state.seen
        state.seen, state.reset = set(), set()
        return b'{"results": [null]}'

    # ---- tokens in, tokens out

    def _generated(self, body: Mapping[str, Any]) -> dict[str, Any]:
        ids, sampling = list(body["token_ids"]), body["sampling_params"]
        images = [_file(part) for part in body.get("content_parts") or ()]
        model = body.get("model") or self.started.model
        self._refuse(ids, images, model)
        adapter = "" if model == self.started.model else model
        expanded, spans = self._expand(ids, images)
        rows = self.engine.logits(ids, images, adapter)
        value: dict[str, Any] = {
            "request_id": "generate-tokens-1",
            "prompt_token_ids": expanded,
            "mm_placeholders": {"image": spans} if spans else None,
            "prompt_logprobs": None,
        }
        if sampling.get("prompt_logprobs") is not None:
            told = [
                {str(token): {"logprob": _logprobs(row)[token], "rank": 1, "decoded_token": None}}
                for row, token in zip(rows[:-1], expanded[1:], strict=True)
            ]
            value["prompt_logprobs"] = [None, *told]
        room = self.started.max_model_len - len(expanded)
        turn = _Turn(self, ids, images, adapter, sampling, room)
        value["choices"] = [turn.choice(rows[-1])]
        return {name: found for name, found in value.items() if name not in self.started.omit}

    def _refuse(self, ids: list[int], images: list[bytes], model: str) -> None:
        state, pads = self._state, ids.count(self.engine.image_token_id)
        if model != self.started.model and model not in state.adapters:
            raise RefusedError(404, f"The model `{model}` does not exist.")
        if max(ids) >= self.engine.vocab_size:
            raise RefusedError(400, f"Token id {max(ids)} is out of vocabulary")
        if len(images) > pads:
            raise RefusedError(400, f"{len(images)} images and {pads} placeholders")
        if state.paused:
            raise RefusedError(503, "generation is paused")
        if state.stale & set(images):
            raise RefusedError(500, "EngineCore encountered an issue: Encoder cache miss")
        state.seen |= set(images)

    def _expand(
        self, ids: list[int], images: list[bytes]
    ) -> tuple[list[int], list[dict[str, int]]]:
        """Expand the first so many placeholders, and leave the rest: already expanded ones stay."""
        expanded: list[int] = []
        spans: list[dict[str, int]] = []
        for token in ids:
            if token == self.engine.image_token_id and len(spans) < len(images):
                size = self.engine.num_pads(images[len(spans)])
                spans.append({"offset": len(expanded), "length": size})
                expanded += [token] * size
            else:
                expanded.append(token)
        return expanded, spans


@dataclass(frozen=True, slots=True)
class _Turn:
    """One turn while it is written."""

    server: FakeVLLM
    prompt: list[int]
    images: list[bytes]
    adapter: str
    sampling: Mapping[str, Any]
    room: int
    """Tokens before the server's limit."""

    def choice(self, row: Sequence[float]) -> dict[str, Any]:
        """Return the turn that begins where ``row`` holds the logits."""
        sampling, engine = self.sampling, self.server.engine
        numbers = random.Random(sampling.get("seed"))
        ids: list[int] = []
        content: list[dict[str, Any]] = []
        finish, why = "", None
        while not finish:
            token, logprob = self._draw(row, numbers.random())
            ids.append(token)
            content.append({"token_id": token, "logprob": logprob, "rank": 1, "top_logprobs": []})
            finish, why = self._end(ids)
            if not finish:
                row = engine.logits([*self.prompt, *ids], self.images, self.adapter)[-1]
        told = {"content": content} if sampling.get("logprobs") is not None else None
        choice = {"index": 0, "token_ids": ids, "logprobs": told}
        return choice | {"finish_reason": finish, "stop_reason": why}

    def _draw(self, row: Sequence[float], number: float) -> tuple[int, float]:
        sampling = self.sampling
        biased = list(row)
        for token, bias in (sampling.get("logit_bias") or {}).items():
            biased[int(token)] += bias
        temperature = sampling.get("temperature", 1.0)
        processed = _logprobs([x / (temperature or 1.0) for x in biased])
        if temperature == 0:
            token = max(range(len(biased)), key=biased.__getitem__)
        else:
            processed = _filtered(processed, sampling.get("top_k", 0), sampling.get("top_p", 1.0))
            token = _pick(processed, number)
        told = processed if self.server.started.processed_logprobs else _logprobs(row)
        return token, told[token]

    def _end(self, ids: list[int]) -> tuple[str, str | int | None]:
        sampling = self.sampling
        if ids[-1] in self.server.started.end_at:
            return "stop", None
        if ids[-1] in (sampling.get("stop_token_ids") or ()):
            return "stop", ids[-1]
        # A stop string that is a special token is not seen unless they are shown.
        hidden = sampling.get("skip_special_tokens", True)
        text = "" if hidden else self.server.engine.decode(ids)
        for stop in sampling.get("stop") or ():
            if stop in text:
                return "stop", stop
        over = len(ids) >= min(sampling["max_tokens"], self.room)
        return ("length" if over else ""), None


def _file(part: Mapping[str, Any]) -> bytes:
    if part.get("type") != "image_url" or not isinstance(part.get("url"), str):
        raise RefusedError(400, "a content part wants type image_url and a flat url")
    return base64.b64decode(part["url"].partition(",")[2])


def _logprobs(row: Sequence[float]) -> list[float]:
    most = max(row)
    total = most + math.log(math.fsum(math.exp(x - most) for x in row))
    return [x - total for x in row]


def _filtered(logprobs: list[float], top_k: int, top_p: float) -> list[float]:
    """Return the log-probabilities of what top_k and top_p leave, renormalised."""
    if top_k <= 0 and top_p >= 1:
        return logprobs
    order = sorted(range(len(logprobs)), key=lambda i: -logprobs[i])
    order = order[:top_k] if top_k > 0 else order
    kept: set[int] = set()
    before = 0.0
    for index in order:
        if before >= top_p and kept:
            break
        kept.add(index)
        before += math.exp(logprobs[index])
    return _logprobs([x if i in kept else -1e30 for i, x in enumerate(logprobs)])


def _pick(logprobs: list[float], number: float) -> int:
    total = 0.0
    for index, logprob in enumerate(logprobs):
        total += math.exp(logprob)
        if number < total:
            return index
    return max(range(len(logprobs)), key=logprobs.__getitem__)
