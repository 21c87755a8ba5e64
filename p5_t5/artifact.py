"""One folder that holds everything a prediction needs."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from huggingface_hub import snapshot_download
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from p5_t5.data.catalogue import Catalogue
from p5_t5.data.histories import Histories
from p5_t5.data.item_ids import ItemCodes
from p5_t5.decoding.calibration import StarCalibration
from p5_t5.decoding.predictor import Predictor
from p5_t5.decoding.trie import Trie, build_trie
from p5_t5.modeling.p5 import P5ForConditionalGeneration, is_p5
from p5_t5.modeling.tokenizer import WordTokenizer
from p5_t5.prompting.prompter import Prompter, PromptSettings
from p5_t5.prompting.reasons import Facts, Quotes, Reasons
from p5_t5.prompting.tasks import TASKS
from p5_t5.prompting.templates import PromptTemplate, load_templates
from p5_t5.protocol import CORRECTED, Protocol

# Before the name of a profile column, in users.parquet.
_PROFILE = "profile_"
# What a model has learnt without and with a switch of the protocol that must stay as it was.
_LEARNT = {
    "heldout_item_order": (
        "its item codes were made without held-out interactions",
        "its item codes were made from held-out interactions",
    ),
    "file_user_order": (
        "its users were numbered in no order of the file",
        "its users were numbered in the order of the file",
    ),
    "random_row_split": (
        "its ratings and reviews were not split at random",
        "its ratings and reviews were split at random, so that it knows some of the last ones",
    ),
}
_BACKUP = ".previous"
_QUOTES = "quotes.parquet"
_NEEDED = (
    "config.json",
    "p5.json",
    "item_codes.json",
    "trie.safetensors",
    "catalogue.parquet",
    "users.parquet",
)


@dataclass(frozen=True)
class Knowledge:
    """What a model was trained with, apart from its weights and its tokenizer.

    Attributes:
        name: the data set's name.
        catalogue: all items and their codes.
        histories: all users and all that is known of them.
        templates: the prompts, in the order of their files.
        settings: of every prompt.
        ratings: the stars that an answer may name; empty where the data has none.
        best_templates: for each task its seen templates, best on validation first.
        beams: beginnings of codes kept at each level of the search.
        trie: the codes as the search reads them; built anew where it is not known.
        protocol: where prediction follows P5's program.
        reasons: what explanations choose from; ``None`` where they are written word by word.
        calibrations: of the probabilities that stars are expected by, by FAMILY/ID of a template
            and by family for other wordings.
        repeats: what is added to the log-probability of items that a user already has.
        held_back_users: of how many users the last training item was held back.
        seed: by which these users and a random split of rows were drawn; ``None`` if unknown.
    """

    name: str
    catalogue: Catalogue
    histories: Histories
    templates: Sequence[PromptTemplate]
    settings: PromptSettings
    ratings: Sequence[float]
    best_templates: Mapping[str, Sequence[str]]
    beams: int = 20
    trie: Trie | None = None
    protocol: Protocol = CORRECTED
    reasons: Reasons | None = None
    calibrations: Mapping[str, StarCalibration] = field(default_factory=dict)
    repeats: float = 0.0
    held_back_users: int = 0
    seed: int | None = None

    @cached_property
    def prompter(self) -> Prompter:
        """Renders the prompts of this model."""
        return Prompter(self.catalogue, self.settings)

    def template(self, task: str, id_: str) -> PromptTemplate:
        """A template by task and id."""
        return next(t for t in self.templates if (t.family, t.id) == (task, id_))

    def predictor(
        self, model: P5ForConditionalGeneration, tokenizer: PreTrainedTokenizerBase
    ) -> Predictor:
        """Answers prompts with a model."""
        return Predictor(
            model,
            tokenizer,
            self.catalogue.codes,
            self.ratings,
            beams=self.beams,
            trie=self.trie,
            protocol=self.protocol,
            calibrations=self.calibrations,
            repeats=self.repeats,
        )

    def save(self, folder: Path) -> None:
        """Writes catalogue, trie, users, prompts and settings into a folder."""
        assert self.trie is not None
        self.trie.save(folder / "trie.safetensors")
        self.catalogue.table.write_parquet(folder / "catalogue.parquet")
        _write_json(folder / "item_codes.json", self.catalogue.codes.to_dict())
        histories = self.histories
        users = np.repeat(np.arange(histories.num_users), np.diff(histories.offsets))
        pl.DataFrame(
            {"user": users, "item": histories.items, "rating": histories.ratings}
        ).group_by("user", maintain_order=True).agg("item", "rating").select(
            pl.Series("user_id", histories.user_ids),
            pl.col("item").alias("items"),
            pl.col("rating").alias("ratings"),
            *(pl.Series(_PROFILE + name, values) for name, values in histories.profiles.items()),
        ).write_parquet(folder / "users.parquet")
        (folder / "prompts").mkdir()
        for family in dict.fromkeys(template.family for template in self.templates):
            own = [t.to_json() for t in self.templates if t.family == family]
            content = {"family": family, "templates": own}
            _write_json(folder / "prompts" / f"{family}.json", content)
        settings = {
            "name": self.name,
            "settings": asdict(self.settings),
            "ratings": list(self.ratings),
            "best_templates": {k: list(v) for k, v in self.best_templates.items()},
            "beams": self.beams,
            "protocol": asdict(self.protocol),
            "calibrations": {k: asdict(v) for k, v in self.calibrations.items()},
            "repeats": self.repeats,
            "held_back_users": self.held_back_users,
            "seed": self.seed,
            "explained_by": self.reasons.source if self.reasons else None,
        }
        if isinstance(self.reasons, Quotes):
            self.reasons.table().write_parquet(folder / _QUOTES)
        _write_json(folder / "p5.json", settings)

    @classmethod
    def load(cls, folder: Path) -> Knowledge:
        """Reads what ``save`` wrote.

        Raises:
            ValueError: the folder is not a trained P5.
        """
        _check_complete(folder)
        settings = json.loads((folder / "p5.json").read_text(encoding="utf-8"))
        codes = json.loads((folder / "item_codes.json").read_text(encoding="utf-8"))
        users = pl.read_parquet(folder / "users.parquet")
        lengths = users["items"].list.len().to_numpy()
        families = {name: task.family for name, task in TASKS.items()}
        catalogue = Catalogue(
            pl.read_parquet(folder / "catalogue.parquet"), ItemCodes.from_dict(codes)
        )
        # What folders of an earlier version always did.
        always = {"file_user_order": True, "spared_negatives": True}
        protocol = Protocol(**{**always, **settings["protocol"]})
        prompt_settings = PromptSettings(**settings["settings"])
        reasons: Reasons | None = None
        # A folder of an earlier version says nothing of it.
        if settings.get("explained_by") == Quotes.source:
            _check_complete(folder, [_QUOTES])
            reasons = Quotes.read(pl.read_parquet(folder / _QUOTES))
        elif settings.get("explained_by") == Facts.source:
            reasons = Facts(catalogue, prompt_settings.like_threshold)
        return cls(
            name=settings["name"],
            catalogue=catalogue,
            histories=Histories(
                user_ids=tuple(users["user_id"].to_list()),
                offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
                items=users["items"].explode().to_numpy().astype(np.int32),
                ratings=users["ratings"].explode().to_numpy().astype(np.float32),
                profiles={
                    column.removeprefix(prefix): users[column].to_list()
                    for column in users.columns
                    # Folders of an earlier version have the second prefix.
                    for prefix in (_PROFILE, "user_")
                    if column.startswith(prefix) and column != "user_id"
                },
                ids_are_names=protocol.file_user_order,
            ),
            templates=list(load_templates([folder / "prompts"], families).values()),
            settings=prompt_settings,
            ratings=settings["ratings"],
            best_templates=settings["best_templates"],
            beams=settings["beams"],
            trie=Trie.load(folder / "trie.safetensors"),
            protocol=protocol,
            reasons=reasons,
            calibrations={
                wording: StarCalibration(values["slope"], tuple(values["shifts"]))
                for wording, values in settings.get("calibrations", {}).items()
            },
            repeats=settings.get("repeats", 0.0),
            held_back_users=settings.get("held_back_users", 0),
            seed=settings.get("seed"),
        )


def save_artifact(
    folder: Path,
    model: P5ForConditionalGeneration,
    tokenizer: PreTrainedTokenizerBase,
    knowledge: Knowledge,
    metrics: Mapping[str, Any],
    card: str,
) -> None:
    """Writes a trained model; the folder is either the old one or the whole new one.

    Everything is written beside it first and put in its place by renaming.

    Raises:
        ValueError: something else stands there.
    """
    folder = folder.resolve()
    check_replaceable(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        model.save_pretrained(fresh)
        tokenizer.save_pretrained(fresh)
        words = WordTokenizer(tokenizer)
        trie = build_trie(words.codes(knowledge.catalogue.codes), words.eos)
        replace(knowledge, trie=trie).save(fresh)
        _write_json(fresh / "metrics.json", metrics)
        (fresh / "README.md").write_text(card, encoding="utf-8")
        # Temporary folders are private; a model is as readable as any other file of its user.
        fresh.chmod(0o755)
        replace_folder(fresh, folder)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def check_replaceable(folder: Path) -> None:
    """Refuses to put a model where anything but a trained model stands: a slip of the user's hand.

    Raises:
        ValueError: something else stands there, or the folder can't be renamed.
    """
    if folder.is_file():
        raise ValueError(f"{folder}: expected a folder or a free name for one; it is a file")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "p5.json").is_file():
        raise ValueError(
            f"{folder}: expected a trained model to replace, or a free name; it holds other files"
        )
    if folder.is_mount():
        raise ValueError(f"{folder}: a volume is mounted there; name a folder inside it")


def replace_folder(fresh: Path, folder: Path) -> None:
    """Puts ``fresh`` in the place of ``folder``; what stood there is kept until it is done."""
    backup = folder.with_name(folder.name + _BACKUP)
    if folder.exists():
        shutil.rmtree(backup, ignore_errors=True)
        os.replace(folder, backup)
    os.replace(fresh, folder)
    shutil.rmtree(backup, ignore_errors=True)


def recover_folder(folder: Path) -> None:
    """Finishes a replacement that was interrupted between its two renames."""
    folder = folder.resolve()
    backup = folder.with_name(folder.name + _BACKUP)
    if backup.exists() and not folder.exists():
        os.replace(backup, folder)


def find_artifact(name_or_path: str) -> Path:
    """The local folder of a trained model, fetched from the Hub where it is not a folder.

    Raises:
        ValueError: a local folder is not a trained P5.
    """
    folder = Path(name_or_path)
    recover_folder(folder)
    if not folder.exists() and name_or_path.count("/") == 1 and not folder.parent.exists():
        folder = Path(snapshot_download(name_or_path))
    _check_complete(folder)
    return folder


def checkpoint_knowledge(
    name_or_path: str, protocol: Protocol, held_back_users: int = 0, seed: int | None = None
) -> Knowledge | None:
    """What a P5 was trained with that training goes on from; any other T5 has nothing of it.

    Args:
        name_or_path: a folder or a name on the Hub.
        protocol: of the training that goes on.
        held_back_users: as ``read_corpus`` has it.
        seed: of the training that goes on, not compared where it is ``None``.

    Raises:
        ValueError: there is no T5, a P5 whose folder is not whole, one whose items or users were
            not numbered as the protocol says, or one that has learnt what would be held out now.
    """
    recover_folder(Path(name_or_path))
    if not is_p5(name_or_path):
        return None
    known = Knowledge.load(find_artifact(name_or_path))
    for name, meanings in _LEARNT.items():
        told = bool(getattr(known.protocol, name))
        if told != getattr(protocol, name):
            raise ValueError(
                f"{name_or_path}: {meanings[told]}; go on with --{name} {str(told).lower()}"
            )
    if known.held_back_users != held_back_users:
        raise ValueError(
            f"{name_or_path}: the last training item of {known.held_back_users} users was held "
            f"back; go on with --held_back_users {known.held_back_users}"
        )
    drawn = protocol.random_row_split or held_back_users
    if drawn and None not in (seed, known.seed) and seed != known.seed:
        raise ValueError(
            f"{name_or_path}: what is held out was drawn by the seed {known.seed}; go on with "
            f"--seed {known.seed}"
        )
    return known


def load_artifact(
    folder: Path, device: str | torch.device = "cpu"
) -> tuple[P5ForConditionalGeneration, PreTrainedTokenizerBase, Knowledge]:
    """Reads a trained model, its tokenizer and what it was trained with."""
    knowledge = Knowledge.load(folder)
    model = P5ForConditionalGeneration.from_pretrained(folder).to(device)
    return model.eval(), AutoTokenizer.from_pretrained(folder), knowledge


def _check_complete(folder: Path, needed: Sequence[str] = _NEEDED) -> None:
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"{folder}: not a folder that train.py wrote, {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing"
        )


def _write_json(path: Path, content: Any) -> None:
    text = json.dumps(content, indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
