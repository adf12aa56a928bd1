"""The learner: micro-batches, objectives, optimizers, checkpoints, and the SFT and RL loops.

Needs torch. Imports nothing by itself, so that naming the package costs nothing.
"""
