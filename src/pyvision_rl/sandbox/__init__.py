"""Sandboxes: where model code runs. ``TABLE`` maps the short names a config may use."""

TABLE: dict[str, str] = {
    "zygote": "pyvision_rl.sandbox.pool:ZygoteSandbox",
    "scripted": "pyvision_rl.sandbox.scripted:ScriptedSandbox",
}
"""Short name -> ``module:Class``; built with a ``SandboxConfig``."""
