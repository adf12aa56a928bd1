"""What a run holds in the memory of its device, by part.

In: an ``Architecture``, a config, and how much goes through the network at a time. Out: bytes.
``Fixed`` is what is there whatever the episodes are; ``activations``, ``logits`` and the caches
follow from tokens. Counts tensors only: not the process, its libraries, or what an allocator keeps
free.

How it counts: one layer of transformers' code, operation by operation, what its backward pass
needs (held against the measured peak by a test). Widths: h hidden, q all query heads, k all key
heads, i inside the MLP.
"""

from __future__ import annotations

from dataclasses import dataclass

from pyvision_rl.config import Config, TrainConfig
from pyvision_rl.sizes.architecture import Architecture
from pyvision_rl.sizes.parameters import LORA_MAPS, count, trained

PREFILL_TOKENS = 16384
"""Of one pass over prompts, as in ``policy.decoding``."""
_LOGIT_COPIES = 6
"""float32 [targets, vocabulary] that exist together when entropies are taken."""
_MAX_SCORES = 2**28
"""Of one chunk, as in ``train.learner``."""
_MUON_PART = 2**26
"""Parameters, as in ``train.muon``."""
_MASTER_PART = 2**28
"""Parameters, as in ``train.master``."""
_CACHE_SLACK = 1.25
"""The pool of keys and values grows by a quarter."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """Bytes that are there from the first step on."""

    weights: int
    """Of the network, and of adapters beside it."""
    gradients: int = 0
    optimizer: int = 0
    """Moments, and the float32 copy with ``train.master_weights``."""
    reference: int = 0
    """The frozen policy of the KL term."""
    averages: int = 0
    """The mean of the weights, with ``sft.stages.ema_decay``."""

    @property
    def total(self) -> int:
        """All of them."""
        return self.weights + self.gradients + self.optimizer + self.reference + self.averages


@dataclass(frozen=True, slots=True)
class Pass:
    """What goes through the network in one forward and backward pass."""

    tokens: int
    """Padded, images expanded."""
    targets: int
    patches: int
    """Of distinct images, before they merge into tokens."""


def fixed(architecture: Architecture, config: Config, verb: str) -> Fixed:
    """Return what a run of ``verb`` holds whatever its episodes are, on process 0.

    Args:
        architecture: Of ``policy.model``.
        config: The run's.
        verb: rl and sft train; others only sample.
    """
    train, width = config.train, dtype_bytes(config)
    sizes = count(architecture, train)
    if verb not in ("rl", "sft"):
        return Fixed(sizes.total * width)
    moved = trained(architecture, train)
    own = 4 if train.lora_rank else width
    state = 4 if train.master_weights else own
    moments = 2 * moved.total - (moved.matrices if train.optimizer == "muon" else 0)
    copies = moved.total * 4 if train.master_weights and own < 4 else 0
    averaged = verb == "sft" and any(stage.ema_decay for stage in config.sft.stages)
    weights, pieces = sizes.total * width + sizes.adapters * 4, _pieces(train)
    return Fixed(
        # Process 0 holds its piece beside the whole network that samples.
        weights=weights + (-(-weights // pieces) if train.parallel == "fsdp2" else 0),
        gradients=-(-moved.total * own // pieces),
        optimizer=-(-(moments * state + copies) // pieces),
        reference=sizes.total * width if verb == "rl" and train.kl_coefficient else 0,
        averages=moved.total * own if averaged else 0,
    )


def activations(architecture: Architecture, config: Config, one: Pass) -> int:
    """Return what one pass holds at its fullest beside ``logits``.

    That is at the end of the forward pass, or, with ``train.gradient_checkpointing``, while a layer
    is computed again and the scores are gone.
    """
    text, train = architecture.text, config.train
    compute, layer = _compute_bytes(config), _text_layer(architecture, config)
    ends = (2 + architecture.vision.deep) * compute + _norm_bytes(config)
    kept = one.tokens * ends * text.hidden
    way_back = one.tokens * 3 * text.intermediate * compute
    if train.gradient_checkpointing:
        kept += one.tokens * text.layers * text.hidden * dtype_bytes(config)
        way_back += one.tokens * layer
    else:
        kept += one.tokens * text.layers * layer
    kept += one.patches * _kept_of_patch(architecture, config)
    passing = one.patches * _passing_patch(architecture, config)
    return kept + max(0, max(way_back, passing) - logits(architecture, one))


def logits(architecture: Architecture, one: Pass) -> int:
    """Return what scores over the vocabulary take, in chunks where there are many."""
    scores = min(one.targets * architecture.text.vocab, _MAX_SCORES)
    return _LOGIT_COPIES * 4 * scores


def weight_copies(architecture: Architecture, config: Config) -> int:
    """Return the 16-bit copies that mixed precision makes of float32 weights."""
    train = config.train
    if train.mixed_precision == "no" or dtype_bytes(config) < 4:
        return 0
    everything = TrainConfig(freeze_vision=False)
    matrices = trained(architecture, everything).matrices
    text, layers = architecture.text, architecture.text.layers
    if train.gradient_checkpointing:
        matrices //= max(1, layers)
    return 2 * (matrices + text.vocab * text.hidden)


def stepping(architecture: Architecture, config: Config) -> int:
    """Return what the optimizer takes while it moves the weights, beside what it keeps.

    On a GPU torch's AdamW makes one more number for each parameter; float32 copies go in parts, and
    so does Muon, which makes five numbers for each that it moves at once.
    """
    train = config.train
    moved = trained(architecture, train).total
    own = 4 if train.lora_rank else dtype_bytes(config)
    moved = -(-moved // _pieces(train))
    text = architecture.text
    if train.master_weights and own < 4:
        # No parameter is cut: one that is larger than a part is one.
        return 2 * 4 * min(moved, max(_MASTER_PART, text.vocab * text.hidden))
    if train.optimizer == "muon":
        matrices = trained(architecture, train).matrices
        at_once = min(matrices, max(_MUON_PART, text.hidden * text.intermediate))
        return max(5 * 4 * at_once, (moved - matrices) * own)
    return moved * own


def _pieces(train: TrainConfig) -> int:
    """Return the processes that share what is trained; 1 where each holds all of it."""
    return max(1, train.num_processes) if train.parallel == "fsdp2" else 1


def cache(architecture: Architecture, config: Config, rows: int, kept: int, tokens: int) -> int:
    """Return the keys and values of episodes of ``tokens`` tokens.

    Args:
        architecture: Whose layers keep them.
        config: Its ``policy.dtype``.
        rows: Episodes that are decoded together.
        kept: Episodes that wait for their code between two turns.
        tokens: Of every episode.
    """
    text = architecture.text
    each = text.layers * 2 * text.key * dtype_bytes(config)
    return int(each * tokens * (rows * _CACHE_SLACK + kept))


def prefill(architecture: Architecture, config: Config, rows: int, tokens: int) -> int:
    """Return what a pass over prompts takes beside the cache, and the scores of the next tokens."""
    text = architecture.text
    at_once = max(tokens, min(PREFILL_TOKENS, rows * tokens))
    layer = (6 * text.hidden + 2 * text.query + 3 * text.intermediate) * dtype_bytes(config)
    # Where all of it is pictures, the tower is the larger part.
    tower = architecture.vision.merge**2 * _passing_patch(architecture, config)
    return at_once * max(layer, tower) + 3 * 4 * rows * text.vocab


def dtype_bytes(config: Config) -> int:
    """Return the bytes of one weight of the network."""
    return 4 if config.policy.dtype == "float32" else 2


def _compute_bytes(config: Config) -> int:
    """Return the bytes of what a linear map gives."""
    return 4 if config.train.mixed_precision == "no" and dtype_bytes(config) == 4 else 2


def _norm_bytes(config: Config) -> int:
    """Return what a norm of the language model keeps for each number: input, normed, output."""
    if dtype_bytes(config) < 4:
        return 4 + 2 + 2
    return 12 if config.train.mixed_precision == "no" else 10


def _text_layer(architecture: Architecture, config: Config) -> int:
    """Return what one layer of the language model keeps for a token."""
    text, each = architecture.text, _compute_bytes(config)
    norm = _norm_bytes(config)
    # Queries, keys and values as attention sees them, what it gives; gate, its SiLU, up, product.
    inner = each * (2 * text.query + 2 * text.key + 4 * text.intermediate)
    kept = 2 * norm * text.hidden + inner + 4 * text.heads
    if architecture.family == "qwen3_vl":
        kept += (norm - each) * (text.query + text.key)
    if config.train.lora_rank:
        # Adapters compute in float32: an adapted map keeps its input in that precision too.
        maps = LORA_MAPS[config.train.lora_targets]
        widths = {"q_proj": text.hidden, "o_proj": text.query, "gate_proj": text.hidden}
        widths["down_proj"] = text.intermediate
        kept += (4 - each) * sum(width for name, width in widths.items() if name in maps)
        kept += 4 * config.train.lora_rank * len(maps)
    return kept


def _tower_layer(architecture: Architecture, config: Config) -> int:
    """Return what one layer of the tower keeps for a patch."""
    vision, each = architecture.vision, _compute_bytes(config)
    gated = architecture.family == "qwen2_5_vl"
    # LayerNorm keeps its input only, and gives the output.
    norm = _norm_bytes(config) if gated else 2 * each
    maps = 4 if gated else 2
    return 2 * norm * vision.hidden + each * (4 * vision.hidden + maps * vision.intermediate)


def _kept_of_patch(architecture: Architecture, config: Config) -> int:
    """Return what the tower keeps of a patch for the way back; a frozen one only its result."""
    vision, each = architecture.vision, _compute_bytes(config)
    result = each * vision.out // vision.merge**2
    if config.train.freeze_vision or config.train.lora_rank:
        return result
    mergers = (1 + vision.deep) * (3 * each * vision.hidden + result)
    if config.train.gradient_checkpointing:
        layers = vision.layers * vision.hidden * each
    else:
        layers = vision.layers * _tower_layer(architecture, config)
    return _pixels(architecture, config) + layers + mergers


def _passing_patch(architecture: Architecture, config: Config) -> int:
    """Return what a patch takes while a layer of the tower is computed, and is kept by nobody."""
    return _pixels(architecture, config) + _tower_layer(architecture, config)


def _pixels(architecture: Architecture, config: Config) -> int:
    vision = architecture.vision
    return dtype_bytes(config) * vision.channels * vision.frames * vision.patch**2
