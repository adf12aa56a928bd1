"""Held-out evaluation: episodes, grades, numbers, results, and what is made of them later.

In: a config or a run folder. Out: run folders with a result, comparisons, exports. Trains nothing.
"""
