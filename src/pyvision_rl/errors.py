"""The exception tree. Errors are either data (a bad rollout) or fatal (one of these), never both.

    PVRLError
    ├── ConfigError (ValueError)   the config is wrong: names file, key, value, what is allowed
    │   └── MissingKeyError        the environment does not hold the API key the config names
    ├── TaskError (ValueError)     a task row or its media cannot be read
    ├── RenderError                ids and images disagree: our bug, never caught
    ├── PolicyError                the sampling backend failed
    ├── SandboxError               our sandbox machinery failed; never the model's code
    ├── RewardError                a grader failed
    ├── EndpointError              a server gave no usable answer, for all retries
    ├── RunError                   a run folder cannot be read or written
    └── TrainError                 the learner cannot go on (no usable batch, a NaN loss)
        └── CheckpointError        a checkpoint is missing, cut or of another model

The episode boundary in ``rollout`` turns PolicyError, SandboxError and RewardError into a counted
``EndReason.FAILED`` or an ungraded trajectory; whoever asks a server turns EndpointError into one
of them; ``cli`` prints the rest and picks the exit code.
"""


class PVRLError(Exception):
    """Base of every error this package raises on purpose."""


class ConfigError(PVRLError, ValueError):
    """The user's configuration is wrong; raised before work starts."""


class MissingKeyError(ConfigError):
    """The environment variable that the config names for an API key is not there."""


class TaskError(PVRLError, ValueError):
    """A task row, or the media it names, cannot be read."""


class RenderError(PVRLError):
    """Token ids and images disagree. A bug of ours: never caught."""


class PolicyError(PVRLError):
    """The sampling backend failed; the episode is infrastructure failure, not the model's."""


class SandboxError(PVRLError):
    """The sandbox machinery failed; the episode is infrastructure failure, not the model's."""


class RewardError(PVRLError):
    """A grader failed; the trajectory stays ungraded, which is not a zero."""


class EndpointError(PVRLError):
    """A server could not be reached, or gave no usable answer, for all retries."""

    status: int = 0
    """Of HTTP, where the server refused."""


class RunError(PVRLError):
    """A run folder cannot be read or written."""


class TrainError(PVRLError):
    """The learner cannot go on."""


class DeviceFullError(TrainError):
    """The GPU of this process is full; those of the other processes of a run may not be."""


class CheckpointError(TrainError):
    """A checkpoint is missing, cut short, or belongs to another model."""
