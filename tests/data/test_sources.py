from __future__ import annotations

from pathlib import Path

import pytest

from p5_t5.data.sources import find_dataset

PREPARER = """
from pathlib import Path
Path(__file__).with_name("made-up").mkdir()
"""


def test_a_folder_is_itself(tmp_path: Path) -> None:
    assert find_dataset(str(tmp_path), tmp_path / "home") == tmp_path


def test_a_preparer_runs_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "made_up.py").write_text(PREPARER)
    assert find_dataset("made-up", tmp_path) == tmp_path / "made-up"
    assert "running data/made_up.py" in capfd.readouterr().out
    assert find_dataset("made-up", tmp_path) == tmp_path / "made-up"
    assert "running" not in capfd.readouterr().out


def test_a_failing_preparer_is_said(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("raise SystemExit('no network')")
    with pytest.raises(ValueError, match=r"data/broken\.py failed"):
        find_dataset("broken", tmp_path)


def test_an_unknown_name_lists_the_preparers(tmp_path: Path) -> None:
    (tmp_path / "made_up.py").write_text(PREPARER)
    with pytest.raises(ValueError, match=r"neither a folder nor one of .*made-up"):
        find_dataset("madeup", tmp_path)
