"""``python -m pyvision_rl.demo``: the tiny model trained end to end, and what happened.

``stages`` runs the verbs of ``pvrl`` as ``processes``, ``report`` turns their numbers into a table
and a sentence, ``figure`` and ``page`` into pictures. Adds no training code of its own.
"""
