"""The model in PyTorch, to compare the speed of one and the same work.

Written from the equations as fmalign_jax is, in the form PyTorch users write: maps are
[N, C, H, W], and attention and LSTMs are PyTorch's own. Submodules carry the names that
Flax gives, so that `copy_parameters` finds them; tests/test_torch_reference.py holds
both to the same numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-6  # of every norm, as in Flax

CLASSES: dict[str, type[nn.Module]] = {}


def part(cls: type[nn.Module]) -> type[nn.Module]:
    """Registers a class under its own name, by which a config's entry finds it."""
    CLASSES[cls.__name__] = cls
    return cls


def build(entry: Mapping[str, Any], *shapes: Any) -> nn.Module:
    """Builds a part of a config's entry, given the shapes of what it will read."""
    options = {k: v for k, v in entry.items() if k != "name"}
    name = entry["name"].rpartition(".")[2]
    if name not in CLASSES:
        raise ValueError(
            f"the PyTorch reference knows the parts {', '.join(sorted(CLASSES))}; got "
            f"{name}; compare a config without it"
        )
    return CLASSES[name](*shapes, **options)


class Conv(nn.Module):
    """A convolution of maps with XLA's "SAME" padding, or none."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, pad: str = "same"
    ) -> None:
        super().__init__()
        self.layer = nn.Conv2d(inputs, outputs, kernel, stride)
        self.pad = pad

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.layer.kernel_size[0], self.layer.stride[0]
        if self.pad == "same":
            pads: list[int] = []
            for size in (x.shape[-1], x.shape[-2]):
                total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
                pads += [total // 2, total - total // 2]
            x = F.pad(x, pads) if any(pads) else x
        return self.layer(x)


class ResidualBlock(nn.Module):
    def __init__(self, channels: int, features: int) -> None:
        super().__init__()
        self.Conv_0 = Conv(channels, features, 3)
        self.Conv_1 = Conv(features, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.Conv_1(F.relu(self.Conv_0(F.relu(x))))


@part
class FeatureStem(nn.Module):
    """[B, T, 1, ...] -> [B, T, ...]; maps as [B, T, C, h, w]."""

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = (shape[-1], *shape[1:-1])

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, 0]
        return x.movedim(-1, 2) if x.ndim == 5 else x


@part
class FrameStem(nn.Module):
    """[B, T, R, H, W, C] -> [B, T, F, h, w]."""

    def __init__(
        self,
        shape: Sequence[int],
        features: Sequence[int] = (32, 64, 128),
        strides: Sequence[int] = (4, 2, 1),
        norm: str = "group",
        differences: bool = False,
        overlap: bool = True,
    ) -> None:
        super().__init__()
        r, h, w, c = shape
        self.differences, self.group = differences, norm == "group"
        widths = [r * c * (1 + differences), *features]
        self.names: list[str] = []
        for i, (width, stride) in enumerate(zip(features, strides, strict=True)):
            if i and overlap:
                name, layer = f"Conv_{i - 1}", Conv(widths[i], width, 3, stride)
            else:  # a patch through one Linear is a strided convolution
                name, layer = f"Dense_{i}", nn.Conv2d(widths[i], width, stride, stride)
            self.names.append(name)
            setattr(self, name, layer)
            norm_layer = nn.GroupNorm(int(np.gcd(8, width)), width, eps=EPS)
            setattr(self, f"GroupNorm_{i}", norm_layer)
        side = int(np.prod(strides))
        self.shape = (features[-1], -(-h // side), -(-w // side))

    def forward(self, x: Tensor) -> Tensor:
        b, t, r, h, w, c = x.shape
        x = x.permute(0, 1, 2, 5, 3, 4).reshape(b, t, r * c, h, w)
        if self.differences:
            change = torch.diff(x, dim=1, prepend=x[:, :1])
            x = torch.cat([x, change], dim=2)
        x = x.flatten(0, 1)
        for i, name in enumerate(self.names):
            x = getattr(self, name)(x)
            x = F.relu(getattr(self, f"GroupNorm_{i}")(x) if self.group else x)
        return x.unflatten(0, (b, t))


@part
class SensorStem(nn.Module):
    """[B, T, R, C] -> [B, T, F]."""

    def __init__(
        self, shape: Sequence[int], features: Sequence[int] = (64, 128), kernel: int = 5
    ) -> None:
        super().__init__()
        r, c = shape
        self.reach = max(1, r // 2)
        self.margin = (kernel - 1) // 2
        self.Conv_0 = nn.Conv1d(c, features[0], kernel)
        self.Conv_1 = nn.Conv1d(features[0], features[1], r + 2 * self.reach, r)
        self.shape = (features[1],)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1, 2).transpose(1, 2)
        x = F.relu(self.Conv_0(F.pad(x, [self.margin] * 2, mode="reflect")))
        x = F.relu(self.Conv_1(F.pad(x, [self.reach] * 2, mode="reflect")))
        return x.transpose(1, 2)


@part
class AttentivePool(nn.Module):
    """[B, T, C, h, w] -> [B, T, C] by channel and spatial attention."""

    def __init__(
        self, shape: Sequence[int], width: int = 256, reduction: int = 8
    ) -> None:
        super().__init__()
        c = shape[0]
        squeezed = max(1, c // reduction)
        self.Dense_0, self.Dense_1 = nn.Linear(c, squeezed), nn.Linear(squeezed, c)
        self.Dense_2, self.Dense_3 = nn.Linear(c, width), nn.Linear(c, width)
        self.Dense_4 = nn.Linear(width, 1)
        self.shape = (c,)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(3).transpose(2, 3)
        squeezed = F.relu(self.Dense_0(x.mean(2)))
        x = x * (1 + torch.sigmoid(self.Dense_1(squeezed)))[:, :, None]
        pooled = F.relu(self.Dense_2(x.mean(2)))[:, :, None]
        places = F.relu(self.Dense_3(x))
        scores = torch.tanh(self.Dense_4(pooled * places))[..., 0]
        return torch.einsum("btp,btpc->btc", torch.softmax(scores, -1), x)


@part
class MaxPool(nn.Module):
    """[B, T, C, h, w] -> [B, T, C]."""

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = shape[:1]

    def forward(self, x: Tensor) -> Tensor:
        return x.amax((3, 4))


class Attention(nn.Module):
    """Multi-head attention to itself or to keys, with dropout of its weights."""

    def __init__(self, width: int, heads: int, dropout: float, causal: bool) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.heads, self.dropout, self.causal = heads, dropout, causal

    def forward(self, x: Tensor, keys: Tensor | None = None) -> Tensor:
        keys = x if keys is None else keys
        q, k, v = (
            layer(given).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, given in ((self.query, x), (self.key, keys), (self.value, keys))
        )
        rate = self.dropout if self.training else 0.0
        found = F.scaled_dot_product_attention(
            q, k, v, dropout_p=rate, is_causal=self.causal
        )
        return self.out(found.transpose(1, 2).flatten(2))


class TransformerLayer(nn.Module):
    def __init__(
        self, width: int, heads: int, ffn: int, dropout: float, causal: bool
    ) -> None:
        super().__init__()
        self.MultiHeadDotProductAttention_0 = Attention(width, heads, dropout, causal)
        self.LayerNorm_0 = nn.LayerNorm(width, eps=EPS)
        self.LayerNorm_1 = nn.LayerNorm(width, eps=EPS)
        self.Dense_0, self.Dense_1 = nn.Linear(width, ffn), nn.Linear(ffn, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.LayerNorm_0(x + self.drop(self.MultiHeadDotProductAttention_0(x)))
        inner = self.drop(F.relu(self.Dense_0(x)))
        return self.LayerNorm_1(x + self.drop(self.Dense_1(inner)))


class SemanticEncoder(nn.Module):
    """[B, T, C] -> [B, T, D]."""

    def __init__(
        self,
        inputs: int,
        width: int,
        layers: int,
        heads: int = 4,
        ffn: int = 256,
        dropout: float = 0.1,
        positions: str = "none",
        causal: bool = False,
    ) -> None:
        super().__init__()
        if positions != "none":
            raise ValueError(
                f"the PyTorch reference has no positions; got positions={positions!r}; "
                "compare a config with positions='none'"
            )
        self.projection = nn.Linear(inputs, width)
        self.layers = layers
        for i in range(layers):
            layer = TransformerLayer(width, heads, ffn, dropout, causal)
            setattr(self, f"TransformerLayer_{i}", layer)

    def forward(self, x: Tensor) -> Tensor:
        x = self.projection(x)
        for i in range(self.layers):
            x = getattr(self, f"TransformerLayer_{i}")(x)
        return x


@part
class ConvSpecific(nn.Module):
    """[B, T, C, h, w] -> map [B, T, F, h', w'] and summary [B, T, C]."""

    def __init__(
        self,
        shape: Sequence[int],
        features: Sequence[int] = (1024, 2048),
        residual: int = 1024,
    ) -> None:
        super().__init__()
        c, h, w = shape
        widths = [c, *features]
        self.convs = len(features)
        for i in range(self.convs):
            setattr(self, f"Conv_{i}", Conv(widths[i], widths[i + 1], 3, pad="none"))
        last = features[-1]
        setattr(self, f"Conv_{self.convs}", Conv(last, last, 1))
        self.ResidualBlock_0 = ResidualBlock(last, residual)
        self.Dense_0, self.Dense_1 = nn.Linear(last, last), nn.Linear(last, c)
        self.shape = (last, h - 2 * self.convs, w - 2 * self.convs)
        self.summary = c

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        b, t = x.shape[:2]
        x = x.flatten(0, 1)
        for i in range(self.convs):
            x = F.relu(getattr(self, f"Conv_{i}")(x))
        x = self.ResidualBlock_0(getattr(self, f"Conv_{self.convs}")(x))
        x = x.unflatten(0, (b, t))
        return x, self.Dense_1(F.relu(self.Dense_0(x.mean((3, 4)))))


@part
class PatchSpecific(nn.Module):
    """[B, T, C, h, w] -> map [B, T, F, h', w'] and summary [B, T, C]."""

    def __init__(
        self, shape: Sequence[int], features: Sequence[int] = (64, 64), side: int = 2
    ) -> None:
        super().__init__()
        c, h, w = shape
        first, last = features
        self.Dense_0 = nn.Conv2d(c, first, side, side)
        self.Dense_1 = nn.Conv2d(first, last, 1)
        self.Dense_2, self.Dense_3 = nn.Linear(last, last), nn.Linear(last, c)
        self.shape, self.summary = (last, h // side, w // side), c

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        b, t = x.shape[:2]
        x = self.Dense_1(F.relu(self.Dense_0(x.flatten(0, 1)))).unflatten(0, (b, t))
        return x, self.Dense_3(F.relu(self.Dense_2(x.mean((3, 4)))))


@part
class DenseSpecific(nn.Module):
    """[B, T, C] -> the features and, again, their summary."""

    def __init__(self, shape: Sequence[int], features: int = 256) -> None:
        super().__init__()
        self.Dense_0 = nn.Linear(shape[0], features)
        self.shape, self.summary = (features,), features

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.Dense_0(x))
        return x, x


def beside(code: Tensor, specific: Tensor) -> Tensor:
    """Lays the code vector [N, E] beside a map [N, F, h, w] at every position."""
    code = code[:, :, None, None].expand(-1, -1, *specific.shape[2:])
    return torch.cat([code, specific], dim=1)


@part
class ConvDecoder(nn.Module):
    """Maps by transposed convolutions."""

    def __init__(
        self,
        width: int,
        specific: Sequence[int],
        inputs: Sequence[int],
        features: Sequence[int] = (1024, 2048),
        residual: int = 1024,
    ) -> None:
        super().__init__()
        last = features[-1]
        self.Dense_0 = nn.Linear(width, last)
        self.Conv_0 = Conv(last + specific[0], last, 1)
        self.ResidualBlock_0 = ResidualBlock(last, residual)
        widths = [*reversed(features), inputs[-1]]
        self.convs = len(features)
        for i in range(self.convs):
            layer = nn.ConvTranspose2d(widths[i], widths[i + 1], 3)
            setattr(self, f"WideningConv_{i}", layer)

    def forward(self, quantized: Tensor, specific: Tensor, inputs: Tensor) -> Any:
        x = beside(self.Dense_0(quantized.flatten(0, 1)), specific.flatten(0, 1))
        x = F.relu(self.ResidualBlock_0(self.Conv_0(x)))
        for i in range(self.convs):
            x = getattr(self, f"WideningConv_{i}")(F.relu(x) if i else x)
        return x.unflatten(0, inputs.shape[:2]), inputs[:, :, 0].movedim(-1, 2)


@part
class FrameDecoder(nn.Module):
    """A tick's frames at reduced size."""

    def __init__(
        self,
        width: int,
        specific: Sequence[int],
        inputs: Sequence[int],
        target_size: int = 16,
        features: int = 64,
        overlap: bool = True,
    ) -> None:
        super().__init__()
        self.size, self.patch = target_size, target_size // specific[1]
        self.Dense_0 = nn.Linear(width, features)
        self.Conv_0 = Conv(features + specific[0], features, 3 if overlap else 1)
        self.Dense_1 = nn.Linear(features, self.patch**2 * inputs[0] * inputs[-1])

    def forward(self, quantized: Tensor, specific: Tensor, inputs: Tensor) -> Any:
        b, t, r, h, w, c = inputs.shape
        side, patch, size = specific.shape[-1], self.patch, self.size
        code = self.Dense_0(quantized.flatten(0, 1))
        x = F.relu(self.Conv_0(beside(code, specific.flatten(0, 1))))
        x = self.Dense_1(x.permute(0, 2, 3, 1))
        x = x.reshape(-1, side, side, patch, patch, r * c).transpose(2, 3)
        x = x.reshape(b, t, size, size, r, c)
        blocks = inputs.reshape(b, t, r, size, h // size, size, w // size, c)
        return x.movedim(4, 2), blocks.mean((4, 6))


@part
class DenseDecoder(nn.Module):
    """Samples or vectors by Linear layers."""

    def __init__(
        self,
        width: int,
        specific: Sequence[int],
        inputs: Sequence[int],
        features: int = 256,
    ) -> None:
        super().__init__()
        self.Dense_0 = nn.Linear(width, features)
        self.Dense_1 = nn.Linear(features + specific[0], int(np.prod(inputs)))

    def forward(self, quantized: Tensor, specific: Tensor, inputs: Tensor) -> Any:
        x = self.Dense_1(torch.cat([self.Dense_0(quantized), specific], -1))
        return x.reshape(inputs.shape), inputs


class CpcNetwork(nn.Module):
    """An LSTM and K linear predictors."""

    def __init__(self, steps: int, features: int, width: int, layers: int) -> None:
        super().__init__()
        self.recurrent = nn.LSTM(features, width, layers, batch_first=True)
        self.predictors = nn.Linear(width, steps * features, bias=False)
        self.steps = steps

    def contexts(self, z: Tensor) -> Tensor:
        return self.recurrent(z)[0]

    def predict(self, contexts: Tensor) -> Tensor:
        return self.predictors(contexts).unflatten(-1, (self.steps, -1))


class ClubNetwork(nn.Module):
    """q(s|z): mean and log variance."""

    def __init__(self, inputs: int, features: int, hidden: Sequence[int]) -> None:
        super().__init__()
        widths = [inputs, *hidden, features]
        self.layers = len(hidden) + 1
        for name in ("mean", "log_variance"):
            for i in range(self.layers):
                setattr(self, f"{name}_{i}", nn.Linear(widths[i], widths[i + 1]))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self._mlp("mean", z), torch.tanh(self._mlp("log_variance", z))

    def _mlp(self, name: str, x: Tensor) -> Tensor:
        for i in range(self.layers):
            x = getattr(self, f"{name}_{i}")(F.relu(x) if i else x)
        return x


def copy_parameters(module: nn.Module, params: Mapping[str, Any]) -> None:
    """Copies the parameters of a Flax module into the module of the same structure."""
    with torch.no_grad():
        if isinstance(module, CpcNetwork):
            layers = range(module.recurrent.num_layers)
            _copy_lstm(module.recurrent, [params[f"recurrent_{i}"] for i in layers])
            params = {"predictors": params["predictors"]}
        if isinstance(module, Conv):
            module = module.layer
        if not any(isinstance(value, Mapping) for value in params.values()):
            _copy_leaf(module, {k: np.asarray(v) for k, v in params.items()})
            return
        for name, value in params.items():
            copy_parameters(getattr(module, name), value)


def _copy_leaf(module: nn.Module, params: Mapping[str, np.ndarray]) -> None:
    weight = params.get("kernel", params.get("scale"))
    assert weight is not None
    if isinstance(module, nn.Conv2d) and weight.ndim == 2:  # a Linear over patches
        k, inputs = module.kernel_size[0], module.in_channels
        weight = weight.reshape(k, k, inputs, -1)
    if isinstance(module, nn.ConvTranspose2d):
        weight = np.moveaxis(weight, -1, 1)
    elif isinstance(module, (nn.Conv1d, nn.Conv2d)):
        weight = np.moveaxis(weight, (-1, -2), (0, 1))
    elif isinstance(module, nn.Linear):
        weight = weight.reshape(module.in_features, module.out_features).T
    module.weight.copy_(torch.tensor(np.ascontiguousarray(weight)))
    if "bias" in params:
        module.bias.copy_(torch.tensor(params["bias"].reshape(-1)))


def _copy_lstm(module: nn.LSTM, params: Sequence[Mapping[str, Any]]) -> None:
    for layer in range(module.num_layers):
        own = {k: torch.tensor(np.asarray(v)) for k, v in params[layer].items()}
        getattr(module, f"weight_ih_l{layer}").copy_(own["input_kernel"].T)
        getattr(module, f"weight_hh_l{layer}").copy_(own["recurrent_kernel"].T)
        getattr(module, f"bias_hh_l{layer}").copy_(own["bias"])
        getattr(module, f"bias_ih_l{layer}").zero_()
