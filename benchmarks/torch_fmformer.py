"""FmFormer in PyTorch, to compare the speed of one and the same update.

Submodules carry the names that Flax gives in `fmalign_jax.models.fmformer`, so that
`copy_parameters` finds them; tests/test_torch_fmformer.py holds both to the same
numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_model import copy_parameters

from fmalign_jax.models import fmformer

EPS = 1e-5  # of every norm, as published
TUBELET = (2, 8, 8)


def tubelets(frames: Tensor) -> Tensor:
    """Cuts a video [B, F, H, W, C] into blocks, each one vector [B, n, V]."""
    b, frame_count, height, width, channels = frames.shape
    p, q, r = TUBELET
    cut = frames.reshape(
        b, frame_count // p, p, height // q, q, width // r, r, channels
    )
    return cut.permute(0, 1, 3, 5, 2, 4, 6, 7).flatten(4).flatten(1, 3)


class Tokens(nn.Module):
    """LayerNorm, Linear, LayerNorm and learned positions of some vectors."""

    def __init__(self, count: int, inputs: int, width: int, *, norm: bool) -> None:
        super().__init__()
        if norm:
            self.norm_inputs = nn.LayerNorm(inputs, EPS)
        self.linear = nn.Linear(inputs, width)
        self.norm_tokens = nn.LayerNorm(width, EPS)
        self.positions = nn.Parameter(torch.randn(count, width))

    def forward(self, x: Tensor) -> Tensor:
        if hasattr(self, "norm_inputs"):
            x = self.norm_inputs(x)
        return self.norm_tokens(self.linear(x)) + self.positions


class FeedForward(nn.Module):
    """LayerNorm, Linear, GELU, Linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.LayerNorm_0 = nn.LayerNorm(width, EPS)
        self.Dense_0 = nn.Linear(width, hidden)
        self.Dense_1 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.Dense_1(F.gelu(self.Dense_0(self.LayerNorm_0(x))))


class Attention(nn.Module):
    """Attention of each stream to itself, or of two streams to each other."""

    def __init__(self, streams: tuple[str, ...], width: int, heads: int) -> None:
        super().__init__()
        self.streams, self.heads = streams, heads
        for name in streams:
            setattr(self, f"{name}_norm", nn.LayerNorm(width, EPS))
            setattr(self, f"{name}_qkv", nn.Linear(width, 3 * width, bias=False))
            setattr(self, f"{name}_out", nn.Linear(width, width))

    def forward(self, x: Mapping[str, Tensor], *, crossed: bool) -> dict[str, Tensor]:
        made = {}
        for name in self.streams:
            part = getattr(self, f"{name}_qkv")(getattr(self, f"{name}_norm")(x[name]))
            split = part.unflatten(-1, (3, self.heads, -1))
            made[name] = split.permute(2, 0, 3, 1, 4)
        found = {}
        for name in self.streams:
            other = next(n for n in self.streams if n != name) if crossed else name
            mixed = F.scaled_dot_product_attention(made[name][0], *made[other][1:])
            joined = mixed.transpose(1, 2).flatten(2)
            found[name] = getattr(self, f"{name}_out")(joined)
        return found


class FmFormer(nn.Module):
    """Class logits [B, K] of windows, from one modality or from two."""

    def __init__(
        self, ours: fmformer.FmFormer, shapes: Mapping[str, tuple[int, ...]]
    ) -> None:
        """Builds what ours is.

        Args:
          ours: the Linen module, for its sizes.
          shapes: of one window by modality, [T, R, ...].
        """
        super().__init__()
        self.ours, width = ours, ours.width
        streams: list[str] = []
        if ours.video:
            streams.append("video")
            ticks, samples, *frame, channels = shapes[ours.video]
            blocks = len(range(0, ticks * samples, ours.frame_stride)) // TUBELET[0]
            size = int(np.prod(TUBELET)) * channels
            area = frame[0] * frame[1] // (TUBELET[1] * TUBELET[2])
            self.patches = Tokens(blocks * area, size, width, norm=True)
            if ours.dilated:
                self.dilated = Tokens(blocks * area // 4, size, width, norm=True)
        if ours.current:
            streams.append("current")
            ticks, samples, channels = shapes[ours.current]
            self.samples = Tokens(
                ticks * samples, channels, width, norm=ours.phase_layer_norm
            )
        self.streams = tuple(streams)
        for name in streams:
            for part in ("class", "class_position"):
                start = nn.Parameter(torch.randn(1, width))
                self.register_parameter(f"{name}_{part}", start)
            setattr(self, f"{name}_norm", nn.LayerNorm(width, EPS))
            setattr(self, f"{name}_head", nn.Linear(width, ours.classes))
        for i in range(ours.depth):
            for kind in ("self", "cross")[: len(streams)]:
                attend = Attention(self.streams, width, ours.heads)
                setattr(self, f"{kind}_{i}", attend)
            for name in streams:
                setattr(self, f"{name}_feed_{i}", FeedForward(width, ours.hidden))

    def copy_from(self, params: Mapping[str, Any]) -> None:
        """Takes over the parameters of ours."""
        modules = {k: v for k, v in params.items() if isinstance(v, Mapping)}
        with torch.no_grad():
            for name in params.keys() - modules.keys():
                getattr(self, name).copy_(torch.tensor(np.asarray(params[name])))
            for name, own in modules.items():
                below = dict(own)
                if "positions" in below:
                    positions = torch.tensor(np.asarray(below.pop("positions")))
                    getattr(self, name).positions.copy_(positions)
                copy_parameters(getattr(self, name), below)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        x = {}
        if self.ours.video:
            frames = inputs[self.ours.video].flatten(1, 2)[:, :: self.ours.frame_stride]
            tokens = [self.patches(tubelets(frames))]
            if self.ours.dilated:
                tokens.append(self.dilated(tubelets(frames[:, :, ::2, ::2])))
            x["video"] = torch.cat([self._first("video", len(frames)), *tokens], 1)
        if self.ours.current:
            samples = inputs[self.ours.current].flatten(1, 2)
            first = self._first("current", len(samples))
            x["current"] = torch.cat([first, self.samples(samples)], 1)
        for i in range(self.ours.depth):
            for kind in ("self", "cross")[: len(x)]:
                more = getattr(self, f"{kind}_{i}")(x, crossed=kind == "cross")
                x = {name: x[name] + more[name] for name in x}
            x = {
                name: y + getattr(self, f"{name}_feed_{i}")(y) for name, y in x.items()
            }
        logits = [
            getattr(self, f"{name}_head")(getattr(self, f"{name}_norm")(y[:, 0]))
            for name, y in x.items()
        ]
        return torch.stack(logits).sum(0)

    def _first(self, name: str, rows: int) -> Tensor:
        own = getattr(self, f"{name}_class") + getattr(self, f"{name}_class_position")
        return own.expand(rows, 1, -1)
