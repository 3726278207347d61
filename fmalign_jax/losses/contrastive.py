"""Losses that separate a window's partner from the other windows of the global batch.

In every matrix of logits here rows are the given (contexts) and columns the candidates,
the diagonal holding the true partners. Masked windows are no candidates, and their own
loss is 0. Under jit over a mesh the batch axis is the global one, so that negatives
come from all devices.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# Far below any logit, yet finite: a row without candidates gives no NaN.
_EXCLUDED = -1e30
_EXACT = jax.lax.Precision.HIGHEST

_MOST = 100.0  # of a learned scale, as published with CLIP
SCALE_START = -1.7918
"""Of `learned_scale`: it starts at 1 / 0.07, as published with CLIP."""


def info_nce(
    logits: Float[Array, "*n B B"], mask: Bool[Array, " B"] | None = None
) -> Float[Array, "*n B"]:
    """InfoNCE, -log softmax_j(logits[i, j])[i] (van den Oord et al. 2018, eq. 4).

    Args:
      logits: [..., B, B], row i the given context, column j a candidate sample; the
        softmax runs over the samples.
      mask: [B], False for windows that are neither counted nor negatives.

    >>> info_nce(jnp.zeros((2, 2)))
    Array([0.6931472, 0.6931472], dtype=float32)
    """
    log_softmax = jax.nn.log_softmax(_exclude(logits, mask), axis=-1)
    return _counted(-jnp.diagonal(log_softmax, axis1=-2, axis2=-1), mask)


def symmetric_info_nce(
    logits: Float[Array, "B B"], mask: Bool[Array, " B"] | None = None
) -> Float[Array, " B"]:
    """Returns the mean of `info_nce` over rows and over columns.

    >>> symmetric_info_nce(jnp.zeros((2, 2)))
    Array([0.6931472, 0.6931472], dtype=float32)
    """
    return (info_nce(logits, mask) + info_nce(logits.T, mask)) / 2


def smoothed_info_nce(
    logits: Float[Array, "B B"],
    mask: Bool[Array, " B"] | None = None,
    *,
    smoothing: float,
) -> Float[Array, " B"]:
    """InfoNCE whose target is 1 - smoothing for the partner and even for the rest.

    The even part, smoothing / B, goes to all windows that count, the partner included.

    Args:
      logits: [B, B], as for `info_nce`.
      mask: [B], False for windows that are neither counted nor negatives.
      smoothing: 0 gives `info_nce`.

    >>> smoothed_info_nce(jnp.zeros((2, 2)), smoothing=0.1)
    Array([0.6931472, 0.6931472], dtype=float32)
    """
    counted = jnp.ones(len(logits), bool) if mask is None else mask
    log_softmax = jax.nn.log_softmax(_exclude(logits, mask), axis=-1)
    even = jnp.where(counted, log_softmax, 0.0).sum(axis=-1)
    even /= jnp.maximum(counted.sum(), 1)
    own = jnp.diagonal(log_softmax)
    return _counted(-(1 - smoothing) * own - smoothing * even, mask)


def learned_scale(raw: Float[Array, ""]) -> Float[Array, ""]:
    """Returns the scale of cosines, 100 sigmoid(raw).

    Unlike exp(t) with a clamp it cannot exceed 100 and cannot get stuck there.

    >>> learned_scale(jnp.asarray(0.0))
    Array(50., dtype=float32, weak_type=True)
    """
    return _MOST * jax.nn.sigmoid(raw)


def largest_cosine(
    first: Float[Array, "N S D"], second: Float[Array, "M s D"]
) -> Float[Array, "N M"]:
    """Returns, of each pair of windows, the cosine of the vectors that are nearest.

    >>> x = jnp.eye(2)
    >>> largest_cosine(x[None], x[:, None])
    Array([[1., 1.]], dtype=float32)
    """
    cosine = jnp.einsum(
        "asd,btd->abst", normalise(first), normalise(second), precision=_EXACT
    )
    flat = cosine.reshape(*cosine.shape[:2], -1)
    # By its place: the gradient of a maximum compares once more, for equality.
    place = jnp.argmax(jax.lax.stop_gradient(flat), axis=-1, keepdims=True)
    return jnp.take_along_axis(flat, place, axis=-1)[..., 0]


def cosine_logits(
    a: Float[Array, "B D"], b: Float[Array, "B D"], temperature: float
) -> Float[Array, "B B"]:
    """Returns the cosine of each a with each b, divided by the temperature.

    >>> cosine_logits(jnp.array([[2.0, 0.0]]), jnp.array([[3.0, 0.0]]), 0.5)
    Array([[2.]], dtype=float32)
    """
    return jnp.matmul(normalise(a), normalise(b).T, precision=_EXACT) / temperature


def own_is_nearest(
    logits: Float[Array, "*n B B"], mask: Bool[Array, " B"] | None = None
) -> Float[Array, "*n B"]:
    """Top-1 accuracy of each context: 1 where its own sample has the largest logit.

    Equal logits count for the lowest column, so a collapsed model scores 1/B.

    >>> own_is_nearest(jnp.array([[2.0, 1.0], [2.0, 1.0]]))
    Array([1., 0.], dtype=float32)
    """
    nearest = jnp.argmax(_exclude(logits, mask), axis=-1)
    correct = nearest == jnp.arange(logits.shape[-1])
    return _counted(correct.astype(jnp.float32), mask)


def label_contrast(
    logits: Float[Array, "B B"], label: Int[Array, " B"]
) -> tuple[Float[Array, " B"], Bool[Array, " B"]]:
    """Supervised contrast (Khosla et al. 2020, eq. 2; LBCL of CLMLF).

        L_i = -1 / |P_i| sum_{p in P_i} log(e^s_ip / sum_{a != i} e^s_ia)

    with P_i, the other windows of the class of window i. With perfect separation
    log |P_i| is left.

    Args:
      logits: s [B, B], of each window with each.
      label: class of each window, negative where unknown: such a one takes no part, not
        even as a negative.

    Returns:
      The loss [B], 0 where P_i is empty; and [B], whether it is not.

    >>> label_contrast(jnp.zeros((3, 3)), jnp.array([0, 0, 1]))[0]
    Array([0.6931472, 0.6931472, 0.       ], dtype=float32)
    """
    known = label >= 0
    others = known & ~jnp.eye(len(label), dtype=bool)
    positive = others & known[:, None] & (label[:, None] == label)
    count = positive.sum(axis=-1)
    log_softmax = jax.nn.log_softmax(_exclude(logits, others), axis=-1)
    total = jnp.where(positive, -log_softmax, 0.0).sum(axis=-1)
    return total / jnp.maximum(count, 1), count > 0


def nearest_other(
    logits: Float[Array, "B B"], counted: Bool[Array, " B"]
) -> Int[Array, " B"]:
    """Returns which other window has the largest logit, of those that count.

    >>> nearest_other(jnp.array([[9.0, 1.0], [2.0, 9.0]]), jnp.array([True, True]))
    Array([1, 0], dtype=int32)
    """
    others = counted & ~jnp.eye(len(counted), dtype=bool)
    return jnp.argmax(_exclude(logits, others), axis=-1)


def log_code_distribution(
    semantic: Float[Array, "B T D"], embeddings: Float[Array, "M D"]
) -> Float[Array, "B M"]:
    """Log of a window's mean code distribution, mean_t softmax_j(-||z_t - e_j||).

    The norm is not squared (METHOD 3). Distances and both sums are in fp32.

    Args:
      semantic: z [B, T, D].
      embeddings: codes e [M, D].

    >>> jnp.exp(log_code_distribution(jnp.zeros((1, 3, 2)), jnp.ones((4, 2))))
    Array([[0.25, 0.25, 0.25, 0.25]], dtype=float32)
    """
    log_p = jax.nn.log_softmax(-_distances(semantic, embeddings), axis=-1)
    return jax.nn.logsumexp(log_p, axis=1) - jnp.log(semantic.shape[1])


def code_prediction(
    semantic: Float[Array, "B T D"],
    embeddings: Float[Array, "M D"],
    codes: Int[Array, "B T"],
    temperature: float = 1.0,
) -> Float[Array, " B"]:
    """Cross-entropy of given codes, -mean_t log softmax_j(-||z_t - e_j|| / tau)[c_t].

    The assignment of another view is the class to predict, as in SwAV (Caron et al.
    2020, eq. 2), with the hard assignment of a vector quantiser.

    Args:
      semantic: z [B, T, D] of the student.
      embeddings: codes e [M, D].
      codes: [B, T], those that the teacher chose.
      temperature: tau, in the units of the distances.

    >>> code_prediction(jnp.zeros((1, 3, 2)), jnp.ones((4, 2)), jnp.zeros((1, 3), int))
    Array([1.3862944], dtype=float32)
    """
    logits = -_distances(semantic, embeddings) / temperature
    log_p = jax.nn.log_softmax(logits, axis=-1)
    return -jnp.take_along_axis(log_p, codes[..., None], axis=-1).mean(axis=(1, 2))


def code_matching(
    log_p: Float[Array, "B M"],
    log_q: Float[Array, "B M"],
    mask: Bool[Array, " B"] | None = None,
) -> Float[Array, " B"]:
    """Cross-modal code matching, L_cmcm of Xia et al. 2023 (METHOD 3).

        S[b, b'] = sum_j p_b log q_b' + q_b' log p_b

    contrasted over rows and over columns, the mean of both directions. Both terms are
    indexed (b of the first modality, b' of the second), so S^T is for the reverse
    direction.

    Args:
      log_p: [B, M] from `log_code_distribution`, first modality.
      log_q: [B, M] of the second modality.
      mask: [B], False for windows that are neither counted nor negatives.

    >>> log_p = jnp.log(jnp.array([[0.9, 0.1], [0.1, 0.9]]))
    >>> code_matching(log_p, log_p).round(3)
    Array([0.029, 0.029], dtype=float32)
    """
    forth = jnp.matmul(jnp.exp(log_p), log_q.T, precision=_EXACT)
    back = jnp.matmul(log_p, jnp.exp(log_q).T, precision=_EXACT)
    similarity = forth + back
    return symmetric_info_nce(similarity, mask)


def cwcl_weights(
    anchors: Float[Array, "B D"],
    mask: Bool[Array, " B"] | None = None,
    *,
    centre: bool = False,
    temperature: float | None = None,
) -> Float[Array, "B B"]:
    """How much each pair of windows counts as the same in CWCL, between 0 and 1.

    The published weight is (cos + 1) / 2 (Srinivasa et al. 2023). With two working
    states and a common offset of the features all cosines are near 1 and so are all
    weights; the loss is then least for uniform logits. Both options prevent that.

    Args:
      anchors: p [B, D] of the stronger modality; no gradient reaches them.
      mask: [B], windows that take part in the mean to be subtracted.
      centre: subtract the mean over the windows before the cosine.
      temperature: use exp((cos - 1) / temperature) instead of (cos + 1) / 2.

    >>> cwcl_weights(jnp.array([[1.0, 0.0], [0.0, 2.0]]))
    Array([[1. , 0.5],
           [0.5, 1. ]], dtype=float32)
    """
    anchors = jax.lax.stop_gradient(anchors).astype(jnp.float32)
    if centre:
        counted = jnp.ones(len(anchors), bool) if mask is None else mask
        anchors -= anchors.mean(axis=0, where=counted[:, None])
    unit = normalise(anchors)
    cosine = jnp.matmul(unit, unit.T, precision=_EXACT)
    if temperature is None:
        return (cosine + 1) / 2
    return jnp.exp((cosine - 1) / temperature)


def cwcl(
    logits: Float[Array, "B B"],
    weights: Float[Array, "B B"],
    mask: Bool[Array, " B"] | None = None,
) -> Float[Array, " B"]:
    """Continuously weighted contrastive loss (Srinivasa et al. 2023, METHOD 5).

        L_i = -1 / (sum_j w_ij) sum_j w_ij log softmax_j(logits_ij)

    The identity as weights gives InfoNCE.

    Args:
      logits: [B, B], rows the stronger modality's windows.
      weights: w [B, B], not negative, from `cwcl_weights`.
      mask: [B], False for windows that are neither counted nor negatives.

    >>> cwcl(jnp.zeros((2, 2)), jnp.ones((2, 2)))
    Array([0.6931472, 0.6931472], dtype=float32)
    """
    log_softmax = jax.nn.log_softmax(_exclude(logits, mask), axis=-1)
    weights = weights if mask is None else weights * mask
    total = jnp.maximum(weights.sum(axis=-1), jnp.finfo(jnp.float32).tiny)
    return _counted(-(weights * log_softmax).sum(axis=-1) / total, mask)


def triplet(
    anchor: Float[Array, "B D"],
    positive: Float[Array, "B D"],
    allowed: Bool[Array, "B B"],
    *,
    margin: float,
) -> Float[Array, " B"]:
    """Semi-hard triplet loss on the unit sphere (Schroff et al. 2015, eq. 4).

        L_i = max(0, ||a_i - p_i||^2 - ||a_i - p_n||^2 + margin)

    with n the nearest allowed negative farther than the positive, or the farthest one
    when all are nearer. Normalised, so that no feature can grow without limit. Active
    where > 0.

    Args:
      anchor: [B, D] features, one a window.
      positive: [B, D] partners; those of other windows are the negatives.
      allowed: [B, B], True where window j may serve as negative of window i.
      margin: least difference of squared distances, which are in [0, 4].

    >>> x = jnp.eye(2)
    >>> triplet(x, x[::-1], ~jnp.eye(2, dtype=bool), margin=0.5)
    Array([2.5, 2.5], dtype=float32)
    """
    cosine = jnp.matmul(normalise(anchor), normalise(positive).T, precision=_EXACT)
    distance = 2 - 2 * cosine
    own = jnp.diagonal(distance)
    farther = allowed & (distance > own[:, None])
    # By their place: the gradient of a minimum itself compares once more, for equality.
    nearest_farther = jnp.argmin(jnp.where(farther, distance, jnp.inf), axis=-1)
    farthest = jnp.argmax(jnp.where(allowed, distance, -jnp.inf), axis=-1)
    chosen = jnp.where(farther.any(axis=-1), nearest_farther, farthest)
    negative = jnp.take_along_axis(distance, chosen[:, None], axis=-1)[:, 0]
    loss = jnp.maximum(own - negative + margin, 0.0)
    return jnp.where(allowed.any(axis=-1), loss, 0.0)


def normalise(x: Float[Array, "*n D"]) -> Float[Array, "*n D"]:
    """Scales vectors to length one in fp32; a zero vector stays, without NaN gradient.

    >>> normalise(jnp.array([3.0, 4.0]))
    Array([0.6, 0.8], dtype=float32)
    """
    x = x.astype(jnp.float32)
    squares = jnp.square(x).sum(axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(squares, 1e-12))


def _distances(
    semantic: Float[Array, "B T D"], embeddings: Float[Array, "M D"]
) -> Float[Array, "B T M"]:
    """||z - e|| through one matrix product, with gradient 0 where it is 0."""
    # Distances do not change under a shift; around the codes' mean less cancels.
    shift = jax.lax.stop_gradient(embeddings.mean(axis=0)).astype(jnp.float32)
    z = semantic.astype(jnp.float32) - shift
    e = embeddings.astype(jnp.float32) - shift
    product = jnp.matmul(z, e.T, precision=_EXACT)
    squares = jnp.square(z).sum(-1, keepdims=True) - 2 * product + jnp.square(e).sum(-1)
    positive = squares > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1.0)), 0.0)


def _exclude(
    logits: Float[Array, "*n B B"], mask: Bool[Array, "*m B"] | None
) -> Float[Array, "*n B B"]:
    logits = logits.astype(jnp.float32)
    return logits if mask is None else jnp.where(mask, logits, _EXCLUDED)


def _counted(
    values: Float[Array, "*n B"], mask: Bool[Array, " B"] | None
) -> Float[Array, "*n B"]:
    return values if mask is None else jnp.where(mask, values, 0.0)
