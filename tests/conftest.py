"""What all tests share: a made world and a model too small to wait for."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def toy() -> Path:
    """The committed made world."""
    return REPOSITORY / "data" / "toy"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data beside the repository, for tests that want it."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("../shared/data is not on this machine")
    return folder


@pytest.fixture(autouse=True, scope="session")
def _all_cores() -> None:
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2)


def load_script(path: Path) -> ModuleType:
    """Imports a script that belongs to no package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


LAUNCHER = ("-m", "accelerate.commands.launch")


def run_train(*options: str, launcher: bool = False) -> subprocess.CompletedProcess[str]:
    """Runs train.py, by itself or as a user does through ``accelerate launch``.

    By itself is sooner: the launcher imports torch too.
    """
    command = [sys.executable, *(LAUNCHER if launcher else ()), "train.py", *options]
    return subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False
    )


_SEVERAL = """
import json, sys
import train
ends = []
for options in json.loads(sys.argv[1]):
    sys.argv = ["train.py", *options]
    try:
        train.main()
        ends.append(None)
    except SystemExit as end:
        ends.append(end.code)
print(json.dumps(ends))
"""


def last_words(runs: Sequence[Sequence[str]]) -> list[str | None]:
    """What runs of train.py that refuse their options exit with, all in one process."""
    done = subprocess.run(
        [sys.executable, "-c", _SEVERAL, json.dumps([list(options) for options in runs])],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ends: list[str | None] = json.loads(done.stdout.splitlines()[-1])
    return ends


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, toy: Path) -> Path:
    """A model that has seen the made world for a few steps: it works, and knows little."""
    folder = tmp_path_factory.mktemp("trained") / "toy"
    done = run_train(
        f"--dataset={toy}", f"--output_dir={folder}", "--max_train_steps=12", "--evaluations=1",
        "--eval_examples=20", "--vocab_size=400", "--d_model=32", "--d_ff=64", "--d_kv=8",
        "--tokens_per_batch=2000",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder
