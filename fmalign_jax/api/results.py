"""What a run says of recordings: features and codes, an evaluation, a lead."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from numpy import ndarray

from fmalign_jax.api.frames import frame
from fmalign_jax.evaluation import fonts
from fmalign_jax.evaluation.files import CHANCE, SHOWN, score_rows
from fmalign_jax.evaluation.labelled_windows import window_labels
from fmalign_jax.evaluation.report import scores_of
from fmalign_jax.lead import files as lead_files
from fmalign_jax.structs import UNLABELLED


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Features and codes of windows; N windows of T ticks each.

    Attributes:
      features: by modality [N, T, D], continuous semantic features.
      codes: by modality [N, T], the code of each tick; empty without a codebook.
      code_vectors: [M, D], the vectors of the codes; None without codes.
      shared_codes: by modality [N, S], the shared code of each of S segments of a
        window; empty without a shared level.
      variates: by modality [N, t, r], what the shared level compares; empty without.
      time_s: [N], centre of each window, seconds on the clock of the reference stream.
      recording: [N], name of each window's recording.
      label: [N, T], class of each tick, -1 if unknown.
      label_names: names of the classes, or empty.
    """

    features: Mapping[str, Float[ndarray, "N T D"]]
    codes: Mapping[str, Int[ndarray, "N T"]]
    code_vectors: Float[ndarray, "M D"] | None
    shared_codes: Mapping[str, Int[ndarray, "N S"]]
    variates: Mapping[str, Float[ndarray, "N t r"]]
    time_s: Float[ndarray, " N"]
    recording: tuple[str, ...]
    label: Int[ndarray, "N T"]
    label_names: tuple[str, ...]

    def __repr__(self) -> str:
        """Returns how much there is, of what, and how many codes are used."""
        said = (
            f"{len(self)} windows of {self.label.shape[1]} ticks, "
            f"{len(set(self.recording))} recordings, {' and '.join(self.features)}"
        )
        if self.code_vectors is not None:
            used = set().union(*(own.ravel().tolist() for own in self.codes.values()))
            said += f", {len(used)} of {len(self.code_vectors)} codes used"
        return f"<Encoded {said}>"

    def __len__(self) -> int:
        """Returns the number of windows."""
        return len(self.time_s)

    @property
    def window_label(self) -> Int[ndarray, " N"]:
        """Returns the most frequent known class of each window, -1 if none is known."""
        return window_labels(
            self.label, max(len(self.label_names), self.label.max() + 1)
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns every array by name."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    def to_frame(self) -> Any:
        """Returns a pandas.DataFrame: one row a window.

        Columns: recording, time_s, label (its name, empty if unknown), and by modality
        the codes at which modalities are compared, as `video_code_0`: those of the
        segments of the shared level, else those of the ticks.
        """
        label = self.window_label
        names = self.label_names or tuple(map(str, range(label.max(initial=0) + 1)))
        columns: dict[str, Any] = {
            "recording": list(self.recording),
            "time_s": self.time_s,
            "label": [names[c] if c != UNLABELLED else "" for c in label],
        }
        for modality, codes in (self.shared_codes or self.codes).items():
            for place in range(codes.shape[1]):
                columns[f"{modality}_code_{place}"] = codes[:, place]
        return frame(columns)

    def plot(self, recording: str | None = None) -> Figure:
        """Draws the codes of each modality over time, above the label.

        Args:
          recording: whose; by default the first.

        Raises:
          ValueError: there is no such recording, or the system has no codes.
        """
        codes = self.shared_codes or self.codes
        if not codes:
            raise ValueError(
                "codes are drawn; got a system without codes; use `features`"
            )
        name = self.recording[0] if recording is None else recording
        rows = np.array([own == name for own in self.recording])
        if not rows.any():
            known = ", ".join(dict.fromkeys(self.recording))
            raise ValueError(
                f"recording must be one of {known}; got {name!r}; correct the name"
            )
        label = self.window_label[rows]
        known = label != UNLABELLED
        with fonts.readable([name, *self.label_names]) as shown:
            figure = Figure(figsize=(10, 1.2 + 1.3 * (len(codes) + known.any())))
            panels = figure.subplots(
                len(codes) + int(known.any()), 1, sharex=True, squeeze=False
            )[:, 0]
            for axes, (modality, own) in zip(panels, codes.items(), strict=False):
                places = own.shape[1]
                for place in range(places):
                    axes.plot(self.time_s[rows], own[rows, place], ".", color="C0")
                axes.set_ylabel(f"{modality}\ncode")
            if known.any():
                panels[-1].step(
                    self.time_s[rows][known], label[known], where="mid", color="black"
                )
                panels[-1].set_ylabel("label")
                if self.label_names:
                    panels[-1].set_yticks(
                        range(len(self.label_names)),
                        [shown[own] for own in self.label_names],
                    )
            panels[0].set_title(shown[name])
            panels[-1].set_xlabel("time of the window's centre, s")
            figure.set_layout_engine("constrained")
            figure.draw_without_rendering()
        return figure


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A head learnt on one modality and applied to the other, with references.

    Attributes:
      report: what eval.json holds (docs/evaluation.md).
      folder: where it was written, with predictions and pictures.
    """

    report: Mapping[str, Any]
    folder: pathlib.Path

    def __repr__(self) -> str:
        """Returns the folder and the balanced accuracy from source to target."""
        accuracy, split = self.transfer, self.report["headline_split"]
        found = "-" if accuracy is None else f"{accuracy:.3f}"
        return (
            f"<Evaluation {self.folder}, {self.report['source']}->"
            f"{self.report['target']} balanced accuracy {found} on {split}>"
        )

    @property
    def transfer(self) -> float | None:
        """Returns the balanced accuracy from source to target, headline split."""
        direction = f"{self.report['source']}->{self.report['target']}"
        found: float | None = scores_of(self.report)[direction]["balanced_accuracy"]
        return found

    def to_dict(self) -> dict[str, Any]:
        """Returns what eval.json holds."""
        return dict(self.report)

    def to_frame(self) -> Any:
        """Returns a pandas.DataFrame: the rows of the table that the command prints.

        Columns: what, split, and the metrics: accuracy, balanced_accuracy, f1, auroc,
        fdr (false detection rate) and mdr (missed detection rate), each with the ends
        of its 95 % interval, as `f1_low` and `f1_high`, NaN where there is none.
        """
        rows = score_rows(self.report)
        columns: dict[str, Any] = {
            "what": [what for what, _, _ in rows],
            "split": [split for _, split, _ in rows],
        }
        for metric in SHOWN:
            values = [own.get(metric) for _, _, own in rows]
            ends = [own.get("intervals", {}).get(metric) for _, _, own in rows]
            columns[metric] = [np.nan if v is None else v for v in values]
            for name, end in (("low", 0), ("high", 1)):
                columns[f"{metric}_{name}"] = [e[end] if e else np.nan for e in ends]
        return frame(columns)

    def plot(self) -> Figure:
        """Draws the balanced accuracy of each direction and reference.

        Bars end at the value on the headline split, lines are 95 % intervals.
        """
        metric = "balanced_accuracy"
        headline = self.report["headline_split"]
        rows = [
            (what, own)
            for what, split, own in score_rows(self.report)
            if split == headline and own.get(metric) is not None and what != CHANCE
        ]
        figure = Figure(figsize=(8, 1.2 + 0.4 * len(rows)), layout="constrained")
        axes = figure.subplots()
        for place, (what, own) in enumerate(rows):
            colour = "C0" if "->" in what and " " not in what else "0.6"
            axes.barh(place, own[metric], color=colour)
            interval = own.get("intervals", {}).get(metric)
            if interval:
                axes.plot(interval, [place, place], color="black")
        axes.axvline(
            self.report["references"]["chance"], color="C3", label=CHANCE, ls=":"
        )
        axes.set_yticks(range(len(rows)), [what for what, _ in rows])
        axes.invert_yaxis()
        axes.set(xlim=(0, 1), xlabel=f"balanced accuracy, {headline} split")
        axes.legend()
        return figure


@dataclasses.dataclass(frozen=True)
class Lead:
    """How far one stream is ahead of the other, with all its evidence.

    Attributes:
      report: what lead_time.json holds (docs/lead.md).
      folder: where it was written.
    """

    report: Mapping[str, Any]
    folder: pathlib.Path

    def __repr__(self) -> str:
        """Returns the folder and the lead with its interval, or why there is none."""
        found = self.verdict
        if self.interval_s is not None:
            low, high = self.interval_s
            found = f"{self.lead_s:.4g} s [{low:.4g}, {high:.4g}]"
        return f"<Lead {self.folder}, {found}>"

    @property
    def lead_s(self) -> float | None:
        """Returns the lead in seconds; None where no lead was found."""
        found: float | None = self.report["estimate_s"]
        return found

    @property
    def interval_s(self) -> tuple[float, float] | None:
        """Returns its 95 % interval in seconds; None where no lead was found."""
        if self.report["estimate_s"] is None:
            return None
        low, high = self.report["interval_s"]
        return low, high

    @property
    def verdict(self) -> str:
        """Returns whether a lead was found, in words."""
        return str(self.report["verdict"])

    def to_dict(self) -> dict[str, Any]:
        """Returns what lead_time.json holds."""
        return dict(self.report)

    def to_frame(self) -> Any:
        """Returns a pandas.DataFrame: one row a lead, one column an indicator."""
        curves = {
            name: [np.nan if value is None else value for value in own["curve"]]
            for name, own in self.report["indicators"].items()
        }
        return frame({"lead_s": self.report["lead_s"], **curves})

    def plot(self) -> Figure:
        """Draws each indicator over the lead, the one that counts in colour."""
        return lead_files.lead_figure(lead_files.answer(self.report), self.report)
