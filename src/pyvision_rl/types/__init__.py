"""The records that travel from a task to a weight update, in the order they are made.

    Task -> Prompt -> Completion -> Action -> Execution -> Observation
         -> Trajectory -> Group -> Batch -> UpdateStats

Every record is frozen: a stage reads one record and returns the next; no stage edits what an
earlier one made. ``episode`` and ``execution`` hold the first row, ``learning`` the second.
``X as X`` marks what is exported.
"""

from pyvision_rl.types.episode import (
    ANSWER_TYPES as ANSWER_TYPES,
    Action as Action,
    Completion as Completion,
    EndReason as EndReason,
    Fact as Fact,
    GiveAnswer as GiveAnswer,
    Gold as Gold,
    Malformed as Malformed,
    Message as Message,
    Observation as Observation,
    Pair as Pair,
    Part as Part,
    Prompt as Prompt,
    Reward as Reward,
    RunCode as RunCode,
    SampleLimits as SampleLimits,
    SampleRequest as SampleRequest,
    Segment as Segment,
    StopReason as StopReason,
    Task as Task,
    TaskInput as TaskInput,
    Text as Text,
    TokenCount as TokenCount,
    Trajectory as Trajectory,
    Turn as Turn,
    transcript as transcript,
)
from pyvision_rl.types.execution import (
    ExecStatus as ExecStatus,
    Execution as Execution,
    ImageSource as ImageSource,
    Media as Media,
    Source as Source,
    VideoFacts as VideoFacts,
    VideoFrames as VideoFrames,
)
from pyvision_rl.types.learning import (
    Batch as Batch,
    Candidate as Candidate,
    Group as Group,
    Rejected as Rejected,
    Scored as Scored,
    UpdateStats as UpdateStats,
    population_std as population_std,
)
