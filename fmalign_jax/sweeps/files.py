"""What a sweep keeps of each member: the folder of an ordinary run.

SWEEP/config.json          the config and what each member has of its own
SWEEP/checkpoints/         all members together, to go on from
SWEEP/sweep.json           the table
SWEEP/members/NAME/        config.json, metrics.jsonl, tensorboard/, checkpoints/,
                           summary.json: `evaluate` and others take it as a run
"""

from __future__ import annotations

import fnmatch
import itertools
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from fmalign_jax import cli
from fmalign_jax.config.saved import to_json
from fmalign_jax.objectives.total import label_level
from fmalign_jax.run.checkpoints import Checkpoints
from fmalign_jax.run.directory import RunDirectory
from fmalign_jax.sweeps.members import LEAD, Member
from fmalign_jax.training.state import TrainState

INDICATORS = (
    "shared_equal_share",
    "shared_kappa/*",
    "shared_correlation/*",
    "cpc_bound",
    "cpc_accuracy",
    "perplexity/*",
    "equal_share",
    "token_agreement/*",
)
"""Validation values that may tell a lead; a star stands for every modality or pair."""

SHOWN = (*INDICATORS, "loss")
"""Those of the printed table."""


class MemberFolder:
    """The run folder of one member.

    Attributes:
      path: the folder.
      member: the member.
      diverged: why it was given up, None while all its values are finite.
    """

    def __init__(
        self,
        path: pathlib.Path,
        member: Member,
        config: ConfigDict,
        *,
        middle_step: int,
    ) -> None:
        """Opens a new or an interrupted one.

        Args:
          path: the folder.
          member: whose it is.
          config: the member's own.
          middle_step: whose checkpoint is kept, as of a single run.

        Raises:
          ValueError: it holds another run.
        """
        self.path = path
        self.member = member
        self.diverged: str | None = None
        self._settings = to_json(config)
        self._labels = label_level(config)
        self._run = RunDirectory(path, config, write=True)
        self._checkpoints = Checkpoints(self._run.checkpoints, keep_steps=[middle_step])

    def __enter__(self) -> MemberFolder:
        """Takes the folder for this process alone, and returns itself."""
        self._run.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Waits for the last save and closes what is open."""
        self._checkpoints.__exit__(kind, error, trace)
        self._run.__exit__(kind, error, trace)

    def start(self, step: int, *, last_step: int) -> None:
        """Writes the config and forgets what was reported after a step."""
        self._run.start(step, last_step=last_step)

    def log(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Appends the values of a split at a step."""
        self._run.log(step, split, values)

    def save(
        self, state: TrainState, *, data: dict[str, Any], score: float | None
    ) -> None:
        """Saves a state, unless the folder holds its step already.

        It does when a sweep was stopped between the saves of two members; what it then
        computes again is the same.
        """
        if int(state.step) not in self._checkpoints.steps():
            self._checkpoints.save(state, data=data, config=self._settings, score=score)

    def finish(self, step: int, *, steps: int, finished: bool) -> dict[str, Any]:
        """Writes summary.json and returns the member's row of the table."""
        self._checkpoints.wait()
        best = self._checkpoints.best_step()
        row = {
            "step": step,
            "steps": steps,
            "finished": finished and self.diverged is None,
            "diverged": self.diverged,
            "train": self._run.last("train"),
            "validation": self._run.last("validation"),
            "best_step": best,
            "best_score": self._checkpoints.score(best),
        }
        self._run.finish({**row, "labels": self._labels})
        own = {"name": self.member.name, "changes": dict(self.member.changes)}
        return {**own, "run": str(self.path), **row}


def curves_over_leads(members: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the INDICATORS of a sweep as functions of the lead.

    Args:
      members: rows of the table, as `MemberFolder.finish` returns them.

    Returns:
      ``lead_s``, the leads in order; ``curves``, by indicator its mean over the members
      at each of them; ``highest_at_s``, by indicator the lead at which that is highest.
      Empty where members that were validated have fewer than two leads.
    """
    by_lead: dict[float, list[Mapping[str, Any]]] = {}
    for row in members:
        if LEAD in row["changes"] and row["validation"] and row["diverged"] is None:
            by_lead.setdefault(row["changes"][LEAD], []).append(row["validation"])
    if len(by_lead) < 2:
        return {}
    leads_s = sorted(by_lead)
    curves = {
        name: [float(np.mean([v[name] for v in by_lead[s]])) for s in leads_s]
        for name in _measured(INDICATORS, itertools.chain(*by_lead.values()))
    }
    return {
        "lead_s": leads_s,
        "curves": curves,
        "highest_at_s": {n: leads_s[int(np.argmax(c))] for n, c in curves.items()},
    }


def _measured(
    patterns: Sequence[str], measured: Iterable[Mapping[str, Any]]
) -> list[str]:
    """Returns the names that were measured, in the order of the patterns."""
    names = {name: None for values in measured for name in values}
    return [n for pattern in patterns for n in names if fnmatch.fnmatchcase(n, pattern)]


def print_members(table: Mapping[str, Any]) -> None:
    """Prints the last validation of every member, one a line."""
    measured = [row["validation"] or {} for row in table["members"]]
    shown = _measured(SHOWN, measured)
    rows = [["member", "step", *shown, ""]]
    for row, values in zip(table["members"], measured, strict=True):
        cells = [f"{values[name]:.4g}" if name in values else "-" for name in shown]
        note = "" if row["diverged"] is None else "diverged"
        rows.append([row["name"], str(row["step"]), *cells, note])
    if table["leads"]:
        highest_s = table["leads"]["highest_at_s"]
        cells = [f"{highest_s[name]:g}" if name in highest_s else "-" for name in shown]
        rows.append(["highest at lead_s", "", *cells, ""])
    cli.print_table(rows)
