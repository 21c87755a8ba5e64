from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from p5_t5.checkpoints import RunFolder
from p5_t5.modeling.p5 import P5Config, P5ForConditionalGeneration
from p5_t5.modeling.weight_mean import WeightMean
from p5_t5.schedule import Progress

SETTINGS = {"seed": 1, "learning_rate": 0.1, "prompts": []}


def tiny(tied: bool = True) -> P5ForConditionalGeneration:
    config = P5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=8, num_heads=2, num_layers=1,
                      decoder_start_token_id=0, tie_lm_head=tied)  # fmt: skip
    return P5ForConditionalGeneration(config)


def folder_with_checkpoints(path: Path, *steps: int, keep: int = 2) -> RunFolder:
    folder = RunFolder(path, SETTINGS, keep)
    folder.open()
    for step in steps:
        fresh = folder.fresh_checkpoint(step)
        fresh.mkdir(parents=True)
        (fresh / "weights").write_text(str(step))
        folder.write_state(fresh, Progress(step=step), WeightMean(tiny()))
        folder.keep_checkpoint(fresh)
    return folder


def test_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    folder = folder_with_checkpoints(tmp_path / "run", 5, 50, 500)
    assert [p.name for p in folder.checkpoints()] == ["step-00000050", "step-00000500"]
    assert (folder.checkpoints()[-1] / "weights").read_text() == "500"


def test_a_half_written_checkpoint_is_none(tmp_path: Path) -> None:
    folder = folder_with_checkpoints(tmp_path / "run", 5)
    half = folder.fresh_checkpoint(9)
    half.mkdir()
    assert [p.name for p in folder.checkpoints()] == ["step-00000005"]
    assert not folder.fresh_checkpoint(9).exists()


def test_an_unfinished_run_is_not_lost_by_accident(tmp_path: Path) -> None:
    folder = folder_with_checkpoints(tmp_path / "run", 5)
    with pytest.raises(ValueError, match="--resume.*--overwrite"):
        folder.check(resume=False, overwrite=False)
    folder.check(resume=False, overwrite=True)
    folder.check(resume=True, overwrite=False)


def test_a_resumed_run_has_the_settings_of_its_beginning(tmp_path: Path) -> None:
    folder_with_checkpoints(tmp_path / "run", 5)
    changed = RunFolder(tmp_path / "run", SETTINGS | {"learning_rate": 0.2}, 2)
    with pytest.raises(ValueError, match=r"learning_rate was 0\.1 .* and is 0\.2 now"):
        changed.check(resume=True, overwrite=False)


def test_nothing_to_resume_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no checkpoint to go on from"):
        RunFolder(tmp_path / "run", SETTINGS, 2).check(resume=True, overwrite=False)


@pytest.mark.parametrize("tied", [True, False])
def test_a_checkpoint_holds_progress_and_the_mean_of_the_weights(
    tmp_path: Path, tied: bool
) -> None:
    folder = RunFolder(tmp_path / "run", SETTINGS, 2)
    mean, other = WeightMean(tiny(tied)), WeightMean(tiny(tied))
    mean.update_parameters(tiny(tied))
    mean.update_parameters(tiny(tied))
    folder.write_state(tmp_path, Progress(step=7, seconds=1.5), mean)
    progress = Progress()
    folder.read_state(tmp_path, progress, other)
    assert (progress.step, progress.seconds) == (7, 1.5) and math.isnan(progress.best)
    assert int(other.n_averaged) == 2
    for name, tensor in mean.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


def test_a_folder_of_something_else_is_not_emptied(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes").write_text("mine")
    with pytest.raises(ValueError, match="it holds other files"):
        RunFolder(tmp_path / "run", SETTINGS, 2).check(resume=False, overwrite=True)


def test_a_checkpoint_of_an_earlier_version_is_refused(tmp_path: Path) -> None:
    folder = folder_with_checkpoints(tmp_path / "run", 5)
    (folder.checkpoints()[0] / "progress.json").unlink()
    with pytest.raises(ValueError, match="written by an earlier version; start anew"):
        folder.check(resume=True, overwrite=False)


@pytest.mark.parametrize("tied", [True, False])
def test_the_best_weights_come_back(tmp_path: Path, tied: bool) -> None:
    folder = folder_with_checkpoints(tmp_path / "run")
    model = tiny(tied)
    folder.load_best(model)  # there is none yet: nothing changes
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    folder.save_best(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    folder.load_best(model)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_a_finished_run_keeps_only_its_log(tmp_path: Path) -> None:
    folder = folder_with_checkpoints(tmp_path / "run", 5)
    (tmp_path / "run" / "log").write_text("")
    folder.finish()
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["log", "settings.json"]
