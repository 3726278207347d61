"""A student predicts the features of its teacher, tick by tick."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fmalign_jax import losses
from fmalign_jax.config.pair_tables import PairTable, check_names, pair_entries
from fmalign_jax.systems.features import Features


class FeatureDistillation(nn.Module):
    """sum_n w[m, n] mean||z^m - sg(z^n)||^2, summed over the students m.

    There is no network between the two: what reads the teacher's features reads the
    student's. No gradient reaches the teacher, which another term has to shape.

    Attributes:
      weights: w[student][teacher]; a modality is not its own teacher.
    """

    weights: PairTable

    @nn.compact
    def __call__(
        self, features: Features, *, train: bool
    ) -> tuple[Float[Array, " B"], dict[str, Array]]:
        """Returns the loss [B] and metrics, by <teacher>-><student>.

        ``distilled_accuracy/...`` [B]: how often the own teacher's window is the
        nearest of the batch to the student's, by mean features; ``distilled_accuracy``
        is their mean. ``distilled_share/...``: the share of the variance of the
        teacher's features over the batch that the student predicts; 0 or less for one
        that knows only their mean.

        Raises:
          ValueError: a name that is no modality, or a modality that teaches itself.
        """
        check_names(self.weights, features.semantic, table_name="weights")
        mask = features.mask
        total = jnp.zeros(len(mask))
        metrics, accuracies = {}, []
        for student, teacher, weight in pair_entries(self.weights):
            if student == teacher:
                raise ValueError(
                    "the weights of a distillation must name two modalities; got "
                    f"{student!r} as its own teacher; remove that entry"
                )
            own = features.semantic[student]
            target = jax.lax.stop_gradient(features.semantic[teacher])
            error = losses.squared_error(own, target)
            total += weight * error
            pair = f"{teacher}->{student}"
            metrics[f"distilled_share/{pair}"] = _share(error, target, mask)
            cosine = losses.cosine_logits(own.mean(axis=1), target.mean(axis=1), 1.0)
            accuracies.append(losses.own_is_nearest(cosine, mask))
            metrics[f"distilled_accuracy/{pair}"] = accuracies[-1]
        if accuracies:
            metrics["distilled_accuracy"] = jnp.stack(accuracies).mean(axis=0)
        return total, metrics


def _share(
    error: Float[Array, " B"], target: Float[Array, "B T D"], mask: Array
) -> Float[Array, ""]:
    """1 - error / variance of the target, over the windows that count."""
    mean = target.mean(axis=(0, 1), where=mask[:, None, None])
    variance = losses.squared_error(target, jnp.broadcast_to(mean, target.shape))
    left = losses.masked_mean(error, mask) / jnp.maximum(
        losses.masked_mean(variance, mask), 1e-12
    )
    return 1.0 - jax.lax.stop_gradient(left)
