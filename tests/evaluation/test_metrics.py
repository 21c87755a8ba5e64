"""The metrics against hand-computed cases, laws that hold for every input, and their libraries."""

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
import sacrebleu
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sklearn.metrics import ndcg_score

from p5_t5.evaluation.metrics import (
    binary_metrics,
    catalogue_coverage,
    diversity_metrics,
    feature_match,
    gini,
    intra_list_distance,
    ranking_metrics,
    rating_metrics,
    text_metrics,
)

in_any_time = settings(deadline=None)  # a busy machine is no failure

ITEMS = 30
CUTOFFS = (1, 2, 5, 10)


@st.composite
def rankings(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Ranked lists of ten places, some of them padded, and one target a user."""
    users = draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    ranked = np.array([rng.permutation(ITEMS)[:10] for _ in range(users)])
    shown = rng.integers(1, 11, size=users)
    ranked[np.arange(10) >= shown[:, None]] = -1
    return ranked, rng.integers(0, ITEMS, size=users)


# Ranking


def test_ranking_by_hand() -> None:
    ranked = [[7, 3, 5], [3, 7, 5], [5, 3, 7], [1, 2, -1]]
    metrics = ranking_metrics(ranked, [7, 7, 7, 7], cutoffs=(1, 3))
    assert metrics == pytest.approx(
        {
            "hr@1": 1 / 4,
            "ndcg@1": 1 / 4,
            "hr@3": 3 / 4,
            "ndcg@3": (1 + 1 / math.log2(3) + 1 / 2) / 4,
            "mrr": (1 + 1 / 2 + 1 / 3) / 4,
            "n": 4,
        }
    )


def test_ranking_keys_of_the_default_cutoffs() -> None:
    metrics = ranking_metrics([list(range(20))], [19])
    names = [f"{name}@{k}" for k in (1, 5, 10, 20) for name in ("hr", "ndcg")]
    assert list(metrics) == [*names, "mrr", "n"]
    assert metrics["hr@10"] == 0
    assert metrics["hr@20"] == 1
    assert metrics["mrr"] == pytest.approx(1 / 20)


@in_any_time
@given(rankings())
def test_ranking_laws(case: tuple[np.ndarray, np.ndarray]) -> None:
    metrics = ranking_metrics(*case, cutoffs=CUTOFFS)
    for small, large in itertools.pairwise(CUTOFFS):
        assert metrics[f"hr@{small}"] <= metrics[f"hr@{large}"]
        assert metrics[f"ndcg@{small}"] <= metrics[f"ndcg@{large}"]
    for cutoff in CUTOFFS:
        assert 0 <= metrics[f"ndcg@{cutoff}"] <= metrics[f"hr@{cutoff}"] <= 1
    assert metrics["hr@1"] == metrics["ndcg@1"]
    assert metrics["hr@1"] - 1e-12 <= metrics["mrr"] <= metrics["hr@10"] + 1e-12
    assert metrics["mrr"] >= metrics["hr@10"] / 10 - 1e-12


@in_any_time
@given(rankings(), st.randoms(use_true_random=False))
def test_order_of_users_does_not_matter(case: tuple[np.ndarray, np.ndarray], random) -> None:
    ranked, target = case
    order = list(range(len(target)))
    random.shuffle(order)
    shuffled = ranking_metrics(ranked[order], target[order], cutoffs=CUTOFFS)
    assert shuffled == pytest.approx(ranking_metrics(ranked, target, cutoffs=CUTOFFS))


@in_any_time
@given(rankings())
def test_names_of_items_do_not_matter(case: tuple[np.ndarray, np.ndarray]) -> None:
    ranked, target = case
    names = np.append(np.random.default_rng(0).permutation(1000)[:ITEMS], -1)
    renamed = ranking_metrics(names[ranked], names[target], cutoffs=CUTOFFS)
    assert renamed == ranking_metrics(ranked, target, cutoffs=CUTOFFS)


@in_any_time
@given(st.integers(0, 2**32 - 1))
def test_ndcg_agrees_with_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.permuted(np.tile(np.arange(ITEMS), (6, 1)), axis=1)
    target = rng.integers(0, ITEMS, size=6)
    ranked = np.argsort(-scores, axis=1)[:, :10]
    ours = ranking_metrics(ranked, target, cutoffs=(10,))["ndcg@10"]
    assert ours == pytest.approx(ndcg_score(np.eye(ITEMS)[target], scores, k=10))


@pytest.mark.parametrize(
    ("ranked", "target", "cutoffs", "message"),
    [
        ([[1, 2, 1]], [1], (1,), "row 0 holds an item twice"),
        ([[1, 2, 3], [4, 5, 5]], [1, 1], (1,), "row 1 holds an item twice"),
        ([[1, -1, 3]], [1], (1,), "padding"),
        ([[1, 2, -2]], [1], (1,), "below -1"),
        ([[1, 2, 3]], [1], (1, 5), "cutoff 5 is larger than the 3 items"),
        ([[1, 2, 3]], [1], (), "cutoffs"),
        ([[1, 2, 3]], [1], (0, 1), "cutoffs"),
        ([[1, 2, 3]], [1, 2], (1,), "target has shape"),
        ([[1, 2, -1]], [-1], (1,), "target: row 0 holds a negative item number"),
        ([[1.0, 2.0]], [1], (1,), "integer item numbers"),
        ([1, 2, 3], [1], (1,), r"expected \(users, k\)"),
        (np.zeros((0, 3), int), np.zeros(0, int), (1,), r"expected \(users, k\)"),
    ],
)
def test_ranking_errors(ranked, target, cutoffs, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ranking_metrics(ranked, target, cutoffs)


# Coverage and concentration


def test_coverage_by_hand() -> None:
    assert catalogue_coverage([[0, 1], [1, -1]], num_items=4) == 1 / 2
    assert catalogue_coverage([[0, 1], [2, 3]], num_items=4) == 1


def test_gini_by_hand() -> None:
    assert gini([[0, 1], [2, 3]], num_items=4) == 0
    assert gini([[3], [3], [3]], num_items=4) == 3 / 4  # one item takes all: (m - 1) / m
    # counts 0, 1, 3: (-2·0 + 0·1 + 2·3) / (3·4)
    assert gini([[1, 2], [2, -1], [2, -1]], num_items=3) == pytest.approx(1 / 2)


@in_any_time
@given(rankings(), st.integers(0, 50))
def test_gini_and_coverage_laws(case: tuple[np.ndarray, np.ndarray], never_shown: int) -> None:
    ranked, _ = case
    concentration = gini(ranked, ITEMS)
    assert -1e-12 <= concentration <= 1
    assert gini(ranked, ITEMS + never_shown) >= concentration - 1e-12
    assert 0 < catalogue_coverage(ranked, ITEMS + never_shown) <= 1


@in_any_time
@given(rankings())
def test_gini_is_the_mean_absolute_difference(case: tuple[np.ndarray, np.ndarray]) -> None:
    ranked, _ = case
    counts = np.bincount(ranked[ranked >= 0], minlength=ITEMS)
    difference = np.abs(counts[:, None] - counts[None, :]).mean()
    assert gini(ranked, ITEMS) == pytest.approx(difference / (2 * counts.mean()))


def test_intra_list_distance_by_hand() -> None:
    categories = sp.csr_array(np.array([[1, 0], [1, 0], [1, 1], [0, 1], [0, 0]]))
    cosine = 1 / math.sqrt(2)  # of items 2 and 0, 2 and 1, 2 and 3
    for ranked, distance in [
        ([[0, 1]], 0),
        ([[0, 3]], 1),
        ([[0, 2]], 1 - cosine),
        ([[0, 1, 2, 3]], 1 - (1 + 3 * cosine) / 6),
        ([[0, 1], [0, 3]], 1 / 2),
        ([[0, 3, -1], [0, 1, 2]], (1 + 1 - (1 + 2 * cosine) / 3) / 2),
        ([[0, 4, 3]], 1),  # nothing is known of item 4
        ([[0, 1], [4, 3], [2, -1]], 0),  # two lists have no pair
        ([[0, -1], [4, 3]], 0),  # none has
    ]:
        assert intra_list_distance(ranked, categories) == pytest.approx(distance)


@in_any_time
@given(rankings(), st.integers(0, 2**32 - 1))
def test_intra_list_distance_is_the_mean_over_pairs(
    case: tuple[np.ndarray, np.ndarray], seed: int
) -> None:
    ranked, _ = case
    sets = np.random.default_rng(seed).random((ITEMS, 4)) < 0.4
    means = []
    for row in ranked:
        known = [sets[item] for item in row if item >= 0 and sets[item].any()]
        distances = [
            1 - (a & b).sum() / math.sqrt(a.sum() * b.sum())
            for a, b in itertools.combinations(known, 2)
        ]
        means += [np.mean(distances)] if distances else []
    ours = intra_list_distance(ranked, sp.csr_array(sets))
    assert 0 <= ours <= 1
    assert ours == pytest.approx(np.mean(means) if means else 0, abs=1e-9)


@in_any_time
@given(rankings())
def test_diversity_counts_the_first_places(case: tuple[np.ndarray, np.ndarray]) -> None:
    ranked, _ = case
    categories = sp.csr_array(np.eye(ITEMS)[:, :7] + np.eye(ITEMS, k=1)[:, :7])
    assert diversity_metrics(ranked, ITEMS, categories, cutoff=4) == {
        "coverage@4": catalogue_coverage(ranked[:, :4], ITEMS),
        "gini@4": gini(ranked[:, :4], ITEMS),
        "intra_list_distance@4": intra_list_distance(ranked[:, :4], categories),
        "n": len(ranked),
    }
    assert set(diversity_metrics(ranked, ITEMS)) == {"coverage@10", "gini@10", "n"}


@pytest.mark.parametrize("cutoff", [0, 11])
def test_diversity_within_the_lists(cutoff: int) -> None:
    with pytest.raises(ValueError, match=f"cutoff is {cutoff}, expected 1 to 10"):
        diversity_metrics([list(range(10))], ITEMS, cutoff=cutoff)


def distance_in(ranked: list[list[int]], num_items: int) -> float:
    return intra_list_distance(ranked, sp.csr_array(np.eye(num_items)))


@pytest.mark.parametrize("metric", [catalogue_coverage, gini, distance_in])
def test_catalogue_errors(metric) -> None:
    with pytest.raises(ValueError, match="row 1 holds item 4, but the catalogue has 4 items"):
        metric([[0, 1], [4, 2]], 4)
    with pytest.raises(ValueError, match="nothing but padding"):
        metric([[-1, -1]], 4)


# Ratings and yes/no answers


def test_rating_by_hand() -> None:
    assert rating_metrics([1, 2, 5], [1, 4, 4]) == pytest.approx(
        {"rmse": math.sqrt(5 / 3), "mae": 1.0, "n": 3}
    )


@in_any_time
@given(st.lists(st.tuples(st.floats(1, 5), st.floats(1, 5)), min_size=1))
def test_rating_laws(pairs: list[tuple[float, float]]) -> None:
    predicted, actual = zip(*pairs, strict=True)
    metrics = rating_metrics(predicted, actual)
    assert 0 <= metrics["mae"] <= metrics["rmse"] * (1 + 1e-9) <= 4 * (1 + 1e-9)
    assert rating_metrics(actual, predicted) == pytest.approx(metrics)
    assert rating_metrics(actual, actual)["rmse"] == 0


def test_rating_errors() -> None:
    with pytest.raises(ValueError, match=r"predicted: row 1 holds .* nan \(1 of 3 rows"):
        rating_metrics([1, float("nan"), 3], [1, 2, 3])
    with pytest.raises(ValueError, match="actual: row 2 holds"):
        rating_metrics([1, 2, 3], [1, 2, float("inf")])
    with pytest.raises(ValueError, match="predicted has 2 rows, actual 3"):
        rating_metrics([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="one number a row"):
        rating_metrics([], [])


def test_binary_by_hand() -> None:
    metrics = binary_metrics([0.9, 0.6, 0.4, 0.2], [1, 0, 1, 0])
    expected = dict.fromkeys(["accuracy", "precision", "recall", "f1"], 0.5)
    assert metrics == pytest.approx({**expected, "auc": 3 / 4, "n": 4})
    assert binary_metrics([0.1, 0.2], [False, True])["precision"] == 0
    assert binary_metrics([0.1, 0.2], [0, 1], threshold=0.2)["accuracy"] == 1


@in_any_time
@given(st.lists(st.integers(0, 20), min_size=2, max_size=20), st.integers(1, 10))
def test_auc_is_the_share_of_well_ordered_pairs(scores: list[int], positives: int) -> None:
    labels = np.arange(len(scores)) < min(positives, len(scores) - 1)
    values = np.array(scores) / 20
    above = values[labels][:, None] - values[~labels][None, :]
    share = ((above > 0) + 0.5 * (above == 0)).mean()
    assert binary_metrics(values, labels)["auc"] == pytest.approx(share)


def test_binary_errors() -> None:
    with pytest.raises(ValueError, match="all 2 labels are 1"):
        binary_metrics([0.1, 0.9], [1, 1])
    with pytest.raises(ValueError, match="labels: row 1 holds a value other than 0 and 1"):
        binary_metrics([0.1, 0.9], [1, 2])
    with pytest.raises(ValueError, match="scores: row 0"):
        binary_metrics([float("nan"), 0.9], [1, 0])


# Texts

PREDICTED = [
    "the strings hold their tune very well",
    "a bright sound, and it looks good",
    "Too quiet for a stage.",
    "",
]
REFERENCES = [
    "these strings hold their tune well",
    "it looks good and has a bright sound",
    "too quiet for any stage.",
    "nothing to say",
]


def test_texts_agree_with_the_libraries() -> None:
    metrics = text_metrics(PREDICTED, REFERENCES)
    bleu_4 = sacrebleu.corpus_bleu(PREDICTED, [REFERENCES]).score
    bleu_2 = sacrebleu.BLEU(max_ngram_order=2).corpus_score(PREDICTED, [REFERENCES]).score
    assert metrics["bleu-4"] == pytest.approx(bleu_4)
    assert metrics["bleu-2"] == pytest.approx(bleu_2)
    for key, name in {"rouge-1": "rouge1", "rouge-2": "rouge2", "rouge-l": "rougeL"}.items():
        scorer = RougeScorer([name], use_stemmer=True)
        scores = [
            scorer.score(target=reference, prediction=predicted)[name].fmeasure
            for predicted, reference in zip(PREDICTED, REFERENCES, strict=True)
        ]
        assert metrics[key] == pytest.approx(100 * np.mean(scores))
    assert metrics["n"] == 4


def test_texts_by_hand() -> None:
    same = text_metrics(["one two three four"] * 2, ["one two three four"] * 2)
    perfect = dict.fromkeys(["bleu-2", "bleu-4", "rouge-1", "rouge-2", "rouge-l"], 100.0)
    assert same == pytest.approx({**perfect, "distinct": 1 / 2, "n": 2})
    # one of two words is right, and no pair: precision 1/2, recall 1/2
    half = text_metrics(["guitar strings"], ["guitar case"])
    assert half["rouge-1"] == pytest.approx(50)
    assert half["rouge-2"] == 0
    # stemming makes these equal for ROUGE, not for BLEU
    stems = text_metrics(["string"], ["strings"])
    assert stems["rouge-1"] == pytest.approx(100)
    assert stems["bleu-2"] == 0


WORDS = st.lists(st.sampled_from(["a", "sound", "of", "bright", "strings"]), max_size=8).map(
    " ".join
)


@in_any_time
@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=5))
def test_text_laws(pairs: list[tuple[str, str]]) -> None:
    predicted, references = zip(*pairs, strict=True)
    metrics = text_metrics(predicted, references)
    for name in ("bleu-2", "bleu-4", "rouge-1", "rouge-2", "rouge-l"):
        assert 0 <= metrics[name] <= 100 + 1e-9
    assert metrics["rouge-l"] <= metrics["rouge-1"] + 1e-9
    assert 1 / len(pairs) <= metrics["distinct"] <= 1


def test_text_errors() -> None:
    with pytest.raises(ValueError, match="predicted has 1 rows, references 2"):
        text_metrics(["a"], ["a", "b"])
    with pytest.raises(ValueError, match="predicted is empty"):
        text_metrics([], [])


@pytest.mark.parametrize(
    ("text", "feature", "named"),
    [
        ("What a Sound!", "sound", True),
        ("the party was loud", "art", False),
        ("a smart gift", "art", False),
        ("art", "ART", True),
        ("good sound   quality.", "Sound quality", True),
        ("sound and quality", "sound quality", False),
        ("a Sci-Fi film", "sci-fi", True),
        ("a children's film", "Children's", True),
        ("written in C++, they say", "c++", True),
        ("STRASSE", "straße", True),
        ("", "sound", False),
        ("xaxbx", ".", False),
    ],
)
def test_feature_match_by_hand(text: str, feature: str, named: bool) -> None:
    assert feature_match([text], [feature]) == {"feature_match": float(named), "n": 1}


def test_feature_match_leaves_out_rows_without_a_feature() -> None:
    texts = ["good sound", "good price", "anything", "anything", "bad"]
    features = ["sound", "price", None, "  ", "sound"]
    assert feature_match(texts, features) == pytest.approx({"feature_match": 2 / 3, "n": 3})
    assert feature_match(["anything"], [None]) == {"n": 0}


def test_feature_match_errors() -> None:
    with pytest.raises(ValueError, match="predicted has 2 rows, feature_words 1"):
        feature_match(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="predicted is empty"):
        feature_match([], [])


def test_metrics_do_not_import_evaluate() -> None:
    code = "import sys, p5_t5.evaluation.metrics; sys.exit('evaluate' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
