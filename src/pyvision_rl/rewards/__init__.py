"""Rewards: is the answer right, and what were the tool calls worth?"""

from pyvision_rl.rewards.grading import TABLE, Rewarder, build_rewarder, build_terms

__all__ = ["TABLE", "Rewarder", "build_rewarder", "build_terms"]
