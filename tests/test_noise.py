from __future__ import annotations

import pytest
import torch

from vaecli.noise import CHUNK_ROWS, LevelNoise, NormalNoise, SampleNoise, permutation
from vaecli.philox import derive_seed


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


def test_importance_samples_depend_on_place_alone_and_more_add_to_fewer() -> None:
    noise = SampleNoise(3, seed=1, purpose="test", epoch=2)
    whole = noise.rows(0, 300, 21)
    assert whole.shape == (300, 21, 3)
    for start, stop, count in ((0, 1, 21), (100, 200, 8), (127, 129, 9), (250, 300, 1)):
        assert torch.equal(noise.rows(start, stop, count), whole[start:stop, :count])
    assert torch.equal(noise.block(1, 2), noise.rows(128, 256, 24)[:, 16:])
    assert abs(float(whole.double().mean())) < 0.05
    assert abs(float(whole.double().std()) - 1) < 0.05
    other = SampleNoise(3, seed=1, purpose="test", epoch=3).rows(0, 300, 21)
    assert not torch.equal(other, whole)


def test_binarization_keeps_black_and_white_and_the_mean_of_every_level() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).repeat(8000).view(-1, 1, 16, 16)
    noise = LevelNoise((1, 16, 16), seed=1, purpose="test")
    drawn = noise.binarize(pixels, 0)
    assert set(drawn.unique().tolist()) == {0, 255}
    share = (drawn.view(-1, 256) == 255).double().mean(0)
    assert share[0] == 0
    assert share[255] == 1
    level = torch.arange(256, dtype=torch.float64) / 255
    error = (level * (1 - level) / 8000).sqrt()
    assert ((share - level).abs() <= 4.5 * error).all()


def test_binarization_depends_on_place_alone() -> None:
    noise = LevelNoise((1, 28, 28), seed=1, purpose="test", epoch=1)
    whole = noise.rows(0, 3000)
    for start, stop in ((0, 5), (1300, 1400), (2990, 3000)):
        assert torch.equal(noise.rows(start, stop), whole[start:stop])
    assert int(whole.max()) == 254
    assert int(whole.min()) == 0


@pytest.mark.parametrize(("count", "window"), [(1000, 64), (1003, 100), (50, 1), (10, 64)])
def test_a_windowed_permutation_visits_all_and_mixes_near_ones(count: int, window: int) -> None:
    order = permutation(count, seed=1, epoch=2, window=window)
    assert sorted(order.tolist()) == list(range(count))
    assert torch.equal(order, permutation(count, seed=1, epoch=2, window=window))
    assert not torch.equal(order, permutation(count, seed=1, epoch=3, window=window))
    assert not torch.equal(order, permutation(count, seed=2, epoch=2, window=window))
    # whatever lies in one window comes from few places: that is what a disk needs
    size = max(1, window // 16)
    for part in order.split(window):
        assert len({index // size for index in part.tolist()}) <= window // size + 2


def test_a_windowed_permutation_mixes_windows_and_within_them() -> None:
    order = permutation(6400, seed=0, epoch=0, window=640).double()
    firsts = torch.stack([part.mean() for part in order.split(640)])
    assert firsts.std() < 640 * 16 / 10  # windows in file order would have 1,850 and more
    steps = (order[1:] - order[:-1]).abs()
    assert (steps > 40).double().mean() > 0.8
