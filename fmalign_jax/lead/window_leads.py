"""What single windows say of the lead: a report beside the curve of all of them.

The window of the reference stands still, and the one of the leading modality slides
back. s_i(k) is the cosine of their mean features with the leading one k ticks earlier.
Every window has a lead at which it is highest, whether there is one or not; so the same
is said of a wrong pairing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from fmalign_jax.lead.indicators import placed_window_means
from fmalign_jax.lead.layout import Layout
from fmalign_jax.lead.statistics import Rearrangement

NEAR_S = 30.0


def describe(
    layout: Layout,
    wrong: Rearrangement | None,
    *,
    window_ticks: int,
    tick_s: float,
    estimate_s: float | None,
) -> dict[str, Any] | None:
    """Returns where single windows find the lead, and where those of no pair do.

    Windows that do not overlap and know the leading modality at every lead. None where
    the two have no space in common, as features and labels.

    Args:
      layout: from `layout.layout`.
      wrong: a wrong pairing; None where there is none.
      window_ticks: ticks in a window.
      tick_s: length of a tick.
      estimate_s: the answer of the search; None if it found no lead.
    """
    first = layout.clips[0]
    if first.reference.semantic.shape[1] != first.leading.semantic.shape[1]:
        return None
    x, y, known_x, known_y = placed_window_means(layout, window_ticks)
    pairings = {"paired": (y, known_y)}
    if wrong is not None:
        rows = wrong.source[:, None], wrong.position
        pairings["wrong_pairing"] = (y[rows], known_y[rows] & wrong.known)
    return {
        name: _of_pairing(
            similarities(x, values, known_x, known, layout.leads, window_ticks),
            layout.lead_s,
            tick_s,
            estimate_s,
        )
        for name, (values, known) in pairings.items()
    }


def similarities(
    x: Float[ndarray, "S n D"],
    y: Float[ndarray, "S n D"],
    known_x: Bool[ndarray, "S n"],
    known_y: Bool[ndarray, "S n"],
    leads: Int[ndarray, " L"],
    window_ticks: int,
) -> Float[ndarray, "W L"]:
    """Returns s_i(k) of the windows that do not overlap and have a value at every lead.

    Args:
      x: unit means of the window around each tick, of the reference.
      y: the same of the leading modality.
      known_x: where a whole window of the reference is known.
      known_y: the same of the leading modality.
      leads: k, in ticks.
      window_ticks: from one window to the next.
    """
    found = []
    for row in range(len(x)):
        centres = np.arange(window_ticks // 2, x.shape[1], window_ticks)
        partners = centres[:, None] - leads
        inside = (partners >= 0) & (partners < x.shape[1])
        partners = np.clip(partners, 0, x.shape[1] - 1)
        whole = known_x[row, centres] & (known_y[row, partners] & inside).all(axis=1)
        own, partners = x[row, centres[whole]], partners[whole]
        # Lead by lead: the vectors of all leads at once may be many.
        columns = [(own * y[row, at]).sum(axis=-1) for at in partners.T]
        found.append(np.stack(columns, axis=1))
    return np.concatenate(found)


def _of_pairing(
    similarity: Float[ndarray, "W L"],
    lead_s: Float[ndarray, " L"],
    tick_s: float,
    estimate_s: float | None,
) -> dict[str, Any]:
    """Returns the histogram over leads, and how many windows are near a lead.

    `shares` are of the highest point of the mean curve and of the answer; `chance`
    beside each is the share of all leads that lie as near.
    """
    if not len(similarity):
        return {"windows": 0}
    best = similarity.argmax(axis=1)
    around = {"mean_curve": float(lead_s[similarity.mean(axis=0).argmax()])}
    if estimate_s is not None:
        around["answer"] = estimate_s
    shares = {}
    for name, centre_s in around.items():
        away_s = np.abs(lead_s - centre_s)
        shares[name] = {"lead_s": centre_s}
        for label, width_s in (("one_tick", tick_s), ("30_s", NEAR_S)):
            near = away_s <= width_s + 1e-6
            shares[name][label] = float(near[best].mean())
            shares[name][f"chance_{label}"] = float(near.mean())
    return {
        "windows": len(similarity),
        "histogram": np.bincount(best, minlength=len(lead_s)).tolist(),
        "best_cosine": float(similarity.max(axis=1).mean()),
        "mean_cosine": float(similarity.mean()),
        "shares": shares,
    }
