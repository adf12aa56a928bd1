"""Whether a config, a task set, a sandbox or a policy works, before time is spent on it.

In: a config. Out: findings, or an error that names the key. Changes nothing.
"""
