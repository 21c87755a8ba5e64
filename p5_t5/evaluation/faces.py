"""The metrics as ``evaluate.Metric`` objects, for programs that already speak that language.

Each face collects rows with ``add`` or ``add_batch`` and hands them to the pure function of the
same kind in ``metrics`` when ``compute`` is called. A face is made by its class, not by
``evaluate.load``: nothing is fetched, so it works without a network. Faces that read the same
columns can be joined with ``evaluate.combine``; a name that two of them report (``n``) then
carries the face's name in front, such as ``text_metric_n``.

Importing this module imports ``evaluate``, which takes seconds.
"""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from p5_t5.evaluation import metrics

# evaluate accepts None in a column of this type; in one of type "string" it refuses None in the
# first row only.
OPTIONAL_TEXT = "large_string"


class RankingMetric(evaluate.Metric):
    """HR@K, NDCG@K and MRR of ranked lists; see ``metrics.ranking_metrics``.

    Columns: ``predictions``, the item numbers of one user, best first, and ``references``, the
    held-out item number. Lists may differ in length: shorter ones are padded to the longest.

    Args:
        cutoffs: the values of K.
        settings: passed to ``evaluate.Metric``, for example ``experiment_id``.
    """

    def __init__(self, cutoffs: Sequence[int] = (1, 5, 10, 20), **settings: Any) -> None:
        self.cutoffs = tuple(cutoffs)
        super().__init__(**settings)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Hit rate, NDCG and MRR of ranked lists with one relevant item each.",
            citation="",
            inputs_description="predictions: lists of item numbers; references: item numbers.",
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("int64")),
                    "references": datasets.Value("int64"),
                }
            ),
        )

    def _compute(self, predictions: list[list[int]], references: list[int]) -> dict[str, float]:
        return metrics.ranking_metrics(_padded(predictions), references, self.cutoffs)


class DiversityMetric(evaluate.Metric):
    """Coverage, Gini index and distance within the lists; see ``metrics.diversity_metrics``.

    Columns: ``predictions``, the item numbers of one user, best first. The held-out item is not
    read. Lists may differ in length, but the longest has at least ``cutoff`` items.

    Args:
        num_items: size of the catalogue.
        categories: nonzero where an item has a category, ``(items, categories)``.
        cutoff: how many items of each list count.
        settings: passed to ``evaluate.Metric``, for example ``experiment_id``.
    """

    def __init__(
        self,
        num_items: int,
        categories: sp.csr_array | None = None,
        cutoff: int = 10,
        **settings: Any,
    ) -> None:
        self.num_items, self.categories, self.cutoff = num_items, categories, cutoff
        super().__init__(**settings)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Coverage, Gini index and distance within ranked lists.",
            citation="",
            inputs_description="predictions: lists of item numbers.",
            features=datasets.Features({"predictions": datasets.Sequence(datasets.Value("int64"))}),
        )

    def _compute(self, predictions: list[list[int]]) -> dict[str, float]:
        return metrics.diversity_metrics(
            _padded(predictions), self.num_items, self.categories, self.cutoff
        )


def _padded(predictions: list[list[int]]) -> npt.NDArray[np.int64]:
    """Lists of any length as one array, (users, longest)."""
    lengths = np.array([len(row) for row in predictions])  # (users,)
    filled = np.arange(lengths.max(initial=0)) < lengths[:, None]
    ranked = np.full(filled.shape, metrics.PADDING)
    ranked[filled] = [item for row in predictions for item in row]
    return ranked


class RatingMetric(evaluate.Metric):
    """RMSE and MAE of predicted ratings, in stars; see ``metrics.rating_metrics``.

    Columns: ``predictions`` and ``references``, one rating a row.
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Root mean squared and mean absolute error of ratings.",
            citation="",
            inputs_description="predictions: ratings; references: ratings.",
            features=datasets.Features(
                {
                    "predictions": datasets.Value("float64"),
                    "references": datasets.Value("float64"),
                }
            ),
        )

    def _compute(self, predictions: list[float], references: list[float]) -> dict[str, float]:
        return metrics.rating_metrics(predictions, references)


class TextMetric(evaluate.Metric):
    """BLEU, ROUGE and distinctness of generated texts; see ``metrics.text_metrics``.

    Columns: ``predictions`` and ``references``, one text a row.
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="BLEU, ROUGE and the share of distinct texts.",
            citation="",
            inputs_description="predictions: texts; references: texts.",
            features=datasets.Features(
                {
                    "predictions": datasets.Value("string"),
                    "references": datasets.Value("string"),
                }
            ),
        )

    def _compute(
        self, predictions: list[str], references: list[str], feature_words: object = None
    ) -> dict[str, float]:
        # evaluate.combine hands every extra column to every face: feature_words is FeatureMatch's
        return metrics.text_metrics(predictions, references)


class FeatureMatch(evaluate.Metric):
    """Share of texts that name their feature; see ``metrics.feature_match``.

    Columns: ``predictions``, one text a row, and ``feature_words``, its feature or None. The
    reference text is not read, so that this face and ``TextMetric`` combine.
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Share of texts that carry the feature they are about.",
            citation="",
            inputs_description="predictions: texts; feature_words: a feature or None for each.",
            features=datasets.Features(
                {
                    "predictions": datasets.Value("string"),
                    "feature_words": datasets.Value(OPTIONAL_TEXT),
                }
            ),
        )

    def _compute(self, predictions: list[str], feature_words: list[str | None]) -> dict[str, float]:
        return metrics.feature_match(predictions, feature_words)
