"""The processes of one run: process 0 leads, the others do with it what it says.

In: what a launcher such as ``torchrun`` put into the environment; torch reads it. Out:
``Processes``, over which process 0 sends commands and all of them pass tensors; and ``follow``, all
that the others do. Knows no model: a command is the name of a learner's method and its arguments.

There are two groups. Steps use torch's default group, with a limit on waiting. Commands have one of
their own: between two of them process 0 may sample for hours, and a process that died is noticed by
its closed connection all the same.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor

from pyvision_rl.errors import ConfigError, DeviceFullError, TrainError

_CPU = torch.device("cpu")
_FOREVER = timedelta(days=365)
_END = "end"
_LOST = ("gloo", "nccl", "connection closed", "connection reset", "broken pipe", "timed out")
"""What the messages of torch hold when another process is gone or silent."""


class LostProcess(TrainError):
    """Another process died, or did not answer in time."""


_ALONE = (LostProcess, DeviceFullError)
"""What a process raises without the others."""


class Processes:
    """All processes of a run, as one of them sees them; a context manager on every one."""

    def __init__(self, timeout_s: float, device: str = "auto") -> None:
        """Meet the other processes.

        Args:
            timeout_s: How long one waits for the others inside a step.
            device: ``policy.device``; on GPUs each process of a machine takes its own.

        Raises:
            ConfigError: No launcher started this process, or it has no GPU of its own.
        """
        gpus = device != "cpu" and torch.cuda.is_available()
        if gpus:
            torch.cuda.set_device(own_gpu(dist.get_node_local_rank(0), torch.cuda.device_count()))
        backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
        try:
            dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s))
        except ValueError as error:
            raise ConfigError(
                "train.parallel wants several processes: torchrun --standalone --nproc-per-node 2 "
                f"-m pyvision_rl.cli.main VERB CONFIG, or accelerate launch --multi_gpu ({error})"
            ) from error
        self._commands = dist.new_group(backend="gloo", timeout=_FOREVER)
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.device = torch.device("cuda", torch.cuda.current_device()) if gpus else _CPU
        self._whole = True

    @property
    def leads(self) -> bool:
        """Whether this is process 0: the one that samples, writes and talks."""
        return self.rank == 0

    def tell(self, name: str, *arguments: Any) -> None:
        """Have the others call ``name``; does nothing on them, who are doing it."""
        if self.leads:
            with self.guarded():
                dist.broadcast_object_list([name, arguments], 0, self._commands)

    def told(self) -> tuple[str, tuple[Any, ...]]:
        """Wait for the next command, and return it."""
        message: list[Any] = [None, None]
        with self.guarded():
            dist.broadcast_object_list(message, 0, self._commands)
        return message[0], message[1]

    def gathered(self, value: Any) -> list[Any]:
        """Return what every process passed, in their order; all of them call it together."""
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def shared(self, value: Any) -> Any:
        """Return what process 0 passed."""
        message = [value]
        dist.broadcast_object_list(message, 0)
        return message[0]

    def spread(self, tensor: Tensor, device: torch.device) -> Tensor:
        """Return process 0's tensor on ``device``; the others pass one of its shape and type."""
        if self.leads:
            sent = tensor.detach().to(device).contiguous()
        else:
            sent = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
        dist.broadcast(sent, 0)
        return sent

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Turn the loss of another process into ``LostProcess``.

        A ``TrainError`` is raised by all processes together, but for those of ``_ALONE``. After
        one of these, or any other failure, this one can no longer go on with the others; it then
        leaves without a word to them, and they notice.
        """
        try:
            yield
        except TrainError as error:
            self._whole = self._whole and not isinstance(error, _ALONE)
            raise
        except BaseException as error:
            self._whole = False
            if isinstance(error, RuntimeError) and _is_loss(error):
                raise LostProcess(
                    f"process {self.rank} of {self.size} lost another one, which died or did not "
                    f"answer within train.parallel_timeout_s: {_first_line(error)}"
                ) from error
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Part: the others end with process 0, whatever ended it."""
        if not self._whole:
            return  # the process ends, and its connections with it; the others see that
        with suppress(LostProcess):
            self.tell(_END)
            dist.destroy_process_group()


def follow(processes: Processes, build: Callable[..., Any]) -> None:
    """Do what process 0 says until it ends; signals are its affair.

    Args:
        processes: Of a process that does not lead.
        build: Makes what has the methods that are called, from the arguments of ``build``.

    Raises:
        LostProcess: Process 0, or another one, is gone.
        DeviceFullError: The GPU of this process is full.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    learner: Any = None
    while True:
        name, arguments = processes.told()
        if name == _END:
            return
        try:
            if name == "build":
                learner = None  # its memory first
                learner = build(processes, *arguments)
            else:
                getattr(learner, name)(*arguments)
        except _ALONE:
            raise
        except TrainError:
            pass  # process 0 raised it too, and says so


def own_gpu(place: int, count: int) -> int:
    """Return the GPU of the process at ``place`` on its machine, which has ``count`` of them.

    Raises:
        ConfigError: There are fewer GPUs than processes.
    """
    if place >= count:
        raise ConfigError(
            f"process {place + 1} on this machine has no GPU of its own: there are {count}; start "
            'as many processes (--nproc-per-node), or set policy.device = "cpu"'
        )
    return place


def _is_loss(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, dist.DistError) or any(word in text for word in _LOST)


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
