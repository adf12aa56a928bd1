"""What an SFT run is made of and leaves: its parts, where it stands, and its result.

In: a config and, to go on, a checkpoint. Out: ``SftParts``, closed afterwards. Trains nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from pyvision_rl.assemble import assemble
from pyvision_rl.collect import collect_scripts
from pyvision_rl.config import Config, SftDataConfig
from pyvision_rl.errors import ConfigError
from pyvision_rl.models.base import VisionLanguageModel
from pyvision_rl.probe import probe_model
from pyvision_rl.rendering.base import Renderer
from pyvision_rl.runs import RunWriter
from pyvision_rl.train.checkpoints import Checkpoint
from pyvision_rl.train.sft_data import RunScripts


class ProbeReading(Protocol):
    """What a probe says; ``probe.ProbeResult`` is one."""

    @property
    def tool_share(self) -> float:
        """Free share of episodes that use the tool."""
        ...

    @property
    def gain(self) -> float:
        """E[accuracy | tool] - E[accuracy | direct]."""
        ...

    @property
    def gain_se(self) -> float | None:
        """Standard error of ``gain``; None where it is not known."""
        ...

    @property
    def gain_with_bonus(self) -> float:
        """The same with the tool reward."""
        ...

    @property
    def window_distance(self) -> float:
        """0.0 inside the window of ``[probe]``."""
        ...

    @property
    def expectation(self) -> str:
        """Which behaviour to expect of RL from here, in a line."""
        ...


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured after a step; None where it was not time to."""

    reading: ProbeReading | None
    nll: float | None

    def told(self) -> tuple[dict[str, float | int | str], str]:
        """Return it for the metrics, and in words."""
        values: dict[str, float | int | str] = {}
        words = ""
        if self.nll is not None:
            values["held_out_nll"] = self.nll
            words += f"; held-out nll {self.nll:.4f}"
        if (reading := self.reading) is not None:
            values |= {
                "probe_tool_share": reading.tool_share,
                "probe_gain": reading.gain,
                "probe_gain_with_bonus": reading.gain_with_bonus,
                "probe_distance": reading.window_distance,
                "probe_expectation": reading.expectation,
            }
            values |= {} if reading.gain_se is None else {"probe_gain_se": reading.gain_se}
            words += (
                f"; probe: tool share {reading.tool_share:.2f}, gain {reading.gain:+.3f}, "
                f"with tool reward {reading.gain_with_bonus:+.3f}, "
                f"distance {reading.window_distance:.3f}"
            )
        return values, words


@dataclass(frozen=True, slots=True)
class SftParts:
    """What SFT takes from the rest of the package."""

    model: VisionLanguageModel
    renderer: Renderer
    run_scripts: RunScripts
    probe: Callable[[], ProbeReading]
    """Measures the model as it is when called."""
    metrics: Callable[[int, Mapping[str, float | int | str]], None]
    """Receives (step, values) once per step."""


Wire: TypeAlias = Callable[[Config, Path, Checkpoint | None], AbstractContextManager[SftParts]]
"""(config, run folder, checkpoint to go on from) -> parts; the model holds its weights."""


@dataclass(frozen=True, slots=True)
class SftResult:
    """What a finished run leaves."""

    model: Path
    """Hugging Face directory of the result."""
    steps: int
    """Optimizer steps over all stages."""
    loss: float | None
    """Of the last step; None when the run was already finished."""
    window_distance: float | None
    """Of the weights that were kept, when the last stage stops by probe."""
    held_out_nll: float | None = None
    """Of the weights that were kept (nats per token), when the last stage holds examples out."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands; kept in every checkpoint."""

    step: int = 0
    """Over all stages."""
    stage: int = 0
    stage_step: int = 0
    taken: tuple[int, ...] = ()
    """Examples drawn from each source of the stage; in epochs, from all of them together."""
    best_step: int | None = None
    """The stage's checkpoint with the best measure."""
    best: float = math.inf
    """That measure: distance to the probe's window, or held-out NLL with ``keep_best``."""
    best_nll: float | None = None
    """Held-out NLL of that step; None if nothing is held out."""


def _compared(config: Config, data: SftDataConfig) -> bool:
    """Whether prompts of a source of scripts are looked for in sources of other kinds.

    Their pictures must be the same for that; elsewhere they are kept at the size they are seen in.
    """
    stages = (s for s in config.sft.stages if s.eval_share or s.eval_data)
    sources = ((*stage.data, *stage.eval_data) for stage in stages)
    return any(data in of and any(s.kind != "scripts" for s in of) for of in sources)


@contextmanager
def wire_parts(
    config: Config, out: Path, start: Checkpoint | None, *, again: bool = False
) -> Iterator[SftParts]:
    """Yield the package's own parts, and close them afterwards; ``again`` goes on in ``out``."""
    settings = config
    if start is not None and not (config.train.lora_rank and start.adapters()):
        policy = config.policy.model_copy(update={"model": str(start.path)})
        settings = config.model_copy(update={"policy": policy})
    with assemble(settings) as assembly:
        model = assembly.model
        if model is None:
            raise ConfigError('sft trains an in-process policy: set policy.name = "local"')
        if config.train.lora_rank:
            from pyvision_rl.train.adapting import adapt

            adapt(model, config, start)
        begun = 0 if start is None else start.step
        step = begun if again and (out / "run.json").exists() else None
        with RunWriter(out, config, verb="sft", resume_step=step) as writer:
            yield SftParts(
                model=model,
                renderer=assembly.harness.renderer,
                run_scripts=lambda data: collect_scripts(
                    settings,
                    data.tasks,
                    data.count,
                    max_wrong=data.max_wrong,
                    seen_by=None if _compared(config, data) else model.vision,
                ),
                probe=lambda: probe_model(assembly),
                metrics=writer.metrics,
            )
