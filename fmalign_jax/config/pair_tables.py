"""Tables by ordered pair of modalities, as configs write them.

Every table is read ``table[student][teacher]``, and a missing entry is zero, so that
a directed scheme (the current learns from the video) names only what it uses:
``{"current": {"current": 1.0, "video": 1.0}, "video": {"video": 1.0}}``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

PairTable = Mapping[str, Mapping[str, float | int]]


def pair_entries(table: PairTable) -> Iterator[tuple[str, str, float]]:
    """Yields (student, teacher, value) of the entries that are not zero, by name."""
    for student, row in sorted(table.items()):
        for teacher, value in sorted(row.items()):
            if value:
                yield student, teacher, float(value)


def learning_scale(table: PairTable | None, student: str, teacher: str) -> float:
    """Returns the share of a cross-modal gradient that the student receives.

    Args:
      table: ``learns_from[student][teacher]`` in [0, 1]; None means 1 everywhere.
      student: the modality whose features would move.
      teacher: the modality it is compared with; itself always gives 1.
    """
    if table is None or student == teacher:
        return 1.0
    return float(table.get(student, {}).get(teacher, 0.0))


def check_names(
    table: PairTable | None, modalities: Iterable[str], *, table_name: str
) -> None:
    """Refuses names that are no modality: a misspelt one would silently count as zero.

    Raises:
      ValueError: naming the table, the unknown name and the known ones.
    """
    known = sorted(modalities)
    named = {*(table or {}), *(name for row in (table or {}).values() for name in row)}
    if unknown := sorted(named - set(known)):
        raise ValueError(
            f"{table_name} may name only the modalities {known}; got {unknown}; "
            "correct the config"
        )
