"""Studies: variants times seeds, run as ``pvrl`` processes, and what their numbers say.

``plan`` turns a study config into units of work, ``running`` runs them, ``reading`` collects their
numbers, ``comparing`` tests differences, ``tables`` and ``figures`` show them; ``conduct`` does all
of it in order. Trains nothing itself.
"""
