"""Dealing out examples: no client gets another's, none goes without, and each scheme does what it says."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fl.data import Dataset
from fl.data.partition import SCHEMES, by_writer, dirichlet, iid, partition, shards
from fl.errors import ConfigError

Parts = list[np.ndarray]

label_arrays = st.lists(st.integers(0, 4), min_size=1, max_size=60).map(lambda v: np.array(v, dtype=np.int64))
seeds = st.integers(0, 2**32)
alphas = st.floats(1e-300, 1e6)


def check_dealt(parts: Parts, num_clients: int) -> np.ndarray:
    """Check that each part is int64, sorted and not empty, without repeated indices; return all indices, sorted."""
    assert len(parts) == num_clients
    for part in parts:
        assert part.dtype == np.int64
        assert len(part) > 0
        assert np.all(np.diff(part) > 0)
    dealt = np.sort(np.concatenate(parts))
    assert np.all(np.diff(dealt) > 0)
    return dealt


@given(labels=label_arrays, seed=seeds, data=st.data())
def test_iid_deals_out_all_evenly(labels: np.ndarray, seed: int, data: st.DataObject) -> None:
    num_clients = data.draw(st.integers(1, len(labels)))
    parts = iid(labels, num_clients, seed)
    assert np.array_equal(check_dealt(parts, num_clients), np.arange(len(labels)))
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


@given(labels=label_arrays, seed=seeds, data=st.data())
def test_shards_deal_out_all_in_few_labels(labels: np.ndarray, seed: int, data: st.DataObject) -> None:
    shards_per_client = data.draw(st.integers(1, min(4, len(labels))))
    num_clients = data.draw(st.integers(1, len(labels) // shards_per_client))
    parts = shards(labels, num_clients, seed, shards_per_client=shards_per_client)
    assert np.array_equal(check_dealt(parts, num_clients), np.arange(len(labels)))
    # Cutting the sorted labels into runs adds at most one label change for each cut.
    runs = num_clients * shards_per_client + len(np.unique(labels)) - 1
    assert sum(len(np.unique(labels[part])) for part in parts) <= runs


@given(labels=label_arrays, seed=seeds, alpha=alphas, data=st.data())
def test_dirichlet_deals_out_all(labels: np.ndarray, seed: int, alpha: float, data: st.DataObject) -> None:
    num_clients = data.draw(st.integers(1, len(labels)))
    parts = dirichlet(labels, num_clients, seed, alpha=alpha)
    assert np.array_equal(check_dealt(parts, num_clients), np.arange(len(labels)))


@given(writers=label_arrays, seed=seeds, data=st.data())
def test_by_writer_gives_a_client_one_writer_whole(writers: np.ndarray, seed: int, data: st.DataObject) -> None:
    num_clients = data.draw(st.integers(1, len(np.unique(writers))))
    parts = by_writer(writers, num_clients, seed)
    check_dealt(parts, num_clients)
    for part in parts:
        assert np.array_equal(part, np.flatnonzero(writers == writers[part[0]]))


LABELS = np.random.default_rng(5).integers(0, 10, 2000)
WRITERS = np.random.default_rng(6).integers(100, 150, 2000)


@pytest.mark.parametrize(
    "deal",
    [
        lambda seed: iid(LABELS, 20, seed),
        lambda seed: shards(LABELS, 20, seed),
        lambda seed: dirichlet(LABELS, 20, seed, alpha=0.3),
        lambda seed: by_writer(WRITERS, 20, seed),
    ],
    ids=SCHEMES[:4],
)
def test_the_seed_alone_decides(deal: Callable[[int], Parts]) -> None:
    first, again, other = deal(1), deal(1), deal(2)
    assert all(map(np.array_equal, first, again))
    assert not all(map(np.array_equal, first, other))


def test_two_shards_give_most_clients_two_labels() -> None:
    labels = np.repeat(np.arange(10), 100)
    kinds = [len(np.unique(labels[part])) for part in shards(labels, 50, 3)]
    assert max(kinds) == 2
    assert np.mean(np.array(kinds) == 2) > 0.7


def label_skew(parts: Parts) -> float:
    """Return the mean share of a client's most frequent label."""
    return float(np.mean([np.bincount(LABELS[part]).max() / len(part) for part in parts]))


def test_dirichlet_is_skewed_for_small_alpha_and_even_for_large() -> None:
    skews = [label_skew(dirichlet(LABELS, 10, 1, alpha=alpha)) for alpha in (0.01, 0.5, 1e5)]
    assert skews[0] > 0.6
    assert skews[0] > skews[1] > skews[2]
    assert skews[2] < 0.2
    sizes = [len(part) for part in dirichlet(LABELS, 10, 1, alpha=1e5)]
    assert max(sizes) - min(sizes) < 20


def test_dirichlet_gives_to_the_empty_what_the_largest_can_spare() -> None:
    one_class = np.zeros(100, dtype=np.int64)
    parts = dirichlet(one_class, 50, 4, alpha=1e-300)  # The draw gives all to one client.
    assert sorted(len(part) for part in parts) == [1] * 49 + [51]


def test_dirichlet_draws_which_examples_of_a_class_a_client_gets() -> None:
    one_class = np.zeros(100, dtype=np.int64)
    for part in dirichlet(one_class, 4, 1, alpha=100.0):
        assert np.any(np.diff(part) > 1)  # not a run of the file


def test_by_writer_draws_whom_it_takes() -> None:
    chosen = {tuple(WRITERS[part[0]] for part in by_writer(WRITERS, 5, seed)) for seed in range(20)}
    assert len(chosen) == 20
    assert len({writer for writers in chosen for writer in writers}) > 30


@pytest.mark.parametrize(
    ("deal", "complaint"),
    [
        (lambda: iid(LABELS, 2001, 0), "2001 clients, but only 2000 examples"),
        (lambda: iid(LABELS, 0, 0), "at least 1 of clients"),
        (lambda: iid(LABELS, 3, -1), "seed"),
        (lambda: shards(LABELS, 1001, 0), "2002 shards, but only 2000 examples"),
        (lambda: shards(LABELS, -1, 0), "at least 1 of clients"),
        (lambda: shards(LABELS, 5, 0, shards_per_client=0), "shards_per_client"),
        (lambda: dirichlet(LABELS, 2001, 0, alpha=1.0), "2001 clients"),
        (lambda: dirichlet(LABELS, 5, 0, alpha=0.0), "alpha"),
        (lambda: dirichlet(LABELS, 5, 0, alpha=float("nan")), "alpha"),
        (lambda: dirichlet(LABELS, 5, 0, alpha=float("inf")), "alpha"),
        (lambda: by_writer(WRITERS, 51, 0), "51 clients, but only 50 writers"),
    ],
)
def test_impossible_partitions_are_refused(deal: Callable[[], Parts], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        deal()


def make_dataset(writers: np.ndarray | None) -> Dataset:
    images = torch.zeros(len(LABELS), 1, 2, 2)
    return Dataset("toy", images, torch.from_numpy(LABELS), images[:1], torch.zeros(1).long(), 10, writers)


def test_front_finds_each_scheme_and_passes_its_settings_on() -> None:
    dataset = make_dataset(WRITERS)
    expected = {
        "iid": iid(LABELS, 8, 3),
        "shards": shards(LABELS, 8, 3, shards_per_client=5),
        "dirichlet": dirichlet(LABELS, 8, 3, alpha=0.1),
        "by-writer": by_writer(WRITERS, 8, 3),
        "by-owner": by_writer(WRITERS, 8, 3),
    }
    assert tuple(expected) == SCHEMES
    for scheme, parts in expected.items():
        found = partition(dataset, scheme, 8, seed=3, alpha=0.1, shards_per_client=5)
        assert all(map(np.array_equal, found, parts))


def test_front_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ConfigError, match="iid, shards, dirichlet, by-writer"):
        partition(make_dataset(None), "random", 8, seed=3)
    with pytest.raises(
        ConfigError, match="toy does not name the owner of each example: choose another partition, or mnist-writers"
    ):
        partition(make_dataset(None), "by-writer", 8, seed=3)
