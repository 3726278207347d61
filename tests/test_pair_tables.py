"""Tables by pair of modalities."""

from __future__ import annotations

import pytest

from fmalign_jax.config.pair_tables import check_names, learning_scale, pair_entries

TABLE = {"video": {"video": 0.1, "current": 0}, "current": {"video": 1}}


def test_entries_come_by_name_and_without_zeros():
    entries = [("current", "video", 1.0), ("video", "video", 0.1)]
    assert list(pair_entries(TABLE)) == entries


@pytest.mark.parametrize(
    ("table", "student", "teacher", "expected"),
    [
        (None, "video", "current", 1.0),
        (TABLE, "current", "video", 1.0),
        (TABLE, "video", "current", 0.0),
        (TABLE, "video", "video", 1.0),  # itself, whatever the table says
        (TABLE, "text", "video", 0.0),
    ],
)
def test_learning_scale(table, student, teacher, expected):
    assert learning_scale(table, student, teacher) == expected


def test_a_misspelt_name_is_refused_and_a_known_one_is_not():
    check_names(TABLE, ["video", "current", "text"], table_name="weights")
    check_names(None, ["video"], table_name="weights")
    with pytest.raises(ValueError, match=r"weights .*\['video'\]; got \['current'\]"):
        check_names(TABLE, ["video"], table_name="weights")
