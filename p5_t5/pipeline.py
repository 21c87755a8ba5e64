"""``pipeline("p5-recommend", model=FOLDER)``: recommendations, ratings and explanations."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from transformers import AutoModelForSeq2SeqLM, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.utils import logging

from p5_t5.artifact import Knowledge, find_artifact
from p5_t5.data.histories import UserState
from p5_t5.prompting.prompter import Asked, Prompt
from p5_t5.prompting.templates import WORDS

logger = logging.get_logger(__name__)

Answer = dict[str, Any]
# What a call can ask for: the family of prompts and the kind of answer.
_TASKS = {
    "sequential": ("sequential", "next_item"),
    "rating": ("rating", "stars"),
    "like": ("rating", "like"),
    "explanation": ("explanation", "sentence"),
}
_FIELDS = ("user", "history", "item", "feature")


@dataclass(frozen=True)
class Request:
    """One checked request: who asks, and about which item where the task wants one."""

    state: UserState
    item: int | None
    feature: str | None


class P5RecommendPipeline(Pipeline):
    """Answers for known users and for new ones.

    A request is a known user's id, a new user's history (a list of item ids or titles, oldest
    first), or a dictionary with ``user`` or ``history`` and, for ratings and explanations,
    ``item`` (and ``feature``, a word that the explanation should be about). A list of requests
    gives a list of answers. A list of texts that are all known users' ids is a list of requests;
    any other list of texts is one history.

    Parameters of a call:
        top_k: how many items, 10 by default.
        task: ``sequential`` (the default), ``rating``, ``like`` or ``explanation``. All but the
            first speak about ``item``, or about the recommended items where none is given.
        item: the item of every request, by id or title.
        template: the id of the prompt template; by default the one that was best on validation of
            those whose slots the request can fill.
        keep_seen: also recommend what the user already has.
        batch_size: requests a forward pass.

    Returns for each request a list of dictionaries with ``item_id``, ``title`` and ``score`` (the
    item's log-probability; for ``task="rating"`` the expected stars, for ``task="like"`` the
    probability of liking), and ``explanation`` for that task, where ``score`` is ``None`` if the
    item was given.

    Raises:
        ValueError: an unknown user, item, task or template; the nearest known ones are named.
    """

    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = True
    _pipeline_calls_generate = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Loads what the model was trained with from the model's folder."""
        super().__init__(*args, **kwargs)
        self.knowledge = Knowledge.load(find_artifact(self.model.name_or_path))
        self.predictor = self.knowledge.predictor(self.model, self.tokenizer)

    def _sanitize_parameters(
        self,
        top_k: int = 10,
        task: str = "sequential",
        item: str | None = None,
        template: str | None = None,
        keep_seen: bool = False,
        **unknown: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if unknown:
            raise ValueError(
                f"unknown parameter {min(unknown)!r}; known are top_k, task, item, template, "
                "keep_seen and batch_size"
            )
        if task not in _TASKS:
            raise ValueError(f"unknown task {task!r}; expected one of {', '.join(_TASKS)}")
        if not isinstance(top_k, int) or top_k < 1:
            raise ValueError(f"top_k must be a whole number from 1 on, not {top_k!r}")
        if hasattr(self, "knowledge") and template is not None:
            ids = [t.id for t in self.knowledge.templates if (t.family, t.answer) == _TASKS[task]]
            if template not in ids:
                raise ValueError(f"unknown {task} template {template!r}; known: {', '.join(ids)}")
        forward = {"top_k": top_k, "task": task, "template": template, "keep_seen": keep_seen}
        return {"item": item}, forward, {}

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """Answers one request or a list of them; see the class for their forms."""
        requests = self._requests(inputs)
        if requests is None:
            return super().__call__([{"request": inputs}], **kwargs)[0]
        return super().__call__([{"request": request} for request in requests], **kwargs)

    def _requests(self, inputs: Any) -> list[Any] | None:
        """The list of requests, ``None`` where the input is a single one."""
        if isinstance(inputs, (str, Mapping)):
            return None
        if not isinstance(inputs, (list, tuple)) or not inputs:
            raise ValueError(
                "expected a user id, a list of item ids or titles, a dictionary with 'user' or "
                f"'history', or a list of these, not {inputs!r}"
            )
        if not all(isinstance(entry, str) for entry in inputs):
            return list(inputs)
        users = self.knowledge.histories.number
        if not all(entry in users for entry in inputs):
            return None
        items = set(self.knowledge.catalogue.item_ids)
        if all(entry in items for entry in inputs):
            logger.warning_once(
                "These texts are ids of users and of items; they are taken as users. For one "
                "history of items write {'history': [...]}."
            )
        return list(inputs)

    def preprocess(self, inputs: Mapping[str, Any], item: str | None = None) -> dict[str, Any]:
        """Checks a request and finds its user and item."""
        request = inputs["request"]
        if not isinstance(request, Mapping):
            request = {"user": request} if isinstance(request, str) else {"history": request}
        unknown = [field for field in request if field not in _FIELDS]
        if unknown:
            raise ValueError(
                f"unknown field {unknown[0]!r} in a request; known: {', '.join(_FIELDS)}"
            )
        if ("user" in request) == ("history" in request):
            raise ValueError(f"a request has either 'user' or 'history'; given was {request!r}")
        asked = request.get("item", item)
        return {
            "requests": Request(
                state=self._state(request),
                item=None if asked is None else self.knowledge.catalogue.find(asked),
                feature=request.get("feature"),
            )
        }

    def _state(self, request: Mapping[str, Any]) -> UserState:
        if "user" in request:
            users = self.knowledge.histories.number
            user = str(request["user"])
            if user not in users:
                near = difflib.get_close_matches(user, users, n=3, cutoff=0.0)
                raise ValueError(
                    f"unknown user {user!r}; the nearest are {', '.join(map(repr, near))}. For a "
                    "new user give a history: a list of item ids or titles"
                )
            return self.knowledge.histories.state(users[user])
        history = request["history"]
        if isinstance(history, str) or not all(isinstance(entry, str) for entry in history):
            raise ValueError(f"a history is a list of item ids or titles, not {history!r}")
        rows = [self.knowledge.catalogue.find(entry) for entry in history]
        return UserState(
            number=None,
            name=None,
            profile={},
            items=np.array(rows, dtype=np.int32),
            ratings=np.full(len(rows), np.nan, dtype=np.float32),
        )

    def _forward(
        self,
        inputs: Mapping[str, Any],
        top_k: int = 10,
        task: str = "sequential",
        template: str | None = None,
        keep_seen: bool = False,
    ) -> dict[str, Any]:
        requests = inputs["requests"]
        batch: list[Request] = requests if isinstance(requests, list) else [requests]
        if task == "sequential":
            answers = self._recommend(batch, top_k, template, keep_seen)
        else:
            answers = self._about_items(batch, task, top_k, template, keep_seen)
        # A single request is not collated, so it is not taken apart either.
        return {"answers": answers if isinstance(requests, list) else answers[0]}

    def postprocess(self, outputs: Mapping[str, Any]) -> list[Answer]:
        """The answers are ready."""
        answers: list[Answer] = outputs["answers"]
        return answers

    def _recommend(
        self, batch: Sequence[Request], top_k: int, template: str | None, keep_seen: bool
    ) -> list[list[Answer]]:
        prompts = [self._prompt("sequential", template, request) for request in batch]
        seen = [request.state.items for request in batch]
        items, scores = self.predictor.rank(prompts, top_k, None if keep_seen else seen)
        return [
            [self._answer(i, s) for i, s in zip(row, log, strict=True) if i >= 0]
            for row, log in zip(items.tolist(), scores.tolist(), strict=True)
        ]

    def _about_items(
        self,
        batch: Sequence[Request],
        task: str,
        top_k: int,
        template: str | None,
        keep_seen: bool,
    ) -> list[list[Answer]]:
        """Ratings, liking or explanations of the asked items, or of the recommended ones."""
        answers: list[list[Answer]] = [
            [] if request.item is None else [self._answer(request.item, None)] for request in batch
        ]
        open_ = [i for i, request in enumerate(batch) if request.item is None]
        if open_:
            found = self._recommend([batch[i] for i in open_], top_k, None, keep_seen)
            for i, recommended in zip(open_, found, strict=True):
                answers[i] = recommended
        flat = [(answer, batch[i]) for i, row in enumerate(answers) for answer in row]
        row_of = {item_id: row for row, item_id in enumerate(self.knowledge.catalogue.item_ids)}
        prompts = [
            self._prompt(task, template, replace(request, item=row_of[answer["item_id"]]))
            for answer, request in flat
        ]
        if task == "explanation":
            for (answer, _), text in zip(flat, self.predictor.write(prompts), strict=True):
                answer["explanation"] = text
            return answers
        if task == "rating":
            scores, _ = self.predictor.rate(prompts)
        else:
            scores = self.predictor.word_probabilities(prompts, WORDS["like_dislike"])
        for (answer, _), score in zip(flat, scores.tolist(), strict=True):
            answer["score"] = score
        return answers

    def _prompt(self, task: str, template: str | None, request: Request) -> Prompt:
        """Renders a request with the wished template, or the best one that it can fill."""
        knowledge = self.knowledge
        asked = Asked(item=None if task == "sequential" else request.item, feature=request.feature)
        family, kind = _TASKS[task]
        ids = [template] if template else list(knowledge.best_templates.get(family, []))
        templates = [knowledge.template(family, id_) for id_ in ids]
        fitting = [chosen for chosen in templates if chosen.answer == kind]
        for chosen in fitting:
            if template or knowledge.prompter.can_ask(chosen, request.state, asked):
                return knowledge.prompter.render(chosen, request.state, asked)
        raise ValueError(
            f"no {task} template of this model can be filled for this request (a new user needs "
            "one that doesn't name the user)"
            if fitting
            else f"this model was not trained for the task {task!r}"
        )

    def _answer(self, row: int, score: float | None) -> Answer:
        catalogue = self.knowledge.catalogue
        return {"item_id": catalogue.item_ids[row], "title": catalogue.title(row), "score": score}


PIPELINE_REGISTRY.register_pipeline(
    "p5-recommend",
    pipeline_class=P5RecommendPipeline,
    pt_model=AutoModelForSeq2SeqLM,
    type="text",
)
