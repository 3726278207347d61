"""VUS-PR against its definition, level by level and episode by episode."""

import itertools

import numpy as np
import pytest
from hypothesis import given, strategies as st

from fmalign_jax.alarm.tick_measures import vus_pr


def _by_definition(label, score, most):
    """One series, loops only; Paparrizos et al. 2022, section 4."""
    n = len(label)
    levels = np.sort(score)[::-1][np.linspace(0, n - 1, 250).astype(int)]
    areas = []
    for length in range(most + 1):
        weight = label.astype(float)
        for i in range(n):
            for j in range(n):
                starts = label[j] and (j == 0 or not label[j - 1])
                ends = label[j] and (j == n - 1 or not label[j + 1])
                near = 0 < abs(i - j) <= length // 2
                if not label[i] and near and ((starts and i < j) or (ends and i > j)):
                    weight[i] += np.sqrt(1 - abs(i - j) / length)
        weight = np.minimum(weight, 1)
        episodes, inside = [], False
        for i in range(n):
            if weight[i] > 0 and not inside:
                episodes.append([])
            inside = weight[i] > 0
            if inside:
                episodes[-1].append(i)
        points = [(0.0, 1.0)]
        for level in levels:
            alarm = score >= level
            hits = (weight * alarm).sum()
            recall = min(hits / ((label.sum() + weight.sum()) / 2), 1)
            found = np.mean([alarm[part].any() for part in episodes])
            points.append((recall * found, hits / alarm.sum()))
        areas.append(
            sum(
                (b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(points)
            )
        )
    return np.mean(areas)


@given(data=st.data())
def test_it_is_what_the_definition_says(data):
    n = data.draw(st.integers(2, 25))
    label = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    label[data.draw(st.integers(0, n - 1))] = True
    values = st.integers(0, 6).map(float)  # with ties
    score = np.array(data.draw(st.lists(values, min_size=n, max_size=n)))
    most = data.draw(st.integers(0, 6))
    found = vus_pr([label], [score], most_ticks=most)
    assert found == pytest.approx(_by_definition(label, score, most))


def test_a_perfect_score_a_late_one_and_chance():
    rng = np.random.default_rng(0)
    label = np.zeros(2000, bool)
    for begin in range(100, 2000, 400):
        label[begin : begin + 150] = True
    values = {
        "perfect": label.astype(float),
        "late": np.roll(label, 10).astype(float),
        "chance": rng.normal(size=len(label)),
    }
    found = {
        name: vus_pr([label[:900], label[900:]], [v[:900], v[900:]], most_ticks=30)
        for name, v in values.items()
    }
    assert found["perfect"] > 0.95
    assert 0.8 < found["late"] < found["perfect"]
    assert found["chance"] == pytest.approx(label.mean(), abs=0.06)


def test_without_an_episode_there_is_none():
    assert vus_pr([np.zeros(5, bool)], [np.arange(5.0)], most_ticks=2) is None
