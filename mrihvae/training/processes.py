"""Several processes that train one run: which there are, which batches each takes, and what they must agree about.

A step has `TrainSettings.accumulate` micro-batches, whose random numbers depend on seed, step and index alone. Process
`rank` of N takes those of index rank, rank + N, ...; so what a step computes does not depend on N, but for rounding.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from textwrap import shorten
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_flatten, tree_unflatten

from mrihvae.errors import InputError
from mrihvae.training.objective import PriorTerms, Rollout

TIMEOUT = timedelta(minutes=30)  # for the others, while the first process scores weights or writes a checkpoint

Terms = TypeVar("Terms", Rollout, PriorTerms)


def world() -> int:
    """Return the number of processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return the place of this process among them; that of place 0 writes files."""
    return dist.get_rank() if dist.is_initialized() else 0


def join(device: str) -> str:
    """Join the other processes that torchrun started, and return the device of this one.

    They talk by NCCL between GPUs and by gloo between CPUs. Each process takes one GPU of its machine.

    Raises
    ------
    InputError
        More processes than GPUs on this machine, or one GPU for all of them; restarts that torchrun would not do right.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return device
    kind, _, index = device.partition(":")
    gpus = torch.cuda.device_count() if kind == "cuda" else 0
    if gpus:
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if index:
            raise InputError(f"--device {device}: is one GPU for all processes; give cuda, and each takes one")
        if local >= gpus:
            raise InputError(f"--device cuda: more processes than the {gpus} GPUs here; set --nproc-per-node {gpus}")
        device = f"cuda:{local}"
        torch.cuda.set_device(local)
    prefix = _prefix_of_attempt()
    store, place, count = next(rendezvous("env://", timeout=TIMEOUT))
    backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
    store = dist.PrefixStore(prefix, store)  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=store, rank=place, world_size=count, timeout=TIMEOUT)
    return device


def _prefix_of_attempt() -> str:
    """Return a prefix for what processes tell each other at the start, another one after each restart by torchrun.

    Its agents keep one store over restarts, where processes else find addresses of ones that have died
    (pytorch/pytorch#135712). Agents of several machines do not count restarts alike.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return "0"  # the store is new
    if os.environ.get("GROUP_WORLD_SIZE", "1") != "1" and os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0":
        raise InputError(
            "torchrun: would restart processes of several machines with addresses of dead ones; set "
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 before it and --rdzv-backend c10d, or --max-restarts 0"
        )
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")


def share_of(accumulate: int) -> int:
    """Return how many of a step's micro-batches each process takes.

    Raises
    ------
    InputError
        A number that cannot be shared evenly.
    """
    if accumulate % world():
        raise InputError(
            f"accumulate {accumulate}: {world()} processes cannot share {accumulate} micro-batches per step evenly; "
            "start a number of processes that divides it, or give a multiple of theirs with --accumulate"
        )
    return accumulate // world()


def check_agreement(what: dict[str, Any], where: str) -> None:
    """Check that all processes have the same; `what` names it.

    Raises
    ------
    InputError
        One that has something else than the first process.
    """
    if world() == 1:
        return
    everywhere: list[Any] = [None] * world()
    dist.all_gather_object(everywhere, what)
    for place, other in enumerate(everywhere):
        for name, value in everywhere[0].items():
            if other[name] != value:
                raise InputError(
                    f"{where}: process {place} has {name} {shorten(str(other[name]), 90)}, and process 0 has "
                    f"{shorten(str(value), 90)}; give all the same files, in folders that their machines share"
                )


def any_process(flag: bool) -> bool:
    """Return whether the flag is set in any of the processes."""
    if world() == 1:
        return flag
    flags = torch.tensor(float(flag))
    dist.all_reduce(flags)
    return bool(flags > 0)


def parallel(losses: nn.Module) -> nn.Module:
    """Return a module whose gradients are averaged over processes, if there are several."""
    if world() == 1:
        return losses
    first = next(losses.parameters())
    losses.register_parameter("unused", nn.Parameter(first.new_zeros(())))  # else it warns of steps that use them all
    return DistributedDataParallel(losses, find_unused_parameters=True)


def average_terms(terms: Sequence[Terms]) -> Terms:
    """Average the terms of a step over its micro-batches, of all processes; of a single one they stay as they are."""
    if len(terms) * world() == 1:
        return terms[0]
    rows = []
    for one in terms:
        leaves, form = tree_flatten({name: value for name, value in vars(one).items() if name != "completed"})
        rows.append(torch.cat([leaf.detach().double().flatten() for leaf in leaves]))
    mean = torch.stack(rows).mean(dim=0)
    if world() > 1:
        dist.all_reduce(mean)
        mean /= world()
    parts = mean.split([leaf.numel() for leaf in leaves])
    return type(terms[0])(**tree_unflatten([part.view(leaf.shape) for part, leaf in zip(parts, leaves)], form))
