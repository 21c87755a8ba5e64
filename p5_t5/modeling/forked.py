"""A forked process that does one kind of work for its parent.

Threads that run a compact model, or render its prompts, hand Python's lock to each other thousands
of times a step. A process has a lock of its own.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import signal
import sys
import traceback
import weakref
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np
import torch

# Seconds after which a process looks whether its parent is still there.
_PATIENCE = 5.0
_DIED = "a process of the training run was killed; is there too little memory?"


def can_fork() -> bool:
    """Whether processes can be forked beside torch: on Linux, where it has no GPU to lose."""
    return sys.platform == "linux" and not torch.accelerator.is_available()


def shared_like(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of the same shape and type in memory that processes forked from now on share.

    The memory is not of /dev/shm, which containers keep small, and no other tensor is in it: what
    saves weights takes tensors in one storage for one.
    """
    memory = mmap.mmap(-1, tensor.nbytes)
    return torch.frombuffer(memory, dtype=tensor.dtype).view(tensor.shape)


class Forked:
    """A process that calls a function whenever it is asked to, one call at a time."""

    def __init__(self, work: Callable[..., Any]) -> None:
        """Forks.

        Args:
            work: takes and gives numbers, texts and tensors, also in dictionaries, lists and
                tuples, of which lists come back as tuples. It sees the program as it is now, but
                for shared memory.
        """
        context = multiprocessing.get_context("fork")
        self._pipe, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, work, os.getpid()), daemon=True)
        process.start()
        theirs.close()
        weakref.finalize(self, _end, process, self._pipe, os.getpid())

    def start(self, *arguments: Any) -> None:
        """Begins a call; ``result`` must follow."""
        try:
            self._pipe.send(_map(arguments, _to_array))
        except OSError as gone:
            raise RuntimeError(_DIED) from gone

    def result(self) -> Any:
        """Waits for the call's end.

        Raises:
            Exception: what the function raised, with its traceback there as the cause.
            RuntimeError: the process is gone.
        """
        try:
            found, error, where = self._pipe.recv()
        except (EOFError, OSError) as gone:
            raise RuntimeError(_DIED) from gone
        if error is not None:
            raise error from RuntimeError(where)
        return _map(found, _to_tensor)


def _end(process: BaseProcess, pipe: Connection, parent: int) -> None:
    if os.getpid() != parent:
        return  # a process forked later has dropped its copy
    pipe.close()
    process.terminate()
    process.join()


def _serve(pipe: Connection, work: Callable[..., Any], parent: int) -> None:
    """What the process does."""
    # The parent is told to stop, and stops this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # No fork takes threads along: whoever shares work out among them would wait for ever.
    torch.set_num_threads(1)
    while True:
        while not pipe.poll(_PATIENCE):
            if os.getppid() != parent:
                return
        try:
            arguments = pipe.recv()
        except EOFError:
            return
        try:
            found = _map(work(*_map(arguments, _to_tensor)), _to_array)
            answer: tuple[Any, Exception | None, str] = found, None, ""
        except Exception as error:
            answer = None, error, traceback.format_exc()
        try:
            pipe.send(answer)
        except BrokenPipeError:
            return


def _map(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, dict):
        return {name: _map(own, change) for name, own in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(_map(own, change) for own in value)
    return change(value)


def _to_array(value: Any) -> Any:
    """Arrays are sent as they are; a tensor would be put into a file in shared memory."""
    return value.numpy() if isinstance(value, torch.Tensor) else value


def _to_tensor(value: Any) -> Any:
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value
