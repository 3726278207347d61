"""Whether the recordings of a folder go together: one kind, the same classes."""

from __future__ import annotations

from collections.abc import Sequence

from fmalign_jax.data import dataset
from fmalign_jax.first_config.survey import Seen, Survey
from fmalign_jax.first_config.words import listed, plain


def check(survey: Survey) -> None:
    """Refuses a folder that no one data set can be made of.

    Raises:
      ValueError: no recording can be trained on, recordings differ in streams, shapes
        or channels, or their files name other classes.
    """
    check_streams(survey)
    _check_classes(survey)


def check_streams(survey: Survey) -> None:
    """Refuses a folder without recordings of both streams, or of different kinds.

    Raises:
      ValueError: no recording can be trained on, or recordings differ in streams,
        shapes or channels.
    """
    _check_seen(survey)
    _check_kinds(survey)


def _check_seen(survey: Survey) -> None:
    benchmark = survey.source == dataset.BENCHMARK
    if survey.seen and not (benchmark and survey.left_out):
        return
    found = f"{len(survey.seen)} of {len(survey.seen) + len(survey.left_out)}"
    first = survey.left_out[0]
    raise ValueError(
        f"{plain(survey.folder)}: "
        f"{'every' if benchmark else 'at least one'} recording must be usable; got "
        f"{found}, the first of the others {plain(first.what)}: {plain(first.why)}"
    )


def _check_kinds(survey: Survey) -> None:
    alike: list[list[Seen]] = []
    for seen in survey.seen:
        same = next((own for own in alike if own[0].kinds == seen.kinds), None)
        if same is None:
            alike.append([seen])
        else:
            same.append(seen)
    if len(alike) > 1:
        usual, odd, *_ = sorted(alike, key=len, reverse=True)
        name = next(
            name
            for name in sorted({*usual[0].kinds, *odd[0].kinds})
            if usual[0].kinds.get(name) != odd[0].kinds.get(name)
        )
        raise ValueError(
            "recordings of one data set must have the same streams, with the same "
            f"shapes, types and channels; got {name!r} {_kind(odd, name)}, but "
            f"{_kind(usual, name)}; move each kind into a folder of its own, and give "
            "one of them"
        )


def _check_classes(survey: Survey) -> None:
    named = [seen for seen in survey.seen if seen.is_npz and seen.label_names]
    for seen in named[1:]:
        if seen.label_names != named[0].label_names:
            raise ValueError(
                "all files of a data set must name the same classes; got "
                f"{listed(seen.label_names)} in {plain(seen.file)}, but "
                f"{listed(named[0].label_names)} in {plain(named[0].file)}; use one "
                "order for all, or a folder for each"
            )


def _kind(alike: Sequence[Seen], name: str) -> str:
    """Returns what a stream is in recordings of one kind, and which they are."""
    files = plain(alike[0].file)
    if len(alike) > 1:
        files += f" and {len(alike) - 1} more"
    if name not in alike[0].kinds:
        return f"missing in {files}"
    kind = alike[0].kinds[name]
    shape = " x ".join(map(str, kind.shape))
    named = f" ({listed(kind.channel_names)})" if kind.channel_names else ""
    return f"{kind.dtype} {shape}{named} in {files}"
