"""Drawing a token: its distribution, its score, its independence of other rows, and turn ends."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvision_rl.policy.sampling import Rules, TurnEnd, draw
from pyvision_rl.types import SampleLimits, StopReason

CPU = torch.device("cpu")
V = 12


def limits(**options: float) -> SampleLimits:
    return SampleLimits(8, **options)  # type: ignore[arg-type]


def drawn(logits: torch.Tensor, rows: list[SampleLimits], uniforms: list[float]) -> torch.Tensor:
    tokens, _ = draw(logits, Rules.of(rows, CPU), torch.tensor(uniforms, dtype=torch.float64))
    return tokens


def shares(row: torch.Tensor, options: SampleLimits, count: int = 4000) -> np.ndarray:
    """Share of each token over an even grid of uniform numbers."""
    grid = [(i + 0.5) / count for i in range(count)]
    tokens = drawn(row.expand(count, -1).clone(), [options] * count, grid)
    return np.bincount(tokens.numpy(), minlength=len(row)) / count


def reference(row: torch.Tensor, options: SampleLimits) -> np.ndarray:
    """The filtered distribution, token by token: temperature, then top-k, then top-p."""
    p = torch.softmax(row.double() / options.temperature, -1).numpy()
    order = sorted(range(len(p)), key=lambda i: -p[i])
    if options.top_k:
        order = order[: options.top_k]
    kept, mass, total = [], 0.0, sum(p[i] for i in order)
    for i in order:
        if mass < options.top_p * total:
            kept.append(i)
        mass += p[i]
    out = np.zeros(len(p))
    out[kept] = p[kept] / p[kept].sum()
    return out


@pytest.mark.parametrize(
    "options",
    [
        limits(),
        limits(temperature=0.5),
        limits(temperature=2.0, top_k=3),
        limits(top_p=0.6),
        limits(temperature=1.5, top_k=6, top_p=0.8),
        limits(top_k=1),
        limits(top_p=1e-6),
    ],
)
def test_tokens_follow_the_filtered_distribution(options: SampleLimits) -> None:
    row = torch.randn(V, generator=torch.Generator().manual_seed(3)) * 2
    assert np.abs(shares(row, options) - reference(row, options)).max() <= 1e-3


def test_a_top_k_beyond_the_vocabulary_keeps_all() -> None:
    row = torch.linspace(-1, 1, V)
    assert np.array_equal(shares(row, limits(top_k=10 * V)), shares(row, limits()))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=4),
    st.sets(st.integers(0, V - 1), min_size=1, max_size=V - 1),
    st.integers(0, 10**6),
)
def test_a_banned_token_is_never_drawn(uniforms: list[float], banned: set[int], seed: int) -> None:
    logits = torch.randn(len(uniforms), V, generator=torch.Generator().manual_seed(seed))
    logits[:, sorted(banned)] = -math.inf
    tokens = drawn(logits, [limits()] * len(uniforms), uniforms)
    assert not banned & set(tokens.tolist())


@pytest.mark.parametrize("uniform", [0.0, 0.3, 1 - 2**-53])
def test_the_ends_of_the_unit_interval_stay_in_the_vocabulary(uniform: float) -> None:
    logits = torch.full((1, V), -math.inf)
    logits[0, 4] = 0.0
    assert drawn(logits, [limits()], [uniform]).tolist() == [4]


def test_a_row_does_not_depend_on_its_neighbours_or_their_limits() -> None:
    logits = torch.randn(4, V, generator=torch.Generator().manual_seed(0))
    rows = [limits(), limits(temperature=0), limits(top_k=2), limits(temperature=3, top_p=0.5)]
    uniforms = [0.9, 0.1, 0.7, 0.4]
    together = drawn(logits, rows, uniforms).tolist()
    alone = [drawn(logits[i : i + 1], [rows[i]], [uniforms[i]]).item() for i in range(4)]
    assert together == alone


def test_scores_are_of_the_whole_distribution_at_the_sampling_temperature() -> None:
    logits = torch.randn(3, V, generator=torch.Generator().manual_seed(1))
    logits[:, 2] = -math.inf
    rows = [limits(temperature=0.7, top_k=2), limits(temperature=0), limits(top_p=0.3)]
    tokens, logprobs = draw(
        logits, Rules.of(rows, CPU), torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
    )
    temperature = torch.tensor([[0.7], [1.0], [1.0]])
    want = torch.log_softmax(logits / temperature, -1).gather(1, tokens[:, None])[:, 0]
    assert logprobs.dtype == torch.float32
    assert (logprobs - want).abs().max() <= 1e-6


def test_greedy_takes_the_most_likely_token() -> None:
    logits = torch.randn(5, V, generator=torch.Generator().manual_seed(2))
    tokens = drawn(logits, [limits(temperature=0)] * 5, [0.99] * 5)
    assert torch.equal(tokens, logits.argmax(-1))


def test_a_forced_token_is_taken_and_scored() -> None:
    logits = torch.randn(2, V, generator=torch.Generator().manual_seed(4))
    uniforms = torch.tensor([0.5, 0.5], dtype=torch.float64)
    rules = Rules.of([limits(temperature=0), limits(temperature=0)], CPU)
    worst = int(logits[0].argmin())
    tokens, logprobs = draw(logits, rules, uniforms, torch.tensor([worst, -1]))
    assert tokens.tolist() == [worst, int(logits[1].argmax())]
    assert logprobs[0] == pytest.approx(float(torch.log_softmax(logits[0], -1)[worst]), abs=1e-6)


def test_nan_logits_give_a_score_that_is_not_finite() -> None:
    logits = torch.zeros(2, V)
    logits[0, 3] = math.nan
    tokens, logprobs = draw(
        logits, Rules.of([limits()] * 2, CPU), torch.tensor([0.9, 0.9], dtype=torch.float64)
    )
    assert 0 <= tokens[0] < V
    assert not math.isfinite(logprobs[0])
    assert math.isfinite(logprobs[1])


PIECES = {0: "<end>", 1: "</co", 2: "de>", 3: "de>\n", 4: "x", 5: ">", 6: "</code", 7: "", 8: "a>"}


class Words:
    """Decodes by table, and counts how often it was asked."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, token_ids: object) -> str:
        self.calls += 1
        return "".join(PIECES[t] for t in token_ids)  # type: ignore[attr-defined]


STOP = SampleLimits(6, stop=("</code>",))


@pytest.mark.parametrize(
    ("token_ids", "reason"),
    [
        ([4, 0], StopReason.END),
        ([0], StopReason.END),
        ([4, 1, 2], StopReason.STOP_STRING),
        ([4, 1, 3], StopReason.STOP_STRING),
        ([4, 6, 5], StopReason.STOP_STRING),
        ([4, 6, 7, 5], StopReason.STOP_STRING),
        ([6], None),
        ([4, 4, 8], None),
        ([1, 4, 2], None),
        ([4] * 6, StopReason.LENGTH),
        ([4, 4, 4, 4, 4, 0], StopReason.END),
        ([4, 4, 4, 4, 1, 2], StopReason.STOP_STRING),
    ],
)
def test_a_turn_ends_at_the_token_that_ends_it(
    token_ids: list[int], reason: StopReason | None
) -> None:
    assert TurnEnd(Words(), end_of_turn=0).reason(token_ids, STOP, 0) is reason


def test_forced_tokens_do_not_end_a_turn_save_the_last() -> None:
    end = TurnEnd(Words(), end_of_turn=0)
    assert end.reason([4, 0], STOP, 3) is None
    assert end.reason([1, 2], STOP, 3) is None
    assert end.reason([4, 0], STOP, 2) is StopReason.END


def test_text_is_decoded_only_where_a_stop_string_may_end() -> None:
    words = Words()
    end = TurnEnd(words, end_of_turn=0)
    for _ in range(50):
        assert end.reason([4, 4, 6], STOP, 0) is None
    assert words.calls == 1


def test_a_stop_string_that_ends_in_a_split_character_is_found() -> None:
    parts = {1: b"\xe2\x88", 2: b"\x8e", 3: b"ok"}

    def decode(token_ids: object) -> str:
        raw = b"".join(parts[t] for t in token_ids)  # type: ignore[attr-defined]
        return raw.decode(errors="replace")

    end = TurnEnd(decode, end_of_turn=0)
    box = SampleLimits(9, stop=("\u220e",))
    assert end.reason([3, 1], box, 0) is None
    assert end.reason([3, 1, 2], box, 0) is StopReason.STOP_STRING


def test_the_text_leaves_out_the_end_of_turn_token_only() -> None:
    end = TurnEnd(Words(), end_of_turn=0)
    assert end.text([4, 1, 2, 0]) == "x</code>"
    assert end.text([4, 1, 2]) == "x</code>"
    assert end.text([0]) == ""
