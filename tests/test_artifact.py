from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from p5_t5 import artifact
from p5_t5.artifact import Knowledge, find_artifact, load_artifact, replace_folder, save_artifact
from p5_t5.prompting.reasons import Facts


def test_what_was_trained_with_comes_back_whole(trained: Path, tmp_path: Path) -> None:
    first = Knowledge.load(trained)
    first.save(tmp_path)
    for name in ("config.json",):
        shutil.copy(trained / name, tmp_path)
    second = Knowledge.load(tmp_path)
    assert second.catalogue.table.equals(first.catalogue.table)
    assert second.catalogue.codes == first.catalogue.codes
    assert second.settings == first.settings
    assert second.templates and {t.id for t in second.templates} == {t.id for t in first.templates}
    assert second.best_templates == first.best_templates
    assert second.ratings == first.ratings
    assert {"rating", "rating/1-6"} <= set(first.calibrations)
    assert second.calibrations == first.calibrations
    assert second.repeats == first.repeats != 0
    assert second.histories.user_ids == first.histories.user_ids
    assert second.histories.profiles == first.histories.profiles
    assert not first.histories.ids_are_names and not second.histories.ids_are_names
    for name in ("offsets", "items", "ratings"):
        ours, theirs = getattr(first.histories, name), getattr(second.histories, name)
        assert np.array_equal(ours, theirs, equal_nan=True)
        assert ours.dtype == theirs.dtype


def test_the_folder_holds_metrics_and_a_card(trained: Path) -> None:
    metrics = json.loads((trained / "metrics.json").read_text())
    row = metrics["test"]["sequential"]["continue-1"]
    assert {"hr@1", "hr@5", "hr@10", "hr@20", "ndcg@10", "mrr", "n", "hr@10/keep_seen"} <= set(row)
    assert {"rmse", "mae", "rmse/decoded"} <= set(metrics["test"]["rating"]["1-6"])
    assert {"bleu-4", "rouge-1", "rouge-2", "rouge-l"} <= set(metrics["test"]["explanation"]["3-3"])
    assert "hr@10" in metrics["baselines"]["sequential"]["next_item"]["popularity"]
    assert "rmse" in metrics["baselines"]["rating"]["stars"]["global_mean"]
    kinds = metrics["kinds"]["rating"]
    assert {*kinds["stars"], *kinds["like"]} == set(metrics["test"]["rating"])
    spread = metrics["sensitivity"]["sequential"]["next_item"]["hr@10"]
    assert spread["min"] <= spread["mean"] <= spread["max"] and spread["templates"] == 6
    assert {"split", "ties", "seen_items", "beams", "seed"} <= set(metrics["protocol"])
    card = (trained / "README.md").read_text()
    assert card.startswith("---\n") and "popularity" in card and "continue-1" in card
    assert "by the length of the user's training history" in card
    assert {"own_quotes", "distinct_per_item"} <= set(metrics["test"]["explanation"]["3-9"])
    assert "| distinct_per_item | own_quotes |" in card


def test_an_interrupted_save_leaves_the_old_model(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(trained, folder)
    before = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    model, tokenizer, knowledge = load_artifact(folder)

    def broken(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(artifact, "_write_json", broken)
    with pytest.raises(OSError, match="disk full"):
        save_artifact(folder, model, tokenizer, knowledge, {}, "")
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_nothing_but_a_model_is_replaced(trained: Path, tmp_path: Path) -> None:
    model, tokenizer, knowledge = load_artifact(trained)
    (tmp_path / "outputs" / "other").mkdir(parents=True)
    (tmp_path / "file").write_text("mine")
    for name, message in (("outputs", "it holds other files"), ("file", "it is a file")):
        with pytest.raises(ValueError, match=message):
            save_artifact(tmp_path / name, model, tokenizer, knowledge, {}, "")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "outputs"]
    assert (tmp_path / "outputs" / "other").is_dir()


def test_a_link_to_a_model_stays_one(trained: Path, tmp_path: Path) -> None:
    model, tokenizer, knowledge = load_artifact(trained)
    (tmp_path / "disk" / "model").mkdir(parents=True)
    link = tmp_path / "model"
    link.symlink_to(tmp_path / "disk" / "model")
    for repeats in (0.0, -1.0):
        save_artifact(link, model, tokenizer, replace(knowledge, repeats=repeats), {}, "")
        assert Knowledge.load(find_artifact(str(link))).repeats == repeats
    assert link.is_symlink()
    assert [p.name for p in (tmp_path / "disk").iterdir()] == ["model"]


def test_any_profile_column_comes_back(trained: Path, tmp_path: Path) -> None:
    known = Knowledge.load(trained)
    own = ["x"] * known.histories.num_users
    histories = replace(known.histories, profiles={"id": own, "items": own, "profile_age": own})
    shutil.copy(trained / "config.json", tmp_path)
    replace(known, histories=histories).save(tmp_path)
    assert Knowledge.load(tmp_path).histories.profiles == histories.profiles


def test_a_replacement_killed_between_its_renames_is_finished_on_loading(
    trained: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(trained, tmp_path / "model.previous")
    assert find_artifact(str(folder)) == folder
    assert folder.is_dir() and not (tmp_path / "model.previous").exists()


def test_replacing_a_folder_leaves_no_trace(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    replace_folder(tmp_path / "new", tmp_path / "old")
    assert [p.name for p in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old" / "file").read_text() == "new"


def test_a_folder_that_is_no_model_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"p5\.json, item_codes\.json.* are missing"):
        find_artifact(str(tmp_path))


def test_a_folder_without_its_quotes_says_so(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "model")
    (tmp_path / "model" / "quotes.parquet").unlink()
    with pytest.raises(ValueError, match=r"quotes\.parquet is missing"):
        load_artifact(tmp_path / "model")


def test_facts_are_kept(trained: Path, tmp_path: Path) -> None:
    model, tokenizer, known = load_artifact(trained)
    facts = Facts(known.catalogue, known.settings.like_threshold)
    save_artifact(tmp_path / "model", model, tokenizer, replace(known, reasons=facts), {}, "")
    assert isinstance(load_artifact(tmp_path / "model")[2].reasons, Facts)
    save_artifact(tmp_path / "model", model, tokenizer, replace(known, reasons=None), {}, "")
    assert load_artifact(tmp_path / "model")[2].reasons is None
