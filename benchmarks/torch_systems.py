"""Train steps of other systems in PyTorch: two towers (CLIP), and a Q-Former.

Each has parameters of the names that ours have, so that they can be copied, and does
what the system of that name does in `fmalign_jax.systems`, with the stems and encoders
of `torch_model` and the optimiser of `torch_step`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from ml_collections import ConfigDict
from torch import Tensor, nn
from torch_model import EPS, Attention, copy_parameters
from torch_step import Model, TorchTrainer, adamw, info_nce

from fmalign_jax.losses import SCALE_START
from fmalign_jax.models.layers import sinusoids


def learned_scale(raw: Tensor) -> Tensor:
    """Returns 100 sigmoid(r)."""
    return 100.0 * torch.sigmoid(raw)


class TwoTowerTrainer(nn.Module):
    """Two towers and a contrast of windows, with one `step(batch)`."""

    term = "clip"

    def __init__(
        self, config: ConfigDict, shapes: Mapping[str, tuple[int, ...]]
    ) -> None:
        """Builds what a config describes.

        Args:
          config: of a run, without augmentation.
          shapes: of one tick by modality, [R, ...].
        """
        super().__init__()
        self.config = config
        self.settings = config.objectives[self.term].to_dict()
        self.model = Model(config, shapes)
        self.raw_scale = nn.Parameter(torch.tensor(SCALE_START))

    def make_optimisers(self) -> None:
        """Creates AdamW, once all parameters are where they shall stay."""
        self.trained = [p for p in self.parameters() if p.requires_grad]
        self.optimizer = adamw(self.trained, self.config.optimizer)

    def copy_from(self, state: Any) -> None:
        """Takes over the parameters of a fmalign_jax TrainState."""
        copy_parameters(self.model, state.params["model"])
        own = state.params["objectives"][self.term]
        self._copy_array(self.raw_scale, own["scale"])

    def ticks(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns the towers' features [B, T, D]."""
        return {
            m: self.model.semantic(m, self.model.stem(m, inputs[m])).float()
            for m in self.model.modalities
        }

    def loss(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Returns the loss of a batch of normalised inputs."""
        z = self.ticks(inputs)
        a, b = (
            F.normalize(z[self.settings[side]].mean(1), dim=-1)
            for side in ("anchor", "positive")
        )
        logits = learned_scale(self.raw_scale) * a @ b.T
        return (info_nce(logits) + info_nce(logits.T)) / 2

    def step(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Takes one training step on normalised inputs and returns the loss."""
        self.train()
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(batch)
        loss.backward()
        nn.utils.clip_grad_norm_(self.trained, self.config.optimizer.clip_norm)
        self.optimizer.step()
        return loss.detach()

    @staticmethod
    def _copy_array(parameter: nn.Parameter, value: Any) -> None:
        with torch.no_grad():
            parameter.copy_(torch.tensor(np.asarray(value)))


class Attend(nn.Module):
    """Attention to keys, with a post-norm residual."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.MultiHeadDotProductAttention_0 = Attention(width, heads, dropout, False)
        self.LayerNorm_0 = nn.LayerNorm(width, eps=EPS)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, keys: Tensor) -> Tensor:
        found = self.MultiHeadDotProductAttention_0(x, keys)
        return self.LayerNorm_0(x + self.drop(found))


class Feed(nn.Module):
    """Linear, ReLU, Linear, with a post-norm residual."""

    def __init__(self, width: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.Dense_0, self.Dense_1 = nn.Linear(width, ffn), nn.Linear(ffn, width)
        self.LayerNorm_0 = nn.LayerNorm(width, eps=EPS)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.drop(F.relu(self.Dense_0(x)))
        return self.LayerNorm_0(x + self.drop(self.Dense_1(inner)))


class QFormerTrainer(TwoTowerTrainer):
    """Queries over the video's ticks, a class token over the current's."""

    term = "query_matching"

    def __init__(
        self, config: ConfigDict, shapes: Mapping[str, tuple[int, ...]]
    ) -> None:
        """Builds what a config describes, as `TwoTowerTrainer`."""
        super().__init__(config, shapes)
        own, width = config.model, config.model.width
        self.blocks = own.get("blocks", 4)
        queries, dropout = own.get("queries", 8), own.dropout
        for i in range(self.blocks):
            setattr(self.model, f"selves_{i}", Attend(width, own.heads, dropout))
            for kind in ("query_feeds", "token_feeds"):
                setattr(self.model, f"{kind}_{i}", Feed(width, own.ffn, dropout))
        for i in range((self.blocks + 1) // 2):
            setattr(self.model, f"crosses_{i}", Attend(width, own.heads, dropout))
        self.queries_start = nn.Parameter(0.02 * torch.randn(queries, width))
        self.class_token = nn.Parameter(0.02 * torch.randn(1, width))
        self.model.key_norm = nn.LayerNorm(width, eps=EPS)
        self.model.input_norm = nn.LayerNorm(width, eps=EPS)
        self.model.query_outer = nn.Linear(width, width)
        self.model.token_outer = nn.Linear(width, width)
        self.model.match_head = nn.Linear(width, 2)
        self.drop = nn.Dropout(dropout)
        ticks = sinusoids(config.data.window_ticks, width)
        self.places: Tensor
        self.register_buffer("places", torch.tensor(np.asarray(ticks)))

    def copy_from(self, state: Any) -> None:
        """Takes over the parameters of a fmalign_jax TrainState."""
        params = dict(state.params["model"])
        self._copy_array(self.raw_scale, params.pop("scale"))
        for name in ("queries_start", "class_token"):
            self._copy_array(getattr(self, name), params.pop(name))
        copy_parameters(self.model, params)

    def loss(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Returns contrast + matching; a wrong pair is drawn by its similarity."""
        ticks = self.ticks(inputs)
        keys = self.model.key_norm(ticks[self.settings["queried"]]) + self.places
        second = ticks[self.settings["other"]] + self.places
        first = self.class_token.expand(len(second), -1, -1)
        tokens = self._entered(torch.cat([first, second], 1))
        queries = self._entered(self.queries_start.expand(len(keys), -1, -1))
        slots = self.model.query_outer(self._run(queries, queries[:, :0], keys)[0])
        slots = F.normalize(slots, dim=-1)
        found = self._run(tokens[:, :0], tokens, keys)[1][:, 0]
        whole = F.normalize(self.model.token_outer(found), dim=-1)
        scale = learned_scale(self.raw_scale)
        logits = scale * torch.einsum("iqd,jd->iqj", slots, whole).amax(1)
        smoothing = self.settings.get("smoothing", 0.1)
        own = torch.arange(len(logits), device=logits.device)
        contrast = sum(
            F.cross_entropy(x, own, label_smoothing=smoothing)
            for x in (logits, logits.T)
        )
        wrong = self._wrong(logits.detach())
        pairs = (
            torch.stack(x, 1).flatten(0, 1) for x in self._pairs(tokens, keys, wrong)
        )
        shown = queries.repeat_interleave(3, 0)
        outer = self.model.match_head(self._run(shown, *pairs)[0]).mean(1)
        answer = torch.tensor([1, 0, 0], device=outer.device).repeat(len(keys))
        return contrast / 2 + F.cross_entropy(outer.float(), answer)

    def _entered(self, x: Tensor) -> Tensor:
        return self.drop(self.model.input_norm(x))

    def _wrong(self, logits: Tensor) -> Sequence[Tensor]:
        """Returns another video of each current, and another current of each video."""
        others = logits.masked_fill(
            torch.eye(len(logits), dtype=torch.bool, device=logits.device), -1e30
        )
        if not self.training:
            return others.T.argmax(-1), others.argmax(-1)
        return tuple(
            torch.multinomial(x.softmax(-1), 1)[:, 0] for x in (others.T, others)
        )

    @staticmethod
    def _pairs(tokens: Tensor, keys: Tensor, wrong: Sequence[Tensor]) -> Any:
        return (tokens, tokens, tokens[wrong[1]]), (keys, keys[wrong[0]], keys)

    def _run(
        self, queries: Tensor, tokens: Tensor, keys: Tensor
    ) -> tuple[Tensor, Tensor]:
        count = queries.shape[1]
        for i in range(self.blocks):
            both = torch.cat([queries, tokens], 1)
            both = getattr(self.model, f"selves_{i}")(both, both)
            queries, tokens = both[:, :count], both[:, count:]
            if count and i % 2 == 0:
                queries = getattr(self.model, f"crosses_{i // 2}")(queries, keys)
            if count:
                queries = getattr(self.model, f"query_feeds_{i}")(queries)
            if tokens.shape[1]:
                tokens = getattr(self.model, f"token_feeds_{i}")(tokens)
        return queries, tokens


TRAINERS = {
    "fmalign_jax.systems.two_tower.TwoTower": TwoTowerTrainer,
    "fmalign_jax.systems.qformer.QFormer": QFormerTrainer,
}
"""By `config.model.name`; CMG has none, and its own trainer."""


def make_trainer(
    config: ConfigDict, shapes: Mapping[str, tuple[int, ...]]
) -> TorchTrainer | TwoTowerTrainer:
    """Returns the train step of a config in PyTorch.

    Raises:
      ValueError: a system that has none.
    """
    name = config.model.get("name")
    if name is None or name.endswith(".Cmg"):
        return TorchTrainer(config, shapes)
    if name not in TRAINERS:
        raise ValueError(
            f"PyTorch forms are there of Cmg, {', '.join(TRAINERS)}; got {name!r}; "
            "measure it without --compare"
        )
    return TRAINERS[name](config, shapes)
