"""Calls in a process of its own: what comes back, what is shared, how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
import torch

from p5_t5.modeling.forked import Forked, can_fork, shared_like

pytestmark = pytest.mark.skipif(not can_fork(), reason="processes can't be forked here")


def test_a_call_takes_and_gives_tensors_in_containers() -> None:
    def work(batch: dict[str, torch.Tensor], number: int) -> list[Any]:
        return [{name: tensor + number for name, tensor in batch.items()}, "done", os.getpid()]

    process = Forked(work)
    process.start({"ids": torch.arange(3), "mask": torch.tensor([True])}, 4)
    found, text, other = process.result()
    assert torch.equal(found["ids"], torch.arange(3) + 4)
    assert text == "done"
    assert other != os.getpid()


def test_calls_remember_what_earlier_ones_did() -> None:
    process = Forked(iter(range(10, 20)).__next__)
    for expected in (10, 11, 12):
        process.start()
        assert process.result() == expected


def test_memory_is_shared_both_ways_and_in_storages_of_their_own() -> None:
    first, second = (shared_like(torch.empty(2, 3)).zero_() for _ in range(2))
    assert first.untyped_storage().data_ptr() != second.untyped_storage().data_ptr()

    def work() -> float:
        second.add_(1)
        return float(first.sum())

    process = Forked(work)
    first.fill_(2)
    process.start()
    assert process.result() == 12
    assert second.sum() == 6


def test_an_error_is_told_and_the_next_call_still_answered() -> None:
    def work(number: int) -> int:
        if number < 0:
            raise ValueError(f"no root of {number}")
        return number**2

    process = Forked(work)
    process.start(-1)
    with pytest.raises(ValueError, match="no root of -1") as caught:
        process.result()
    assert "test_forked.py" in str(caught.value.__cause__)  # where it was raised
    process.start(3)
    assert process.result() == 9


def test_a_killed_process_is_told_of() -> None:
    process = Forked(os.getpid)
    process.start()
    number = process.result()
    os.kill(number, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="was killed"):
        # It may have died before it is asked or after.
        asked(process)


def asked(process: Forked) -> Any:
    process.start()
    return process.result()


def test_it_ends_with_the_last_reference_to_it() -> None:
    process = Forked(os.getpid)
    process.start()
    number = process.result()
    assert is_running(number)
    del process
    assert not is_running(number)


def test_a_process_forked_later_does_not_end_an_earlier_one() -> None:
    held = [Forked(os.getpid)]
    number = asked(held[0])
    assert asked(Forked(held.clear)) is None
    time.sleep(0.1)
    assert is_running(number)
    assert asked(held[0]) == number


def test_it_ends_when_its_parent_is_killed() -> None:
    code = (
        "import os, sys, time\n"
        "from p5_t5.modeling import forked\n"
        "forked._PATIENCE = 0.1\n"
        "one, two = forked.Forked(os.getpid), forked.Forked(os.getpid)\n"
        "for process in (one, two):\n"
        "    process.start()\n"
        "    print(process.result(), flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        numbers = [int(run.stdout.readline()) for _ in range(2)]
        assert all(map(is_running, numbers))
        run.kill()
    deadline = time.monotonic() + 10
    while any(map(is_running, numbers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_running, numbers))


def is_running(number: int) -> bool:
    try:
        with open(f"/proc/{number}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
