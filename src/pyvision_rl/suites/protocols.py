"""Protocols that several suites share.

In: nothing. Out: ``Settings``. Each suite says itself how a protocol words and scores.
"""

from __future__ import annotations

from pyvision_rl.suites.base import Settings

OURS = Settings(
    "Ours: the final answer alone is read, strictly; what is no answer is wrong and counted."
)
VLMEVALKIT = Settings(
    "VLMEvalKit (e8e78f0), its rules without a judge ('exact_matching').",
)
LMMS_EVAL = Settings("lmms-eval (75571cf), its rules.", temperature=0.0)


def paper(*, temperature: float, samples: int = 1, top_k: int | None = None) -> Settings:
    """Return the sampling of the PyVision-RL paper, which words and scores as ``pyvision`` does."""
    return Settings(
        "PyVision-RL (arXiv 2602.20739) as quoted elsewhere; its own evaluation code and appendix "
        "could not be read, so prompt and scorer are ours.",
        second_hand=True,
        temperature=temperature,
        samples=samples,
        top_k=top_k,
        max_turns=30,
        max_context_tokens=32_768,
        min_pixels=3_136,
        max_pixels=2_000_000,
    )
