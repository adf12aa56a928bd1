"""What a run would take, before anything is loaded: ``pvrl <verb> --dry-run``.

In: a verb and a config. Out: a ``Plan``: parameters, tokens of a step, memory of the device by
part, whether it fits, and what is still missing. Needs neither torch nor network nor weights nor
data.

Two totals are told. ``certain`` is there whatever the episodes are; below it no run works.
``at_most`` is what would be held if every episode filled its context at once: above it nothing can
run out.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from pyvision_rl.config import Config
from pyvision_rl.errors import ConfigError
from pyvision_rl.sizes import memory
from pyvision_rl.sizes.architecture import Architecture
from pyvision_rl.sizes.needed import find_model, has_network, needed
from pyvision_rl.sizes.parameters import Parameters, Trained, count, trained

GIB = 2**30
_TRAINS = ("rl", "sft")
Fits = Literal["yes", "depends", "no"]


@dataclass(frozen=True, slots=True)
class Tokens:
    """How much a step is, at most."""

    context: int | None
    """Of one episode or example; None if nothing bounds the examples."""
    episodes: int
    """Sampled in a step, or examples in a batch."""
    trained_on: int
    """Of them; 0 where nothing is trained."""
    sampled: int
    """Tokens that the policy writes; 0 in SFT."""
    per_step: int | None
    """Of all episodes or examples, images expanded."""
    per_pass: int
    """Of one micro-batch; 0 where nothing is trained."""


@dataclass(frozen=True, slots=True)
class Held:
    """Bytes on the device, by part. Parts that are not there together are not added up."""

    fixed: memory.Fixed
    weight_copies: int
    """16-bit copies of float32 weights under ``train.mixed_precision``."""
    activations: int
    logits: int
    step: int
    """While the optimizer moves the weights."""
    cache: int
    """Keys and values of all live episodes."""
    prefill: int

    @property
    def certain(self) -> int:
        """What is held whatever the episodes are."""
        return self.fixed.total

    @property
    def updating(self) -> int:
        """At most, while gradients are made or used."""
        passing = self.weight_copies + self.activations + self.logits
        return self.fixed.total + max(passing, self.step)

    @property
    def sampling(self) -> int:
        """At most, while episodes are made."""
        return self.fixed.total - self.fixed.gradients + self.cache + self.prefill

    @property
    def at_most(self) -> int:
        """The larger of the two."""
        return max(self.updating, self.sampling)


@dataclass(frozen=True, slots=True)
class Plan:
    """A run in numbers."""

    verb: str
    model: str
    source: str
    """Where the sizes are from, or why they are not known."""
    needed: tuple[str, ...]
    tokens: Tokens
    parameters: Parameters | None = None
    trained: Trained | None = None
    held: Held | None = None
    device_memory: int | None = None
    """Bytes to compare with."""

    @property
    def fits(self) -> Fits | None:
        """yes: whatever the episodes are; no: whatever they are; None: nothing to compare."""
        if self.held is None or self.device_memory is None:
            return None
        if self.held.certain > self.device_memory:
            return "no"
        # Without a bound on a row there is none on what it holds.
        bounded = self.tokens is not None and self.tokens.context is not None
        return "yes" if bounded and self.held.at_most <= self.device_memory else "depends"

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values; bytes as whole numbers."""
        held = None
        if self.held is not None:
            totals = {
                name: getattr(self.held, name)
                for name in ("certain", "updating", "sampling", "at_most")
            }
            held = asdict(self.held) | totals
        parameters = None
        if self.parameters is not None and self.trained is not None:
            total = {"total": self.parameters.total, "trained": self.trained.total}
            parameters = asdict(self.parameters) | total
        return {
            "model": self.model,
            "source": self.source,
            "parameters": parameters,
            "tokens": asdict(self.tokens),
            "memory_bytes": held,
            "device_memory_bytes": self.device_memory,
            "fits": self.fits,
            "needed": list(self.needed),
        }

    def lines(self) -> list[str]:
        """Return it for people."""
        return [*self._size_lines(), *self._token_lines(), *self._memory_lines(), *self._missing()]

    def _size_lines(self) -> list[str]:
        if self.parameters is None or self.trained is None:
            return [f"sizes: not known: {self.source}"]
        p = self.parameters
        parts = f"vision {p.vision:,}, text {p.text:,}, embeddings {p.embeddings:,}"
        adapters = f", and adapters {p.adapters:,}" if p.adapters else ""
        lines = [f"parameters: {p.total:,} ({parts}){adapters}; from {self.source}"]
        if self.verb in _TRAINS:
            lines.append(f"trained: {self.trained.total:,}")
        return lines

    def _token_lines(self) -> list[str]:
        t = self.tokens
        if self.verb == "sft":
            most = "not bounded" if t.per_step is None else f"at most {t.per_step:,} tokens"
            return [f"a step: {t.episodes:,} examples, {most}; {t.per_pass:,} tokens a pass"]
        line = f"a step: {t.episodes:,} episodes, at most {t.per_step:,} tokens, "
        line += f"{t.sampled:,} of them sampled"
        if self.verb == "rl":
            line += f"; {t.trained_on:,} trained on, {t.per_pass:,} tokens a pass"
        return [line]

    def _memory_lines(self) -> list[str]:
        held = self.held
        if held is None:
            return []
        parts = [(f.name, getattr(held.fixed, f.name)) for f in fields(held.fixed)]
        rest = ("weight_copies", "activations", "logits", "step", "cache", "prefill")
        parts += [(name, getattr(held, name)) for name in rest]
        lines = [f"  {name.replace('_', ' '):14}{_gib(size):>10}" for name, size in parts if size]
        lines = ["memory of the device, in GiB:", *lines]
        lines.append(f"  certain {_gib(held.certain)}, at most {_gib(held.at_most)}")
        if self.device_memory is not None:
            lines.append(f"  {_said(self)}")
        return lines

    def _missing(self) -> list[str]:
        if not self.needed:
            return ["needed before the run: nothing"]
        return ["needed before the run:", *(f"  {line}" for line in self.needed)]


def plan_of(verb: str, config: Config, device_memory: int | None = None) -> Plan:
    """Return what ``pvrl <verb>`` with this config would take.

    Args:
        verb: rl, sft, eval, rollout and the like.
        config: The run's.
        device_memory: Bytes to compare with.

    Raises:
        ConfigError: The model's ``config.json`` is there, but of no use.
    """
    missing = needed(config, verb)
    here = has_network(verb, config)
    if not here or not config.policy.model:
        why = "policy.model is empty" if here else f"policy.name = {config.policy.name!r}"
        return Plan(verb, config.policy.model, why, missing, _tokens(verb, config, None)[0])
    architecture, source = find_model(config.policy.model)
    tokens, one = _tokens(verb, config, architecture)
    if architecture is None or one is None:
        return Plan(verb, config.policy.model, source, missing, tokens)
    return Plan(
        verb,
        config.policy.model,
        source,
        missing,
        tokens,
        count(architecture, config.train),
        trained(architecture, config.train),
        _held(verb, config, architecture, tokens, one),
        device_memory,
    )


def require_fit(verb: str, config: Config, device_memory: int, device: str) -> str:
    """Return a remark, or "", on whether a run can fit the device it is about to start on.

    Args:
        verb: rl or sft.
        config: ``train.memory_check`` says what to do.
        device_memory: Bytes that are there.
        device: Its name, for the message.

    Raises:
        ConfigError: What is certain does not fit, and ``memory_check = "refuse"``.
    """
    try:
        plan = plan_of(verb, config, device_memory)
    except ConfigError:
        return ""  # loading the model says it better
    if plan.held is None or plan.fits != "no":
        return ""
    text = (
        f"{device} has {_gib(device_memory)} GiB, and weights, gradients and optimizer of "
        f"{config.policy.model} alone take {_gib(plan.held.certain)} GiB; see pvrl {verb} "
        "--dry-run, and train.lora_rank, train.freeze_vision and policy.dtype"
    )
    if config.train.memory_check == "refuse":
        raise ConfigError(f'{text}; train.memory_check = "warn" starts all the same')
    return text


def _held(
    verb: str, config: Config, architecture: Architecture, tokens: Tokens, one: memory.Pass
) -> Held:
    trains, samples = verb in _TRAINS, verb != "sft" or _probes(config)
    # A server keeps its caches to itself.
    samples = samples and config.policy.name == "local"
    context = config.rollout.max_context_tokens
    live = min(config.rollout.max_live_episodes, tokens.episodes if verb == "rl" else 10**9)
    rows = min(config.policy.max_batch, live)
    return Held(
        fixed=memory.fixed(architecture, config, verb),
        weight_copies=memory.weight_copies(architecture, config) if trains else 0,
        activations=memory.activations(architecture, config, one) if trains else 0,
        logits=memory.logits(architecture, one) if trains else 0,
        step=memory.stepping(architecture, config) if trains else 0,
        cache=memory.cache(architecture, config, rows, live, context) if samples else 0,
        prefill=memory.prefill(architecture, config, rows, context) if samples else 0,
    )


def _probes(config: Config) -> bool:
    return any(stage.stop_when == "probe" for stage in config.sft.stages)


def _tokens(
    verb: str, config: Config, architecture: Architecture | None
) -> tuple[Tokens, memory.Pass | None]:
    if verb == "sft":
        tokens, rows, written = _sft_tokens(config)
    else:
        tokens, rows, written = _episode_tokens(verb, config)
    if architecture is None:
        return tokens, None
    pads = _picture_tokens(config, architecture) * rows
    merged = architecture.vision.merge**2
    targets = min(tokens.per_pass, written)
    return tokens, memory.Pass(tokens.per_pass, targets, min(tokens.per_pass, pads) * merged)


def _episode_tokens(verb: str, config: Config) -> tuple[Tokens, int, int]:
    """Return tokens of a step, rows of a pass, and tokens that were sampled in these rows."""
    rollout, selection, train = config.rollout, config.selection, config.train
    context = rollout.max_context_tokens
    turns = min(context, (rollout.max_tool_calls + 1) * config.policy.max_new_tokens)
    if verb == "rl":
        groups = math.ceil(selection.groups_per_step * selection.oversample)
        episodes, used = groups * rollout.group_size, selection.groups_per_step * rollout.group_size
    else:
        episodes, used = rollout.max_live_episodes, 0
    most = train.micro_batch_rows or used
    per_pass = min(used, most) * context
    per_pass = min(per_pass, max(train.micro_batch_tokens, context))
    rows = math.ceil(per_pass / context)
    tokens = Tokens(context, episodes, used, episodes * turns, episodes * context, per_pass)
    return tokens, rows, rows * turns


def _sft_tokens(config: Config) -> tuple[Tokens, int, int]:
    sources = [source for stage in config.sft.stages for source in stage.data]
    bounds = [source.max_tokens for source in sources]
    batch = max((stage.batch_size for stage in config.sft.stages), default=0)
    room = config.train.micro_batch_tokens
    known = [bound for bound in bounds if bound is not None]
    if not sources or len(known) < len(bounds):
        return Tokens(None, batch, batch, 0, None, room), 1, room
    longest = max(known)
    most = config.train.micro_batch_rows or batch
    per_pass = min(min(batch, most) * longest, max(room, longest))
    rows = math.ceil(per_pass / longest)
    return Tokens(longest, batch, batch, 0, batch * longest, per_pass), rows, per_pass


def _picture_tokens(config: Config, architecture: Architecture) -> int:
    """Return the most tokens that the pictures of one episode take."""
    rollout = config.rollout
    prompts = config.prompts
    framed = prompts.context in ("initial_frames", "frames")
    asked = (prompts.num_frames or prompts.max_frames) if framed else 1
    shown = asked + rollout.max_tool_calls * config.sandbox.max_images
    pictures = max(asked, min(rollout.max_images, shown))
    pixels = config.policy.max_pixels or architecture.spec.max_pixels
    return pictures * max(1, pixels // architecture.spec.factor**2)


def _said(plan: Plan) -> str:
    assert plan.device_memory is not None
    room = f"{_gib(plan.device_memory)} GiB"
    what = "examples" if plan.verb == "sft" else "episodes"
    return {
        "yes": f"fits {room}, however long the {what} are",
        "depends": f"fits {room} unless {what} get long (docs/models.md): lower "
        "rollout.max_live_episodes, policy.max_batch, rollout.max_context_tokens or "
        "train.micro_batch_tokens, or bound a source's max_tokens, to be sure",
        "no": f"does not fit {room}: what is certain is more",
    }[plan.fits or "no"]


def _gib(size: int) -> str:
    return f"{size / GIB:,.2f}"
