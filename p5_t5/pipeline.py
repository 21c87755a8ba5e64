"""``pipeline("p5-recommend", model=FOLDER)``: recommendations, ratings and explanations."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModelForSeq2SeqLM, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.utils import logging

from p5_t5.artifact import Knowledge, find_artifact
from p5_t5.data.histories import UserState
from p5_t5.decoding import constraints
from p5_t5.decoding.diversity import Diversity
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
_FIELDS = ("user", "history", "item", "feature", "filters", "allow", "deny")


@dataclass(frozen=True)
class Request:
    """One checked request.

    Attributes:
        name: what an error message calls it.
        state: who asks.
        item: about which item, where the task wants one.
        feature: what an explanation should be about.
        allowed: True for items that its conditions allow, shape (items,); ``None`` without any.
    """

    name: str
    state: UserState
    item: int | None
    feature: str | None
    allowed: torch.Tensor | None


class P5RecommendPipeline(Pipeline):
    """Answers for known users and for new ones.

    A request is a known user's id, a new user's history (a list of item ids or titles, oldest
    first), or a dictionary with ``user`` or ``history`` and, for ratings and explanations,
    ``item`` (and ``feature``, a word that the explanation should be about). It may also hold
    ``filters``, ``allow`` and ``deny`` of its own, which then stand in for those of the call. A
    list of requests gives a list of answers. A list of texts that are all known users' ids is a
    list of requests; any other list of texts is one history.

    Parameters of a call:
        top_k: how many items, 10 by default.
        task: ``sequential`` (the default), ``rating``, ``like`` or ``explanation``. All but the
            first speak about ``item``, or about the recommended items where none is given.
        item: the item of every request, by id or title.
        template: the id of the prompt template; by default the one that was best on validation of
            those whose slots the request can fill.
        keep_seen: also recommend what the user already has.
        filters: what recommended items must be: ``category``, ``price_below``, or any column of
            the items table with its value. For one of several values write a list.
        allow: the only items that may be recommended, a list of ids or titles.
        deny: items that must not be recommended, likewise.
        diversity: 0 (the default) ranks by probability alone, 1 by how little an item has in
            common with those before it (maximal marginal relevance over the items' categories).
        per_category: at most so many items of any one category, more only where ``top_k`` items
            can't be had without.
        batch_size: requests a forward pass.

    With either of the last two, the items are chosen from a list five times as long as ``top_k``,
    and stand in the order of the choice, not of their scores.

    Returns for each request a list of dictionaries with ``item_id``, ``title`` and ``score`` (the
    item's log-probability; for ``task="rating"`` the expected stars, for ``task="like"`` the
    probability of liking; ``None`` where an item to explain was given). Explanations also have
    ``explanation``, ``explained_by`` (``quote`` is what a user wrote of the item, ``own_quote``
    what this user wrote of the same feature of another, ``fact`` holds for the history, and what
    the ``model`` wrote, where nobody wrote of the item, may be neither; ``None`` where no fact
    holds) and ``said_of`` (the id of the item that it was written of).

    Raises:
        ValueError: an unknown user, item, task, template or condition; the nearest known ones are
            named. A request that allows no item, or diversity where items have no categories.
    """

    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = True
    _pipeline_calls_generate = True
    _non_generation_params = ("top_k",)  # here a number of items, not of tokens

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Loads what the model was trained with from the model's folder."""
        super().__init__(*args, **kwargs)
        self.knowledge = Knowledge.load(find_artifact(self.model.name_or_path))
        self.predictor = self.knowledge.predictor(self.model, self.tokenizer)
        self.filters = constraints.CatalogueFilters(self.knowledge.catalogue)

    def _sanitize_parameters(
        self,
        top_k: int | None = None,
        task: str | None = None,
        item: str | None = None,
        template: str | None = None,
        keep_seen: bool | None = None,
        filters: Mapping[str, Any] | None = None,
        allow: Collection[str] | None = None,
        deny: Collection[str] | None = None,
        diversity: float | None = None,
        per_category: int | None = None,
        **unknown: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if unknown:
            raise ValueError(
                f"unknown parameter {min(unknown)!r}; known are top_k, task, template, keep_seen, "
                "item, filters, allow, deny, diversity, per_category and batch_size"
            )
        if task is not None and task not in _TASKS:
            raise ValueError(f"unknown task {task!r}; expected one of {', '.join(_TASKS)}")
        if top_k is not None and (not isinstance(top_k, int) or top_k < 1):
            raise ValueError(f"top_k must be a whole number from 1 on, not {top_k!r}")
        Diversity(diversity or 0, per_category)
        asked = {"item": item, "filters": filters, "allow": allow, "deny": deny}
        forward = {
            "top_k": top_k,
            "task": task,
            "template": template,
            "keep_seen": keep_seen,
            "diversity": diversity,
            "per_category": per_category,
        }
        # What a call leaves open is as the pipeline was made with.
        given = [{k: v for k, v in part.items() if v is not None} for part in (asked, forward)]
        return given[0], given[1], {}

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """Answers one request or a list of them; see the class for their forms."""
        requests = self._requests(inputs)
        if requests is None:
            return super().__call__([{"request": inputs, "number": 0}], **kwargs)[0]
        numbered = [{"request": row, "number": i} for i, row in enumerate(requests)]
        return super().__call__(numbered, **kwargs)

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

    def preprocess(self, inputs: Mapping[str, Any], **call: Any) -> dict[str, Any]:
        """Checks a request and finds its user, its item and the items that it allows."""
        request = inputs["request"]
        if not isinstance(request, Mapping):
            request = {"user": request} if isinstance(request, str) else {"history": request}
        if unknown := [field for field in request if field not in _FIELDS]:
            known = ", ".join(_FIELDS)
            raise ValueError(f"unknown field {unknown[0]!r} in a request; known: {known}")
        if not isinstance(feature := request.get("feature"), (str, type(None))):
            raise ValueError(f"a request's 'feature' is a word, not {feature!r}")
        if ("user" in request) == ("history" in request):
            raise ValueError(f"a request has either 'user' or 'history'; given was {request!r}")
        asked = {**call, **request}
        item = asked.get("item")
        who = f"user {request['user']!r}" if "user" in request else "a new user"
        return {
            "requests": Request(
                name=f"request {inputs['number']} ({who})",
                state=self._state(request),
                item=None if item is None else self.knowledge.catalogue.find(item),
                feature=feature,
                allowed=self._allowed(asked),
            )
        }

    def _allowed(self, asked: Mapping[str, Any]) -> torch.Tensor | None:
        """The items that filters, allow and deny leave together, shape (items,)."""
        count = len(self.knowledge.catalogue)
        masks = []
        if (filters := asked.get("filters")) is not None:
            if not isinstance(filters, Mapping):
                raise ValueError(f"filters are a dictionary of conditions, not {filters!r}")
            masks += [self._condition(name, value) for name, value in filters.items()]
        if (allow := asked.get("allow")) is not None:
            masks.append(constraints.allow([self._rows("allow", allow)], count)[0])
        if (deny := asked.get("deny")) is not None:
            masks.append(constraints.deny([self._rows("deny", deny)], count)[0])
        return torch.stack(masks).all(dim=0) if masks else None

    def _condition(self, name: str, value: Any) -> torch.Tensor:
        """The items that fulfil one condition, or one of several, shape (items,)."""
        if isinstance(value, (list, tuple)) and value:
            return torch.stack([self._condition(name, one) for one in value]).any(dim=0)
        expected: Any = {"category": str, "price_below": (int, float)}.get(name, (str, int, float))
        if not isinstance(value, expected):
            raise ValueError(f"filters: {name!r} can't be {value!r} ({type(value).__name__})")
        if name == "category":
            return self.filters.category(value)
        if name == "price_below":
            return self.filters.price_below(value)
        return self.filters.column_equals(name, value)

    def _rows(self, what: str, entries: Any) -> npt.NDArray[np.int32]:
        """The rows of a list of items."""
        listed = isinstance(entries, Collection) and not isinstance(entries, str)
        if not listed or not all(isinstance(entry, str) for entry in entries):
            raise ValueError(f"{what}: expected a list of item ids or titles, not {entries!r}")
        return np.array([self.knowledge.catalogue.find(e) for e in entries], dtype=np.int32)

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
        rows = self._rows("history", request["history"])
        return UserState(
            number=None,
            name=None,
            profile={},
            items=rows,
            ratings=np.full(len(rows), np.nan, dtype=np.float32),
        )

    def _forward(
        self,
        inputs: Mapping[str, Any],
        top_k: int = 10,
        task: str = "sequential",
        template: str | None = None,
        keep_seen: bool = False,
        diversity: float = 0.0,
        per_category: int | None = None,
    ) -> dict[str, Any]:
        requests = inputs["requests"]
        batch: list[Request] = requests if isinstance(requests, list) else [requests]
        diverse = Diversity(diversity, per_category)
        if task == "sequential":
            answers = self._recommend(batch, top_k, template, keep_seen, diverse)
        else:
            answers = self._about_items(batch, task, top_k, template, keep_seen, diverse)
        # A single request is not collated, so it is not taken apart either.
        return {"answers": answers if isinstance(requests, list) else answers[0]}

    def postprocess(self, outputs: Mapping[str, Any]) -> list[Answer]:
        """The answers are ready."""
        answers: list[Answer] = outputs["answers"]
        return answers

    def _recommend(
        self,
        batch: Sequence[Request],
        top_k: int,
        template: str | None,
        keep_seen: bool,
        diversity: Diversity,
    ) -> list[list[Answer]]:
        prompts = [self._prompt("sequential", template, request) for request in batch]
        for request in batch:
            self._check_left(request, keep_seen)
        conditions = [request.allowed for request in batch]
        allowed = None
        if any(mask is not None for mask in conditions):
            whole = torch.ones(len(self.knowledge.catalogue), dtype=torch.bool)
            allowed = torch.stack([whole if mask is None else mask for mask in conditions])
        seen = [request.state.items for request in batch]
        catalogue = self.knowledge.catalogue
        wide = diversity.width(top_k, len(catalogue))
        ranking = self.predictor.rank(prompts, wide, None if keep_seen else seen, allowed, seen)
        items, scores = diversity.rerank(*ranking, catalogue.category_matrix, top_k)
        return [
            [self._answer(i, s) for i, s in zip(row, log, strict=True) if i >= 0]
            for row, log in zip(items.tolist(), scores.tolist(), strict=True)
        ]

    def _check_left(self, request: Request, keep_seen: bool) -> None:
        """An error where no item may be recommended."""
        count = len(self.knowledge.catalogue)
        rows = np.arange(count) if request.allowed is None else request.allowed.nonzero()[:, 0]
        left = rows if keep_seen else np.setdiff1d(rows, request.state.items)
        if not len(left):
            reason = f"its conditions allow {len(rows)} of {count} items"
            if len(rows):
                reason += ", and the user has them all (keep_seen=True recommends them too)"
            raise ValueError(f"{request.name}: no item is left to recommend: {reason}")

    def _about_items(
        self,
        batch: Sequence[Request],
        task: str,
        top_k: int,
        template: str | None,
        keep_seen: bool,
        diversity: Diversity,
    ) -> list[list[Answer]]:
        """Ratings, liking or explanations of the asked items, or of the recommended ones."""
        answers: list[list[Answer]] = [
            [] if request.item is None else [self._answer(request.item, None)] for request in batch
        ]
        open_ = [i for i, request in enumerate(batch) if request.item is None]
        if open_:
            found = self._recommend([batch[i] for i in open_], top_k, None, keep_seen, diversity)
            for i, recommended in zip(open_, found, strict=True):
                answers[i] = recommended
        flat = [(answer, batch[i]) for i, row in enumerate(answers) for answer in row]
        row_of = {item_id: row for row, item_id in enumerate(self.knowledge.catalogue.item_ids)}
        about = [replace(request, item=row_of[answer["item_id"]]) for answer, request in flat]
        prompts = [self._prompt(task, template, request) for request in about]
        if task == "explanation":
            reasons = self.knowledge.reasons
            known = [
                reasons.about(r.state, Asked(item=r.item, feature=r.feature)) if reasons else []
                for r in about
            ]
            by = (reasons.length_penalty, reasons.commonness) if reasons else ()
            chosen = self.predictor.explain(prompts, known, *by)
            ids = self.knowledge.catalogue.item_ids
            for (answer, _), reason in zip(flat, chosen, strict=True):
                # What a model writes where no fact holds would not be so.
                silent = reasons is not None and reasons.complete and reason.source == "model"
                answer["explanation"] = None if silent else reason.text
                answer["explained_by"] = None if silent else reason.source
                answer["said_of"] = None if reason.said_of is None else ids[reason.said_of]
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
        if template:
            known = [t.id for t in knowledge.templates if (t.family, t.answer) == (family, kind)]
            if template not in known:
                raise ValueError(f"unknown {task} template {template!r}; known: {', '.join(known)}")
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
