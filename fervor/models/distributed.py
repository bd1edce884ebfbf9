"""Training by several processes: what a loss has to see of the others' images.

Each process computes the objective over the global batch from what all of them gathered, so that
its value and its gradient are those of a single process with the whole batch. With one process
nothing here does anything.
"""

import os
from typing import Any

import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor, distributed, nn

from fervor.errors import UsageError, counted


def world() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if _together() else 1


def all_gather_with_grad(part: Tensor) -> Tensor:
    """Every process's rows [b ...] one after the other, in the order of the processes.

    The gradient goes back to the process that a row came from, summed over all of them: averaged
    once more by the wrapper of data-parallel training it is that of one process with all rows.
    """
    return _AllGatherWithGrad.apply(part) if _together() else part  # type: ignore[no-untyped-call]


def largest(value: Tensor) -> Tensor:
    """The largest of all processes' numbers [], with a gradient where it came from."""
    return all_gather_with_grad(value.reshape(1)).max()


def devices_and_nodes(processes: int) -> tuple[int, int]:
    """Processes of a machine, and machines: what torchrun says where it has started this one."""
    if "LOCAL_WORLD_SIZE" not in os.environ:
        return processes, 1
    local = int(os.environ["LOCAL_WORLD_SIZE"])
    return local, int(os.environ["WORLD_SIZE"]) // local


def own_device() -> torch.device:
    """The accelerator that this process trains on, or without one the processor."""
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is None or not torch.accelerator.is_available():
        return torch.device("cpu")
    return torch.device(accelerator.type, int(os.environ.get("LOCAL_RANK", "0")))


def check_devices(processes: int) -> None:
    """Look whether each process of this machine has a GPU of its own, where it has GPUs.

    Raises:
        UsageError: there are more processes than GPUs.
    """
    if torch.cuda.is_available():
        devices, instead = torch.cuda.device_count(), ", or CUDA_VISIBLE_DEVICES= for processors"
    elif torch.backends.mps.is_available():
        devices, instead = 1, ""
    else:
        return
    if processes > devices:
        raise UsageError(
            f"{counted(processes, 'process')} on a machine that has {counted(devices, 'GPU')}: "
            f"expected at most one for each (--processes, torchrun --nproc-per-node){instead}"
        )


def shard(count: int) -> Int[Tensor, " m"]:
    """The numbers below `count` that are this process's."""
    return torch.arange(count).tensor_split(world())[distributed.get_rank() if _together() else 0]


def all_gather_arrays(part: NDArray[Any]) -> list[NDArray[Any]]:
    """Every process's rows, in the order of the processes."""
    if not _together():
        return [part]
    parts: list[Any] = [None] * world()
    distributed.all_gather_object(parts, part)
    return parts


def align_buffers(module: nn.Module) -> None:
    """Give every process the first one's buffers, such as the running statistics of BatchNorm."""
    if _together():
        for buffer in module.buffers():
            distributed.broadcast(buffer, 0)


def part() -> None:
    """Let go of the others, when the work together is done."""
    if _together():
        distributed.destroy_process_group()


def _together() -> bool:
    return distributed.is_available() and distributed.is_initialized()


class _AllGatherWithGrad(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, part: Tensor) -> Tensor:
        parts = [torch.empty_like(part) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, part.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].contiguous()
        distributed.all_reduce(gradient)
        rank = distributed.get_rank()
        return gradient.chunk(distributed.get_world_size())[rank]
