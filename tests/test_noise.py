from __future__ import annotations

import torch

from vaecli.noise import CHUNK_ROWS, NormalNoise, derive_seed, permutation


def test_rows_do_not_depend_on_how_they_are_asked_for() -> None:
    def noise() -> NormalNoise:
        return NormalNoise(3, seed=1, purpose="test", epoch=2)

    total = 2 * CHUNK_ROWS + 100
    whole = noise().rows(0, total)
    source = noise()
    starts = range(0, total, 77)
    pieces = [source.rows(start, min(start + 77, total)) for start in starts]
    assert torch.equal(torch.cat(pieces), whole)
    assert torch.equal(noise().rows(CHUNK_ROWS + 5, CHUNK_ROWS + 6), whole[CHUNK_ROWS + 5 :][:1])
    assert noise().rows(4, 4).shape == (0, 3)


def test_every_part_of_the_key_matters() -> None:
    keys = [(0, "a", 0), (1, "a", 0), (0, "b", 0), (0, "a", 1)]
    rows = [NormalNoise(4, seed=s, purpose=p, epoch=e).rows(0, 4) for s, p, e in keys]
    for index, first in enumerate(rows):
        assert not any(torch.equal(first, other) for other in rows[index + 1 :])
    assert derive_seed(1, "a", 23) != derive_seed(1, "a", 2, 3)


def test_rows_are_standard_normal_and_chunks_are_independent() -> None:
    rows = NormalNoise(8, seed=5, purpose="test").rows(0, 4 * CHUNK_ROWS).double()
    assert rows.mean().abs() < 0.01
    assert (rows.std() - 1).abs() < 0.01
    first, second = rows[:CHUNK_ROWS].flatten(), rows[CHUNK_ROWS : 2 * CHUNK_ROWS].flatten()
    assert (first * second).mean().abs() < 0.02


def test_permutations_visit_every_image_once_and_differ_by_epoch() -> None:
    orders = [permutation(1000, seed=0, epoch=epoch) for epoch in (0, 1)]
    for order in orders:
        assert torch.equal(order.sort().values, torch.arange(1000))
    assert not torch.equal(*orders)
    assert torch.equal(orders[0], permutation(1000, seed=0, epoch=0))
