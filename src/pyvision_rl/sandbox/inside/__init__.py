"""What runs beside model code: the zygote, its isolation, and one episode's interpreter.

Nothing here imports this package or anything else of ours. The zygote loads the folder under the
name ``sandbox_child`` (see ``_BOOT`` in ``sandbox/launch.py``); the driver imports ``protocol``.
"""
