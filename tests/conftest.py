"""What all tests share: a made world and a model too small to wait for."""

from __future__ import annotations

import importlib.util
import os
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
