"""Trackers: where a run's metrics also go. ``TABLE`` maps the short names a config may use.

A tracker is a class with a ``package`` (what must be installed), built with a ``Tracked``; see
``tracking.base``. Adapters import their package only when they are built.
"""

TABLE: dict[str, str] = {
    "tensorboard": "pyvision_rl.tracking.tensorboard:TensorBoard",
    "trackio": "pyvision_rl.tracking.trackio:Trackio",
    "wandb": "pyvision_rl.tracking.wandb:Wandb",
}
