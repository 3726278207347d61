"""The train step in PyTorch: encoders, codebook, losses, critics and optimiser.

The same order as `fmalign_jax.training.step`: encode and quantise, fit the critics,
losses, Adam, one joint EMA update of the codes, revival. Nothing in it waits for the
device.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from ml_collections import ConfigDict
from torch import Tensor, nn
from torch_model import ClubNetwork, CpcNetwork, SemanticEncoder, build, copy_parameters

from fmalign_jax.config.pair_tables import learning_scale, pair_entries
from fmalign_jax.models.quantizer import COUNT_FLOOR

KNOWN_TERMS = (
    "reconstruction",
    "commitment",
    "code_matching",
    "code_prediction",
    "cross_cpc",
    "window_contrast",
    "self_contrast",
    "canonical",
    "club",
)


def held(x: Tensor, scale: float) -> Tensor:
    """Returns x with its gradient scaled."""
    return x if scale == 1 else x.detach() + scale * (x - x.detach())


def info_nce(logits: Tensor) -> Tensor:
    """-log softmax over the candidates, at the own one; mean over all."""
    return -torch.log_softmax(logits, -1).diagonal(dim1=-2, dim2=-1).mean()


def distances(z: Tensor, vectors: Tensor) -> Tensor:
    """||z - e|| through one matrix product, with gradient 0 where it is 0."""
    shift = vectors.mean(0)
    z, e = z - shift, vectors - shift
    squares = (z * z).sum(-1, keepdim=True) - 2 * z @ e.T + (e * e).sum(-1)
    positive = squares > 0
    root = torch.sqrt(torch.where(positive, squares, torch.ones_like(squares)))
    return torch.where(positive, root, torch.zeros_like(root))


def adamw(trained: Sequence[nn.Parameter], settings: ConfigDict) -> torch.optim.AdamW:
    """Returns the optimiser of a config; vectors and scalars do not decay."""
    decays = [
        {"params": [p for p in trained if p.ndim > 1]},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        decays,
        lr=settings.learning_rate,
        eps=settings.epsilon,
        weight_decay=settings.weight_decay,
    )


class Model(nn.Module):
    """Encoders of all modalities."""

    def __init__(
        self, config: ConfigDict, shapes: Mapping[str, tuple[int, ...]]
    ) -> None:
        super().__init__()
        entries = config.model.to_dict()
        self.modalities = sorted(entries["modalities"])
        self.map_shapes: dict[str, Any] = {}
        self.summaries: dict[str, int] = {}
        for m in self.modalities:
            parts = entries["modalities"][m]
            stem: Any = build(parts["stem"], shapes[m])
            width = stem.shape[0]
            setattr(self, f"stems_{m}", stem)
            if parts["pool"]:
                pool: Any = build(parts["pool"], stem.shape)
                setattr(self, f"pools_{m}", pool)
                width = pool.shape[0]
            if "specific" in parts:
                specific: Any = build(parts["specific"], stem.shape)
                setattr(self, f"specifics_{m}", specific)
                self.map_shapes[m] = specific.shape
                self.summaries[m] = specific.summary
            encoder = SemanticEncoder(width, entries["width"], **entries["transformer"])
            setattr(self, f"semantics_{m}", encoder)

    def stem(self, m: str, inputs: Tensor) -> Tensor:
        return getattr(self, f"stems_{m}")(inputs)

    def semantic(self, m: str, stem: Tensor) -> Tensor:
        pool = getattr(self, f"pools_{m}", None)
        return getattr(self, f"semantics_{m}")(stem if pool is None else pool(stem))


class Objectives(nn.Module):
    """The networks that only losses use; all but the critics."""

    def __init__(self, config: ConfigDict, model: Model, shapes: Mapping) -> None:
        super().__init__()
        terms, width = config.objectives.to_dict(), config.model.width
        self.reconstruction, self.cross_cpc = nn.Module(), nn.Module()
        for m, entry in terms["reconstruction"]["decoders"].items():
            decoder = build(entry, width, model.map_shapes[m], shapes[m])
            setattr(self.reconstruction, f"networks_{m}", decoder)
        cpc = terms["cross_cpc"]
        for m in sorted(cpc["weights"]):
            net = CpcNetwork(
                cpc["steps"], width, cpc.get("width", 256), cpc.get("layers", 2)
            )
            setattr(self.cross_cpc, m, net)
        canonical = terms.get("canonical", {"weight": 0})
        if canonical["weight"]:
            self.canonical = nn.Module()
            for m in (canonical["first"], canonical["second"]):
                linear = nn.Linear(width, canonical.get("directions", 4))
                setattr(self.canonical, f"directions_{m}", linear)


class Critics(nn.Module):
    """CLUB's q(s|z) of each modality."""

    def __init__(self, config: ConfigDict, model: Model) -> None:
        super().__init__()
        hidden = config.objectives.club.get("hidden", (128, 128, 128))
        self.club = nn.Module()
        for m in model.modalities:
            net = ClubNetwork(config.model.width, model.summaries[m], hidden)
            setattr(self.club, m, net)

    def forward(self, features: Mapping[str, Any]) -> dict[str, tuple[Tensor, Tensor]]:
        return {m: getattr(self.club, m)(z) for m, z in features["semantic"].items()}

    def loss(self, features: Mapping[str, Any]) -> Tensor:
        """Negative log-likelihood of s given z."""
        total = torch.zeros((), device=features["vectors"].device)
        for m, (mean, log_variance) in self(features).items():
            scaled = (features["summary"][m] - mean) ** 2 * torch.exp(-log_variance)
            log_2_pi = float(np.log(2 * np.pi))
            total = total + 0.5 * (scaled + log_variance + log_2_pi).sum(-1).mean()
        return total


class TorchTrainer(nn.Module):
    """Model, codebook and optimisers, with one `step(batch)`."""

    counts: Tensor
    sums: Tensor

    def __init__(
        self, config: ConfigDict, shapes: Mapping[str, tuple[int, ...]]
    ) -> None:
        """Builds what a config describes.

        Args:
          config: of a run, without augmentation.
          shapes: of one tick by modality, [R, ...].
        """
        super().__init__()
        self.terms = {
            k: v for k, v in config.objectives.to_dict().items() if v["weight"]
        }
        if unknown := sorted(set(self.terms) - set(KNOWN_TERMS)):
            raise ValueError(
                f"the PyTorch reference knows the terms {', '.join(KNOWN_TERMS)}; got "
                f"{', '.join(unknown)}; set their weight to 0"
            )
        self.config = config
        self.model = Model(config, shapes)
        self.objectives = Objectives(config, self.model, shapes)
        self.critics = Critics(config, self.model)
        codes, width = config.codebook.codes, config.model.width
        self.register_buffer("counts", torch.ones(codes))
        self.register_buffer("sums", torch.randn(codes, width))
        for m in self.model.modalities:
            self.register_buffer(f"idle_{m}", torch.zeros(codes, dtype=torch.int64))

    def make_optimisers(self) -> None:
        """Creates both Adams, once all parameters are where they shall stay."""
        for module in self.modules():
            if isinstance(module, nn.LSTM):  # PyTorch has a second bias of no use
                for layer in range(module.num_layers):
                    getattr(module, f"bias_ih_l{layer}").requires_grad_(False)
        settings = self.config.optimizer
        self.trained = [
            p
            for p in (*self.model.parameters(), *self.objectives.parameters())
            if p.requires_grad
        ]
        self.optimizer = adamw(self.trained, settings)
        self.critic_optimizer = torch.optim.Adam(
            self.critics.parameters(),
            lr=settings.critic_learning_rate,
            eps=settings.epsilon,
        )

    def copy_from(self, state: Any) -> None:
        """Takes over the parameters and codes of a fmalign_jax TrainState."""
        for name in self.model.modalities:
            for kind in ("stems", "pools", "specifics", "semantics"):
                key = f"{kind}_{name}"
                if key in state.params["model"]:
                    copy_parameters(
                        getattr(self.model, key), state.params["model"][key]
                    )
        copy_parameters(self.objectives, state.params["objectives"])
        copy_parameters(self.critics, state.critic_params)
        codebook = state.model_state["codebook"]
        self.counts.copy_(torch.tensor(np.asarray(codebook.counts)))
        self.sums.copy_(torch.tensor(np.asarray(codebook.sums)))

    def features(self, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        """Encodes and quantises normalised inputs."""
        vectors = (self.sums / self.counts[:, None]).detach()
        found: dict[str, Any] = {
            "inputs": inputs,
            "vectors": vectors,
            "semantic": {},
            "specific": {},
            "summary": {},
            "codes": {},
            "chosen": {},
            "quantized": {},
        }
        for m in self.model.modalities:
            stem = self.model.stem(m, inputs[m])
            z = self.model.semantic(m, stem).to(vectors.dtype)
            specific, summary = getattr(self.model, f"specifics_{m}")(stem)
            scores = (vectors * vectors).sum(-1) - 2 * z.detach() @ vectors.T
            codes = scores.argmin(-1)
            chosen = vectors[codes]
            found["semantic"][m], found["specific"][m] = z, specific
            found["summary"][m] = summary.to(vectors.dtype)
            found["codes"][m], found["chosen"][m] = codes, chosen
            found["quantized"][m] = z + (chosen - z).detach()
        found["second_view"] = {
            m: self.model.semantic(m, self.model.stem(m, inputs[m])).to(vectors.dtype)
            for m in self.terms.get("self_contrast", {}).get("second_views", ())
            if self.training
        }
        return found

    def losses(self, features: Mapping[str, Any]) -> dict[str, Tensor]:
        """Evaluates every term, the mean over the windows, unweighted."""
        return {name: getattr(self, f"_{name}")(features) for name in self.terms}

    def step(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Takes one training step on normalised inputs and returns the loss."""
        self.train()
        features = self.features(batch)
        frozen = {
            k: {m: v.detach() for m, v in value.items()}
            if isinstance(value, dict)
            else value
            for k, value in features.items()
        }
        for _ in range(
            self.config.optimizer.critic_steps if "club" in self.terms else 0
        ):
            self.critic_optimizer.zero_grad(set_to_none=True)
            self.critics.loss(frozen).backward()
            self.critic_optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        loss = sum(
            (
                self.terms[name]["weight"] * v
                for name, v in self.losses(features).items()
            ),
            torch.zeros((), device=self.sums.device),
        )
        loss.backward(inputs=self.trained)
        nn.utils.clip_grad_norm_(self.trained, self.config.optimizer.clip_norm)
        self.optimizer.step()
        self.update_codebook(frozen)
        return loss.detach()

    @torch.no_grad()
    def update_codebook(self, features: Mapping[str, Any]) -> None:
        """One joint EMA update of all modalities, then revival."""
        settings = self.config.codebook
        mix = {m: row for m, row in settings.ema_mix.to_dict().items() if row}
        added, hits = torch.zeros_like(self.sums), torch.zeros_like(self.counts)
        one = torch.ones((), dtype=self.counts.dtype, device=self.counts.device)
        for m in self.model.modalities:
            codes = features["codes"][m].flatten()
            used = torch.zeros_like(self.counts).index_add_(
                0, codes, one.expand(len(codes))
            )
            idle = getattr(self, f"idle_{m}")
            idle.copy_(torch.where(used > 0, 0, idle + 1))
            if m in mix:
                mixed = sum(s * features["semantic"][n] for n, s in mix[m].items())
                added.index_add_(0, codes, mixed.flatten(0, 1).to(added.dtype))
                hits += used
        keep = (COUNT_FLOOR / self.counts).clamp(settings.decay, 1.0)
        self.counts.mul_(keep).add_((1 - settings.decay) * hits)
        self.sums.mul_(keep[:, None]).add_((1 - settings.decay) * added)
        idle = torch.stack([getattr(self, f"idle_{m}") for m in sorted(mix)])
        old = idle >= settings.idle_steps
        dead = old.any(0) if settings.idle_rule == "any" else old.all(0)
        drawn = torch.cat([features["semantic"][m].flatten(0, 1) for m in sorted(mix)])
        seeds = drawn[torch.randint(len(drawn), (len(dead),), device=drawn.device)]
        noise = torch.randn_like(seeds) * drawn.std(0)
        seeds = (seeds + settings.revival_noise * noise).to(self.sums.dtype)
        self.sums.copy_(torch.where(dead[:, None], seeds, self.sums))
        self.counts.copy_(torch.where(dead, torch.ones_like(self.counts), self.counts))
        for m in self.model.modalities:
            own = getattr(self, f"idle_{m}")
            own.copy_(torch.where(dead, 0, own))

    def _reconstruction(self, features: Mapping[str, Any]) -> Tensor:
        total = torch.zeros((), device=self.sums.device)
        for m in self.terms["reconstruction"]["decoders"]:
            decoder = getattr(self.objectives.reconstruction, f"networks_{m}")
            prediction, target = decoder(
                features["quantized"][m],
                features["specific"][m],
                features["inputs"][m],
            )
            total = total + F.mse_loss(prediction.to(target.dtype), target)
        return total

    def _commitment(self, features: Mapping[str, Any]) -> Tensor:
        total = torch.zeros((), device=self.sums.device)
        weights = self.terms["commitment"]["weights"]
        for student, teacher, weight in pair_entries(weights):
            z, target = features["semantic"][student], features["chosen"][teacher]
            total = total + weight * F.mse_loss(z, target)
        return total

    def _code_matching(self, features: Mapping[str, Any]) -> Tensor:
        table = self.terms["code_matching"]["learns_from"]
        log_p = {}
        for m, z in features["semantic"].items():
            found = torch.log_softmax(-distances(z, features["vectors"]), -1)
            log_p[m] = torch.logsumexp(found, 1) - float(np.log(z.shape[1]))
        total = torch.zeros((), device=self.sums.device)
        for first, second in itertools.combinations(sorted(log_p), 2):
            p = held(log_p[first], learning_scale(table, first, second))
            q = held(log_p[second], learning_scale(table, second, first))
            similarity = p.exp() @ q.T + p @ q.exp().T
            total = total + (info_nce(similarity) + info_nce(similarity.T)) / 2
        return total

    def _code_prediction(self, features: Mapping[str, Any]) -> Tensor:
        term = self.terms["code_prediction"]
        total = torch.zeros((), device=self.sums.device)
        for student, teacher, weight in pair_entries(term["weights"]):
            logits = -distances(features["semantic"][student], features["vectors"])
            logits = logits / term.get("temperature", 1.0)
            codes = features["codes"][teacher].flatten()
            total = total + weight * F.cross_entropy(logits.flatten(0, 1), codes)
        return total

    def _cross_cpc(self, features: Mapping[str, Any]) -> Tensor:
        term, semantic = self.terms["cross_cpc"], features["semantic"]
        table, steps = term["learns_from"], term["steps"]
        ticks = next(iter(semantic.values())).shape[1]
        reach = steps * term["stride"]
        starts = torch.arange(1, ticks - reach, device=self.sums.device)
        if self.training and term["starts"] == "random":
            starts = torch.randint(1, ticks - reach, (1,), device=self.sums.device)
        ahead = torch.arange(1, steps + 1, device=self.sums.device) * term["stride"]
        ahead = starts[:, None] + ahead
        predicted: dict[tuple[str, float], Tensor] = {}
        total = torch.zeros((), device=self.sums.device)
        for context, target, weight in pair_entries(term["weights"]):
            scale = learning_scale(table, context, target)
            if (context, scale) not in predicted:
                network = getattr(self.objectives.cross_cpc, context)
                past = semantic[context][:, : starts[-1] + 1]  # as published code does
                contexts = network.contexts(held(past, scale))
                predicted[context, scale] = network.predict(contexts[:, starts])
            scale_back = learning_scale(table, target, context)
            candidates = held(semantic[target], scale_back)[:, ahead]
            logits = torch.einsum(
                "iskd,jskd->skij", predicted[context, scale], candidates
            )
            total = total + weight * info_nce(logits)
        return total

    def _window_contrast(self, features: Mapping[str, Any]) -> Tensor:
        term = self.terms["window_contrast"]
        strong, weak, table = term["stronger"], term["weaker"], term["learns_from"]
        anchors = held(
            features["semantic"][strong].mean(1), learning_scale(table, strong, weak)
        )
        partners = held(
            features["semantic"][weak].mean(1), learning_scale(table, weak, strong)
        )
        unit, other = F.normalize(anchors, dim=-1), F.normalize(partners, dim=-1)
        logits = unit @ other.T / term.get("temperature", 0.1)
        centred = anchors.detach()
        if term.get("centre_weights", True):
            centred = centred - centred.mean(0)
        centred = F.normalize(centred, dim=-1)
        cosine, sharpness = centred @ centred.T, term.get("weight_temperature")
        weights = (
            (cosine + 1) / 2 if sharpness is None else ((cosine - 1) / sharpness).exp()
        )
        log_p = torch.log_softmax(logits, -1)
        forth = -((weights * log_p).sum(-1) / weights.sum(-1)).mean()
        return (forth + info_nce(logits.T)) / 2

    def _self_contrast(self, features: Mapping[str, Any]) -> Tensor:
        term = self.terms["self_contrast"]
        total = torch.zeros((), device=self.sums.device)
        for m, second in features["second_view"].items():
            one = F.normalize(features["semantic"][m].mean(1), dim=-1)
            other = F.normalize(second.mean(1), dim=-1)
            logits = one @ other.T / term.get("temperature", 0.1)
            total = total + (info_nce(logits) + info_nce(logits.T)) / 2
        return total

    def _canonical(self, features: Mapping[str, Any]) -> Tensor:
        term = self.terms["canonical"]
        pair, table = (term["first"], term["second"]), term.get("learns_from")
        along = []
        for own, other in (pair, pair[::-1]):
            z = features["semantic"][own].mean(1)
            x = getattr(self.objectives.canonical, f"directions_{own}")(
                held(z, learning_scale(table, own, other))
            )
            x = x - x.mean(0)
            along.append(x / torch.sqrt((x * x).sum(0) + 1e-6))
        correlation = along[0].T @ along[1]
        paired = correlation.diagonal()
        off = correlation - torch.diag(paired)
        return ((1 - paired) ** 2).sum() + term.get("off_diagonal", 0.1) * (
            off * off
        ).sum()

    def _club(self, features: Mapping[str, Any]) -> Tensor:
        sampled = self.training and self.terms["club"].get("estimator") != "full"
        total = torch.zeros((), device=self.sums.device)
        for m, (mean, log_variance) in self.critics(features).items():
            s = features["summary"][m]
            own = (mean - s) ** 2
            if sampled:
                # A random cycle: every window gets another one.
                order = torch.randperm(len(s), device=s.device)
                following = torch.empty_like(order)
                following[order] = order.roll(-1)
                difference = (mean - s[following]) ** 2 - own
            else:
                count = len(s)
                centre = s.mean(0)
                spread = ((s - centre) ** 2).mean(0)
                every = (mean - centre) ** 2 + spread
                difference = (every - own) * count / max(count - 1, 1)
            bound = 0.5 * difference * torch.exp(-log_variance)
            total = total + bound.sum(-1).mean()
        return total
