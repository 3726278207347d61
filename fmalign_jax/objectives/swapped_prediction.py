"""A student predicts to which prototype its teacher belongs."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fmalign_jax import losses
from fmalign_jax.config.pair_tables import PairTable, check_names, pair_entries
from fmalign_jax.models import linear
from fmalign_jax.systems.features import Features


class SwappedPrediction(nn.Module):
    """Swapped prediction of balanced assignments (SwAV, Caron et al. 2020), directed.

    All modalities share K prototypes. The teacher's window, as a mean over its ticks,
    is assigned to them with balance over the batch; the student's window predicts that.
    With itself as teacher, each half of a modality's window predicts the assignment of
    the whole, where there is one under another augmentation: it is shaped by what
    changes slowly, not by what tells one window from the next. If the windows of a
    batch come from one recording, balance makes prototypes that no recording owns.

    Attributes:
      weights: weights[student][teacher].
      second_views: modalities that have another view of their windows in training.
      prototypes: K.
      width: of the space in which windows meet the prototypes.
      temperature: of the student's logits, which are cosines.
      sharpness: of the teacher's assignments, see `losses.balanced_assignments`.
    """

    weights: PairTable
    second_views: tuple[str, ...] = ()
    prototypes: int = 8
    width: int = 64
    temperature: float = 0.1
    sharpness: float = 0.05

    @nn.compact
    def __call__(
        self, features: Features, *, train: bool
    ) -> tuple[Float[Array, " B"], dict[str, Array]]:
        """Returns the loss [B] and ``prototype_accuracy/<teacher>-><student>``."""
        check_names(self.weights, features.semantic, table_name="weights")
        prototypes = self.param(
            "prototypes",
            nn.initializers.normal(1.0),
            (self.prototypes, self.width),
        )
        project = {
            name: linear.Dense(self.width, name=f"projection_{name}")
            for name in sorted(features.semantic)
        }

        def scores(name: str, vectors: Float[Array, "B D"]) -> Float[Array, "B K"]:
            along = losses.normalise(project[name](vectors))
            return jnp.matmul(
                along,
                losses.normalise(prototypes).T,
                precision=jax.lax.Precision.HIGHEST,
            )

        whole = {
            name: scores(name, z.mean(axis=1)) for name, z in features.semantic.items()
        }
        targets = {
            teacher: losses.balanced_assignments(
                whole[teacher], features.mask, sharpness=self.sharpness
            )
            for teacher in {t for _, t, _ in pair_entries(self.weights)}
        }
        total = jnp.zeros(len(features.mask))
        metrics = {}
        for student, teacher, weight in pair_entries(self.weights):
            if student == teacher:
                other = features.second_view.get(student, features.semantic[student])
                middle = other.shape[1] // 2
                parts = [other[:, :middle], other[:, middle:]]
                logits = [scores(student, part.mean(axis=1)) for part in parts]
            else:
                logits = [whole[student]]
            for own in logits:
                total += (
                    weight
                    * losses.cross_entropy(targets[teacher], own / self.temperature)
                    / len(logits)
                )
            hit = targets[teacher].argmax(axis=-1) == logits[0].argmax(axis=-1)
            metrics[f"prototype_accuracy/{teacher}->{student}"] = hit.astype(
                jnp.float32
            )
        return total, metrics
