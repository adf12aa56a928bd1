"""Our episodes and our selection inside verl's trainer (docs/verl.md).

``agent_loop`` and ``sampler`` subclass verl's classes and can be imported only where verl 0.9.1 is
installed. The rest knows verl by the names of its config keys and needs nothing of it.
"""
