"""The folder of a run: checkpoints to go on from, the best weights, the log."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from p5_t5.artifact import replace_folder
from p5_t5.modeling.p5 import P5ForConditionalGeneration
from p5_t5.modeling.weight_mean import WeightMean
from p5_t5.schedule import Progress

_PROGRESS, _MEAN = "progress.json", "mean.safetensors"


class RunFolder:
    """Keeps what a run needs to be resumed; nothing in it is ever half-written."""

    def __init__(self, path: Path, settings: Mapping[str, Any], keep: int) -> None:
        """Names the folder; nothing is touched before ``open``.

        Args:
            path: the folder.
            settings: what a resumed run must have in common with its beginning.
            keep: how many checkpoints are kept.
        """
        self.path, self.keep = path, keep
        self._settings = json.loads(json.dumps(settings))
        self._best, self._settings_file = path / "best.safetensors", path / "settings.json"

    def check(self, resume: bool, overwrite: bool) -> None:
        """Refuses to lose or to mix up an unfinished run.

        Raises:
            ValueError: there is nothing to resume, or a setting has changed since; or there is
                something to resume and neither ``resume`` nor ``overwrite`` is asked for; or
                something else stands there.
        """
        if not resume:
            if self.path.exists() and any(self.path.iterdir()) and not self._settings_file.exists():
                raise ValueError(
                    f"{self.path}: expected the folder of an earlier run, or a free name; it holds "
                    "other files"
                )
            if self.checkpoints() and not overwrite:
                raise ValueError(
                    f"{self.path} holds checkpoints of an unfinished run: go on with --resume, or "
                    "start anew with --overwrite"
                )
            return
        if not self.checkpoints():
            raise ValueError(f"--resume: {self.path} has no checkpoint to go on from")
        if not (self.checkpoints()[-1] / _PROGRESS).exists():
            raise ValueError(f"--resume: {self.path} was written by an earlier version; start anew")
        before = json.loads(self._settings_file.read_text(encoding="utf-8"))
        for name in before.keys() | self._settings.keys():
            if before.get(name) != self._settings.get(name):
                raise ValueError(
                    f"--resume: {name} was {before.get(name)!r} when the run began and is "
                    f"{self._settings.get(name)!r} now"
                )

    def open(self) -> None:
        """Empties the folder for a new run."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir(parents=True)
        text = json.dumps(self._settings, indent=2)
        self._settings_file.write_text(text + "\n", encoding="utf-8")

    def checkpoints(self) -> list[Path]:
        """The whole checkpoints, oldest first."""
        return sorted((self.path / "checkpoints").glob("step-*[0-9]"))

    def fresh_checkpoint(self, step: int) -> Path:
        """Where the checkpoint of a step is written before it is whole; nothing is left there."""
        fresh = self.path / "checkpoints" / f"step-{step:08d}.tmp"
        shutil.rmtree(fresh, ignore_errors=True)
        return fresh

    def write_state(self, fresh: Path, progress: Progress, mean: WeightMean) -> None:
        """Adds to a checkpoint what accelerate would pickle."""
        (fresh / _PROGRESS).write_text(json.dumps(progress.state_dict()), encoding="utf-8")
        tied = {f"module.{name}" for name in mean.module.all_tied_weights_keys}
        weights = {n: t.contiguous() for n, t in mean.state_dict().items() if n not in tied}
        save_file(weights, fresh / _MEAN)

    def read_state(self, checkpoint: Path, progress: Progress, mean: WeightMean) -> None:
        """Takes up what ``write_state`` wrote."""
        progress.load_state_dict(json.loads((checkpoint / _PROGRESS).read_text(encoding="utf-8")))
        missing, unexpected = mean.load_state_dict(load_file(checkpoint / _MEAN), strict=False)
        tied = {f"module.{name}" for name in mean.module.all_tied_weights_keys}
        assert not unexpected and set(missing) <= tied

    def keep_checkpoint(self, fresh: Path) -> None:
        """Gives a written checkpoint its name, and drops the oldest ones."""
        replace_folder(fresh, fresh.with_suffix(""))
        for old in self.checkpoints()[: -self.keep]:
            shutil.rmtree(old)

    def save_best(self, model: P5ForConditionalGeneration) -> None:
        """Keeps the weights of the best model so far."""
        tied = set(model.all_tied_weights_keys)
        weights = {n: t.contiguous() for n, t in model.state_dict().items() if n not in tied}
        fresh = self._best.with_suffix(".tmp")
        save_file(weights, fresh)
        os.replace(fresh, self._best)

    def load_best(self, model: P5ForConditionalGeneration) -> None:
        """Puts the best weights back; without a validation the model stays as it is."""
        if self._best.exists():
            missing, unexpected = model.load_state_dict(load_file(self._best), strict=False)
            assert not unexpected and set(missing) <= set(model.all_tied_weights_keys)

    def finish(self) -> None:
        """Drops the checkpoints of a run that is saved; its log stays."""
        shutil.rmtree(self.path / "checkpoints", ignore_errors=True)
        self._best.unlink(missing_ok=True)
