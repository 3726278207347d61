"""Semantic features hold as little information as possible about specific ones."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fmalign_jax import losses
from fmalign_jax.models.critics import ClubNetwork, gaussians_side_by_side
from fmalign_jax.systems.cmg import SplitFeatures


class Club(nn.Module):
    """CLUB bound of the information between z and s, summed over modalities (METHOD 4).

    A critic: all its parameters are q(s|z), fitted by `critic_loss` and held fixed
    while the bound is minimised.

    Attributes:
      estimator: "sampled" compares each window with one other, drawn from the random
        stream "permutation"; "full" with all others. Evaluation takes all.
      variance: "learned", or "unit" for variance 1.
      hidden: widths of the networks' hidden layers.
      shared: one network for all modalities, where the layers that part z from s are
        the same for all. Windows are still compared within a modality.
    """

    estimator: str = "sampled"
    variance: str = "learned"
    hidden: tuple[int, ...] = (128, 128, 128)
    shared: bool = False

    needs = ("pooled_specific",)
    random_streams = ("permutation",)

    def __call__(
        self, features: SplitFeatures, *, train: bool
    ) -> tuple[Float[Array, " B"], dict[str, Array]]:
        """Returns the bound and ``club_bound/<modality>``, all [B]; may be negative."""
        permutation = None
        if train and self.estimator == "sampled":
            key = self.make_rng("permutation")
            permutation = losses.random_cycle(key, features.mask)
        bounds = {}
        for name, (mean, log_variance) in self._conditionals(features).items():
            pooled = features.pooled_specific[name]
            bounds[f"club_bound/{name}"] = (
                losses.club_full(mean, log_variance, pooled, features.mask)
                if permutation is None
                else losses.club_sampled(mean, log_variance, pooled, permutation)
            )
        return sum(bounds.values(), jnp.zeros(len(features.mask))), bounds

    def critic_loss(self, features: SplitFeatures) -> Float[Array, ""]:
        """Negative log-likelihood of s given z, mean over windows and ticks.

        Summed over the dimensions and modalities; no gradient reaches the features.
        """
        features = jax.lax.stop_gradient(features)
        total = jnp.zeros(len(features.mask))
        for name, (mean, log_variance) in self._conditionals(features).items():
            total -= losses.gaussian_log_likelihood(
                mean, log_variance, features.pooled_specific[name]
            ).mean(axis=-1)
        return losses.masked_mean(total, features.mask)

    @nn.compact
    def _conditionals(self, features: SplitFeatures) -> dict[str, tuple[Array, Array]]:
        """Mean and log variance of q(s|z) by modality."""
        for option, value, allowed in (
            ("estimator", self.estimator, ("sampled", "full")),
            ("variance", self.variance, ("learned", "unit")),
        ):
            if value not in allowed:
                raise ValueError(
                    f"CLUB's {option} must be one of {allowed}; got {value!r}; correct "
                    "the config"
                )
        widths = {m: s.shape[-1] for m, s in sorted(features.pooled_specific.items())}
        if self.shared and len(set(widths.values())) > 1:
            raise ValueError(
                "one network of CLUB for all modalities needs specific features of one "
                f"width; got {widths}; set its shared to False"
            )
        of = {m: "shared" if self.shared else m for m in widths}
        networks = {
            name: ClubNetwork(
                width,
                self.hidden,
                learned_variance=self.variance == "learned",
                name=name,
            )
            for name, width in {of[m]: width for m, width in widths.items()}.items()
        }
        found = gaussians_side_by_side(
            [networks[of[m]] for m in widths], [features.semantic[m] for m in widths]
        )
        return dict(zip(widths, found, strict=True))
