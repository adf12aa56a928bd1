"""Task sets: where questions, media and reference answers come from."""

TABLE: dict[str, str] = {
    "jsonl": "pyvision_rl.tasks.jsonl:JsonlTasks",
    "parquet": "pyvision_rl.tasks.jsonl:JsonlTasks",
    "published": "pyvision_rl.tasks.published:PublishedTasks",
    "mixture": "pyvision_rl.tasks.mixture:MixtureTasks",
    "needle": "pyvision_rl.tasks.needle:NeedleTasks",
    "clips": "pyvision_rl.tasks.clips:ClipsTasks",
    "suite": "pyvision_rl.suites.task_set:SuiteTasks",
}
"""Short name -> ``module:Class``; built with a ``TasksConfig``."""
