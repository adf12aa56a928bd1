"""The records that travel from a task to a weight update, in the order they are made.

    Task -> Prompt -> Completion -> Action -> Execution -> Observation
         -> Trajectory -> Group -> Batch -> UpdateStats

Every record is frozen: a stage reads one record and returns the next; no stage edits what an
earlier one made. ``episode`` holds the first row, ``learning`` the second.
"""

from pyvision_rl.types.episode import (
    Action,
    Completion,
    EndReason,
    ExecStatus,
    Execution,
    GiveAnswer,
    Gold,
    Malformed,
    Media,
    Message,
    Observation,
    Pair,
    Part,
    Prompt,
    Reward,
    RunCode,
    SampleLimits,
    SampleRequest,
    Segment,
    StopReason,
    Task,
    TaskInput,
    Text,
    Trajectory,
    Turn,
    transcript,
)
from pyvision_rl.types.learning import (
    Batch,
    Group,
    Rejected,
    Scored,
    UpdateStats,
    population_std,
)

__all__ = [
    "Action",
    "Batch",
    "Completion",
    "EndReason",
    "ExecStatus",
    "Execution",
    "GiveAnswer",
    "Gold",
    "Group",
    "Malformed",
    "Media",
    "Message",
    "Observation",
    "Pair",
    "Part",
    "Prompt",
    "Rejected",
    "Reward",
    "RunCode",
    "SampleLimits",
    "SampleRequest",
    "Scored",
    "Segment",
    "StopReason",
    "Task",
    "TaskInput",
    "Text",
    "Trajectory",
    "Turn",
    "UpdateStats",
    "population_std",
    "transcript",
]
