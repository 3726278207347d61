"""One training update of FmFormer, ours beside the same in PyTorch eager.

    python benchmarks/fmformer_step.py --classifier fmformer_current --out fmformer.json

Inputs are made up, of the sizes of configs/pretrain.py, and nothing is augmented. Both
do forward, backward, clipping and AdamW on the same batch, in turn within one run; what
counts is the ratio. It needs the extra `bench`.
"""

from __future__ import annotations

import argparse
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import cases
import jax
import measure
import numpy as np
import torch
import torch.nn.functional as F
from ml_collections import ConfigDict
from torch_fmformer import FmFormer

from fmalign_jax.cli import set_up_jax
from fmalign_jax.data.files import write_text
from fmalign_jax.evaluation import supervised
from fmalign_jax.training import preprocess, sharding

CLASSES = 2
UPDATES = 1000  # of the schedule of the learning rate


class Update:
    """Our update, called again and again on the same batch."""

    def __init__(
        self, entry: Mapping[str, Any], config: ConfigDict, batch: int
    ) -> None:
        """Builds the classifier of a config's entry and its first state."""
        config.batch_size = batch
        case = cases.make_case(config, sharding.one_device_mesh())
        self.clip_norm = config.optimizer.clip_norm
        self.network, self.training = supervised.named_classifier(
            entry, config, case.state.statistics, classes=CLASSES
        )
        optimizer = supervised.make_optimizer(config, self.training, UPDATES)
        self.streams = jax.device_get(
            {m: case.batch["streams"][m] for m in self.network.modalities}
        )
        self.labels = np.arange(batch) % CLASSES
        self.key = jax.random.key(0)
        params = self.network.classifier.init(self.key, self.streams)
        self.state = params, optimizer.init(params)
        self.update = supervised.make_update(
            self.network, optimizer, np.ones(CLASSES, np.float32)
        )

    def __call__(self) -> Any:
        """Updates once."""
        self.state = self.update(self.state, self.key, self.streams, self.labels)
        return self.state


class TorchUpdate:
    """The same in PyTorch."""

    def __init__(self, ours: Update) -> None:
        """Copies the classifier, its parameters and the batch of ours."""
        shapes = {m: x.shape[1:] for m, x in ours.streams.items()}
        self.model = FmFormer(ours.network.classifier.module, shapes)
        self.model.copy_from(jax.device_get(ours.state[0]))
        values = preprocess.normalise(ours.streams, ours.network.statistics)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model.to(device)
        self.batch = {
            m: torch.tensor(np.asarray(x), device=device) for m, x in values.items()
        }
        self.labels = torch.tensor(ours.labels, device=device)
        self.clip_norm = ours.clip_norm
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=ours.training.learning_rate,
            weight_decay=ours.training.weight_decay,
        )

    def __call__(self) -> torch.Tensor:
        """Updates once and returns the loss."""
        loss = F.cross_entropy(self.model(self.batch), self.labels)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.optimizer.step()
        return loss

    @staticmethod
    def wait(loss: torch.Tensor) -> None:
        """Returns when the device is done."""
        if loss.is_cuda:
            torch.cuda.synchronize()


def compare(name: str, batch: int, budget_s: float) -> dict[str, Any]:
    """Measures both in turn, for so long altogether."""
    config = cases.load_config("configs/pretrain.py")
    cases.without_augmentation(config)
    entry = cases.load_config("configs/evaluate.py:fmformer").classifiers[name]
    ours = Update(entry.to_dict(), config, batch)
    theirs = TorchUpdate(ours)
    for _ in range(2):  # compiles
        ours()
        theirs()
    found = measure.beside(ours, theirs, wait=theirs.wait, budget_s=budget_s)
    return {"classifier": name, "batch": batch, **found}


def main() -> None:
    """Measures the classifiers of the command line."""
    known = sorted(cases.load_config("configs/evaluate.py:fmformer").classifiers)
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--classifier", nargs="*", choices=known, default=known)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--budget-s", type=float, default=40.0, help="of each")
    parser.add_argument("--out", type=pathlib.Path, help="a .json file")
    arguments = parser.parse_args()
    set_up_jax()
    found: dict[str, Any] = {"made_with": measure.provenance(), "torch": []}
    for name in arguments.classifier:
        row = compare(name, arguments.batch, arguments.budget_s)
        found["torch"].append(row)
        low, high = row["ratio"]["quartiles"]
        print(
            f"{name}, batch {row['batch']}: PyTorch {measure.shown(row['torch'])} ms, "
            f"ours {measure.shown(row['ours'])} ms, "
            f"ratio {row['ratio']['median']:.2f} ({low:.2f}, {high:.2f})",
            flush=True,
        )
        if arguments.out:
            write_text(arguments.out, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
