"""Where a data set comes from: a folder, or a preparer that makes one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def find_dataset(dataset: str, home: Path) -> Path:
    """The folder of a data set; one with a preparer is prepared on first use.

    Args:
        dataset: a folder, or the name of a prepared data set or of a preparer under ``home``.
        home: the folder of the preparers and of what they prepared.

    Raises:
        ValueError: there is nothing of that name, or its preparer failed.
    """
    for folder in (Path(dataset), home / dataset):
        if folder.is_dir():
            return folder
    script = home / f"{dataset.replace('-', '_')}.py"
    if not script.is_file():
        names = sorted(path.stem.replace("_", "-") for path in home.glob("*.py"))
        raise ValueError(
            f"--dataset {dataset}: neither a folder nor one of the preparers under data/ "
            f"({', '.join(names)})"
        )
    print(f"{dataset} is not here yet: running data/{script.name}", flush=True)
    if subprocess.run([sys.executable, str(script)]).returncode or not (home / dataset).is_dir():
        raise ValueError(f"--dataset {dataset}: data/{script.name} failed, see above")
    return home / dataset
