"""The sample of a grid's points is small, the same each time, and holds every pair of values."""

from __future__ import annotations

from itertools import combinations, product

from sampling import covering

GRID = [
    {"engine": engine, "dtype": dtype, "shape": shape, "sources": sources}
    for engine, dtype, shape, sources in product("abc", range(4), range(8), (1, 2, 4))
]


def pairs(points):
    return {pair for point in points for pair in combinations(sorted(point.items()), 2)}


def test_every_pair_of_values_is_kept_with_a_quarter_of_the_points():
    kept = [GRID[place] for place in covering(GRID)]
    assert pairs(kept) == pairs(GRID)
    assert 4 * 8 <= len(kept) <= len(GRID) / 4


def test_a_pair_that_the_grid_does_not_have_is_not_missed():
    grid = [point for point in GRID if (point["engine"], point["dtype"]) != ("a", 3)]
    kept = [grid[place] for place in covering(grid)]
    assert pairs(kept) == pairs(grid)


def test_the_sample_does_not_depend_on_the_order_of_the_points():
    kept = [GRID[place] for place in covering(GRID)]
    turned = GRID[::-1]
    again = [turned[place] for place in covering(turned)]
    assert sorted(map(str, kept)) == sorted(map(str, again))


def test_one_parameter_keeps_all_its_values():
    grid = [{"seed": seed} for seed in range(9)]
    assert covering(grid) == list(range(9))
