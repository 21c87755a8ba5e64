"""Item codes are unique, repeatable, and say nothing that training did not say."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from itertools import chain

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p5_t5.data import item_ids
from p5_t5.data.item_ids import SCHEMES, ItemCodes, assign_item_ids

World = tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], int]
quick = settings(max_examples=40, deadline=None)


def compressed(
    histories: list[list[int]],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    offsets = np.cumsum([0, *map(len, histories)], dtype=np.int64)
    return offsets, np.array(list(chain.from_iterable(histories)), dtype=np.int32)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    num_items = draw(st.integers(1, 40))
    history = st.lists(st.integers(0, num_items - 1), max_size=12)
    return *compressed(draw(st.lists(history, max_size=12))), num_items


def two_communities(cold: int = 0) -> World:
    """200 items: even rows are bought by some users, odd rows by others; then cold rows."""
    rng = np.random.default_rng(5)
    histories = [(2 * rng.integers(0, 100, 12) + user % 2).tolist() for user in range(600)]
    return *compressed(histories), 200 + cold


def first_tokens(codes: ItemCodes) -> list[str]:
    return [pieces[0] for pieces in codes.pieces]


@quick
@given(worlds(), st.sampled_from(SCHEMES), st.integers(0, 99), st.sampled_from([None, 2, 3, 7, 50]))
def test_every_item_has_a_word_of_its_own(
    world: World, scheme: str, seed: int, branching: int | None
) -> None:
    codes = assign_item_ids(scheme, *world, seed=seed, branching=branching)
    assert len(codes.texts) == len(set(codes.texts)) == world[2]
    assert all(text and not any(map(str.isspace, text)) for text in codes.texts)
    assert codes == assign_item_ids(scheme, *world, seed=seed, branching=branching)
    assert ItemCodes.from_dict(json.loads(json.dumps(codes.to_dict()))) == codes


@quick
@given(worlds(), st.sampled_from(SCHEMES))
def test_added_tokens_are_exactly_those_that_codes_use(world: World, scheme: str) -> None:
    codes = assign_item_ids(scheme, *world, seed=0)
    used = set(chain.from_iterable(codes.pieces))
    firsts = set(first_tokens(codes))
    if scheme in ("sequential", "random"):
        assert codes.new_tokens == ()
        assert set(codes.texts) == {str(number) for number in range(1, world[2] + 1)}
    else:
        assert len(codes.new_tokens) == len(used) and set(codes.new_tokens) == used
    assert codes.continuation_tokens == (used - firsts if scheme == "collaborative" else set())


def test_new_tokens_go_by_level_then_by_number() -> None:
    atomic = assign_item_ids("atomic", *compressed([[0, 1]]), 12, seed=0)
    assert atomic.new_tokens == tuple(f"<item_{row}>" for row in range(12))
    tree = assign_item_ids("collaborative", *two_communities(), seed=0, branching=15)
    expected = tuple(f"<{level}_{digit}>" for level in "ab" for digit in range(15))
    assert tree.new_tokens == expected[: len(tree.new_tokens)]


@quick
@given(worlds(), st.integers(0, 99))
def test_sequential_numbers_follow_the_walk_over_users(world: World, seed: int) -> None:
    numbers = [int(text) for text in assign_item_ids("sequential", *world, seed=seed).texts]
    walk = list(dict.fromkeys(world[1].tolist()))
    assert [numbers[item] for item in walk] == list(range(1, len(walk) + 1))
    assert all(numbers[item] > len(walk) for item in set(range(world[2])) - set(walk))


@quick
@given(worlds(), st.sampled_from(["sequential", "collaborative"]), st.integers(0, 99))
def test_catalogue_order_says_nothing(world: World, scheme: str, shuffle: int) -> None:
    offsets, items, num_items = world
    renamed = np.random.default_rng(shuffle).permutation(num_items)
    codes = assign_item_ids(scheme, offsets, items, num_items, seed=1).texts
    others = assign_item_ids(
        scheme, offsets, renamed[items].astype(np.int32), num_items, seed=1
    ).texts
    assert all(codes[item] == others[renamed[item]] for item in set(items.tolist()))
    assert sorted(codes) == sorted(others)


def test_items_never_met_are_not_numbered_in_catalogue_order() -> None:
    numbers = [
        int(text) for text in assign_item_ids("sequential", *compressed([[3, 1]]), 60, seed=0).texts
    ]
    unseen = [numbers[item] for item in range(60) if item not in (1, 3)]
    assert sorted(unseen) == list(range(3, 61))
    assert abs(np.corrcoef(unseen, np.arange(58))[0, 1]) < 0.5


def test_another_seed_gives_another_random_numbering() -> None:
    world = (*compressed([[0, 1, 2]]), 50)
    numberings = {assign_item_ids("random", *world, seed=seed).texts for seed in range(20)}
    assert len(numberings) == 20


@quick
@given(worlds(), st.sampled_from([None, 2, 3, 7]))
def test_every_tree_node_shares_its_items_evenly(world: World, branching: int | None) -> None:
    pieces = assign_item_ids("collaborative", *world, seed=0, branching=branching).pieces
    assert len(set(map(len, pieces))) == 1 and len(pieces[0]) >= 2
    for level in range(len(pieces[0])):
        children: dict[tuple[str, ...], Counter[str]] = {}
        for path in pieces:
            children.setdefault(path[:level], Counter())[path[level]] += 1
        for sizes in children.values():
            assert max(sizes.values()) - min(sizes.values()) <= 1
            assert branching is None or len(sizes) <= branching


@pytest.mark.parametrize(
    ("num_items", "shape"),
    [(1, (2, 2)), (120, (11, 2)), (1_682, (42, 2)), (12_101, (23, 3)), (100_000, (47, 3))],
)
def test_default_tree_shape_suits_the_catalogue(num_items: int, shape: tuple[int, int]) -> None:
    assert item_ids._tree_shape(num_items, None) == shape


@pytest.mark.parametrize("branching", [None, 2, 6])
def test_items_of_one_community_share_their_first_token(branching: int | None) -> None:
    codes = assign_item_ids("collaborative", *two_communities(), seed=0, branching=branching)
    communities: dict[str, Counter[int]] = {}
    for item, token in enumerate(first_tokens(codes)):
        communities.setdefault(token, Counter())[item % 2] += 1
    pure = sum(max(counter.values()) for counter in communities.values())
    assert pure >= 190  # of 200; a random tree has about 120 with the default branching


def test_items_without_training_are_spread_over_the_tree() -> None:
    codes = assign_item_ids("collaborative", *two_communities(cold=60), seed=0, branching=10)
    tokens = first_tokens(codes)
    cold = Counter(tokens[200:])
    # 26 items a cluster, 6 of them cold on average.
    assert len(cold) >= 8 and max(cold.values()) <= 16


def test_equal_vectors_do_not_part_met_items_from_cold_ones() -> None:
    # Only rows 0 and 1 have a neighbour: all others borrow their vectors, met (to 40) or not.
    histories = [[0, 1], *([row] for row in range(2, 41))]
    codes = assign_item_ids("collaborative", *compressed(histories), 100, seed=0)
    for rows in (range(2, 41), range(41, 100)):
        assert len({codes.pieces[row][0] for row in rows}) >= 8


def test_another_process_and_thread_count_give_the_same_codes() -> None:
    program = (
        "import runpy, sys, hashlib, numpy as np\n"
        "module = runpy.run_path(sys.argv[1])\n"
        "rng = np.random.default_rng(5)\n"
        "rows = [2 * rng.integers(0, 100, 12) + user % 2 for user in range(600)]\n"
        "offsets = np.arange(0, 7201, 12)\n"
        "items = np.concatenate(rows).astype(np.int32)\n"
        "codes = module['assign_item_ids']('collaborative', offsets, items, 230, seed=3)\n"
        "print(hashlib.sha256(' '.join(codes.texts).encode()).hexdigest())\n"
    )
    here = assign_item_ids("collaborative", *two_communities(cold=30), seed=3)
    expected = hashlib.sha256(" ".join(here.texts).encode()).hexdigest()
    threads = "2" if os.environ.get("OMP_NUM_THREADS") == "1" else "1"
    result = subprocess.run(
        [sys.executable, "-c", program, item_ids.__file__],
        env=os.environ | {"PYTHONHASHSEED": "7", "OMP_NUM_THREADS": threads},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scheme": "colaborative"}, "did you mean 'collaborative'"),
        ({"items": np.array([0, 5], dtype=np.int32)}, r"items\[1\] is 5"),
        ({"items": np.array([-1, 0], dtype=np.int32)}, r"items\[0\] is -1"),
        ({"offsets": np.array([0, 1])}, "from 0 to 2 interactions"),
        ({"offsets": np.array([1, 2])}, "from 0 to 2 interactions"),
        ({"offsets": np.array([], dtype=np.int64)}, "from 0 to 2 interactions"),
        ({"offsets": np.array([0, 2, 1, 2])}, "user 1 goes from 2 to 1"),
        ({"branching": 1}, "branching is 1"),
        ({"num_items": 0}, "num_items is 0"),
    ],
)
def test_wrong_arguments_are_refused(change: dict[str, object], message: str) -> None:
    arguments = {
        "scheme": "collaborative",
        "offsets": np.array([0, 2]),
        "items": np.array([0, 1], dtype=np.int32),
        "num_items": 5,
        "seed": 0,
    }
    with pytest.raises(ValueError, match=message):
        assign_item_ids(**(arguments | change))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"pieces": [["1"]]}, "'scheme' is missing"),
        ({"scheme": "random"}, "'pieces' is missing"),
        ({"scheme": "rando", "pieces": [["1"]]}, "'scheme'.*did you mean 'random'"),
        ({"scheme": 3, "pieces": [["1"]]}, "'scheme'"),
        ({"scheme": "random", "pieces": []}, "'pieces'"),
        ({"scheme": "random", "pieces": "12"}, "'pieces'"),
        ({"scheme": "random", "pieces": [["1"], "2"]}, r"'pieces\[1\]'"),
        ({"scheme": "random", "pieces": [["1"], [2]]}, r"'pieces\[1\]'"),
        ({"scheme": "random", "pieces": [["1"], ["007"]]}, r"'pieces\[1\]'"),
        ({"scheme": "random", "pieces": [["1", "2"]]}, r"'pieces\[0\]'"),
        ({"scheme": "random", "pieces": [["1"], ["2"], ["1"]]}, r"'pieces\[2\]'.*'pieces\[0\]'"),
        ({"scheme": "atomic", "pieces": [["<item 3>"]]}, r"'pieces\[0\]'"),
        ({"scheme": "collaborative", "pieces": [["<a_1>"]]}, r"'pieces\[0\]'"),
        ({"scheme": "collaborative", "pieces": [["<b_1>", "<a_1>"]]}, r"'pieces\[0\]'"),
        (
            {
                "scheme": "collaborative",
                "pieces": [["<a_1>", "<b_1>"], ["<a_2>", "<b_1>", "<c_0>"]],
            },
            r"'pieces\[1\]': 3 pieces",
        ),
    ],
)
def test_damaged_codes_name_the_field(data: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ItemCodes.from_dict(data)
