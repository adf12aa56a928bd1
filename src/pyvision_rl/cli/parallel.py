"""A verb that trains, started several times over by a launcher.

In: a config with ``train.parallel``, and what process 0 does. Out: process 0 does it, with a
learner over all processes; the others train with it and write nothing. Knows no verb.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from pyvision_rl.checks.parallel import check_parallel
from pyvision_rl.config import Config
from pyvision_rl.errors import ConfigError


def together(config: Config, run: Callable[[dict[str, Any]], None]) -> None:
    """Run on process 0, and train with it on the others, until it ends.

    Args:
        config: Of every process the same.
        run: Receives ``{"learner": ...}`` for ``run_rl`` and ``run_sft``.

    Raises:
        ConfigError: There are no processes, another number of them, or they cannot do this config.
        LostProcess: Another process died.
    """
    check_parallel(config)
    from pyvision_rl.train.parallel import follower, lead
    from pyvision_rl.train.processes import Processes, follow

    train = config.train
    with Processes(train.parallel_timeout_s, config.policy.device) as processes:
        if processes.leads:
            if train.num_processes not in (0, processes.size):
                raise ConfigError(
                    f"train.num_processes = {train.num_processes}; the launcher started "
                    f"{processes.size}"
                )
            run({"learner": partial(lead, processes)})
            return
        logging.getLogger("pyvision_rl").setLevel(logging.ERROR)
        follow(processes, follower)
