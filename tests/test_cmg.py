from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fresh_parameters import fresh_parameters

from fmalign_jax.config.build import build
from fmalign_jax.models import decoders, quantizer
from fmalign_jax.models.critics import ClubNetwork, CpcNetwork
from fmalign_jax.systems.cmg import Cmg, CmgFeatures

B, T, D, M = 3, 5, 16, 12
ENCODERS = "fmalign_jax.models.encoders."
TRANSFORMER = {"layers": 1, "heads": 2, "ffn": 24, "dropout": 0.2}


def modalities() -> dict[str, Any]:
    return {
        "video": {
            "stem": {
                "name": ENCODERS + "FrameStem",
                "features": [8, 8],
                "strides": [4, 1],
            },
            "pool": {"name": ENCODERS + "AttentivePool", "width": 8, "reduction": 2},
            "specific": {
                "name": ENCODERS + "ConvSpecific",
                "features": [8, 16],
                "residual": 4,
            },
        },
        "current": {
            "stem": {"name": ENCODERS + "SensorStem", "features": [8, 8]},
            "pool": None,
            "specific": {"name": ENCODERS + "DenseSpecific", "features": 6},
        },
        "text": {
            "stem": {"name": ENCODERS + "TokenStem", "vocabulary": 9, "features": 8},
            "pool": None,
            "specific": {"name": ENCODERS + "DenseSpecific", "features": 6},
        },
    }


def make_inputs(seed: int = 0) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    return {
        "video": jnp.asarray(rng.normal(size=(B, T, 2, 32, 32, 3)), jnp.float32),
        "current": jnp.asarray(rng.normal(size=(B, T, 4, 3)), jnp.float32),
        "text": jnp.asarray(rng.integers(0, 9, size=(B, T, 2)), jnp.int32),
    }


MASK = jnp.asarray([True, True, False])


def make_model(**kwargs: Any) -> Cmg:
    settings = {
        "width": D,
        "modalities": modalities(),
        "transformer": TRANSFORMER,
    }
    return Cmg(**settings | kwargs)


@pytest.fixture(scope="module")
def variables() -> Any:
    model, inputs = make_model(), make_inputs()
    book = quantizer.empty_codebook(M, D, modalities=inputs)
    return fresh_parameters(model, inputs, {"codebook": book}, MASK, train=False)


@pytest.fixture(scope="module")
def codebook(variables: Any) -> quantizer.Codebook:
    semantic = make_model().apply(
        variables, make_inputs(), train=False, method="semantic"
    )
    z = jnp.concatenate([v.reshape(-1, D) for v in semantic.values()])
    return quantizer.initialise(jax.random.key(1), z, M, modalities=semantic)


def forward(variables: Any, codebook: Any, *, train: bool = False, **kw: Any) -> Any:
    rngs = {"dropout": kw.pop("key")} if train else {}
    inputs = kw.pop("inputs", make_inputs())
    return make_model(**kw).apply(
        variables, inputs, {"codebook": codebook}, MASK, train=train, rngs=rngs
    )


def test_three_modalities_by_configuration_alone(variables: Any, codebook: Any) -> None:
    features: CmgFeatures = forward(variables, codebook)
    table = quantizer.embeddings(codebook)
    assert set(features.semantic) == {"video", "current", "text"}
    assert features.specific["video"].shape == (B, T, 4, 4, 16)
    assert features.pooled_specific["video"].shape == (B, T, 8)
    assert features.specific["current"].shape == (B, T, 6)
    np.testing.assert_array_equal(features.embeddings, table)
    np.testing.assert_array_equal(features.mask, MASK)
    for name, z in features.semantic.items():
        distance = ((np.asarray(z)[:, :, None] - np.asarray(table)) ** 2).sum(-1)
        np.testing.assert_array_equal(features.codes[name], distance.argmin(-1))
        np.testing.assert_array_equal(
            features.code_vectors[name], table[features.codes[name]]
        )
        np.testing.assert_allclose(
            features.quantized[name], features.code_vectors[name], atol=1e-6
        )
        np.testing.assert_array_equal(features.inputs[name], make_inputs()[name])


@pytest.mark.parametrize("train", [False, True])
def test_the_model_cannot_change_the_codebook(
    variables: Any, codebook: Any, train: bool
) -> None:
    """It holds parameters only, and hands out no codebook."""
    before = jax.tree.map(np.array, codebook)
    inputs = make_inputs()
    rngs = {"dropout": jax.random.key(0)}
    features, changed = make_model().apply(
        variables,
        inputs,
        {"codebook": codebook},
        MASK,
        train=train,
        rngs=rngs,
        mutable=True,
    )
    assert set(variables) == {"params"}
    assert set(changed) <= {"params", "intermediates"}
    assert isinstance(features, CmgFeatures)
    jax.tree.map(np.testing.assert_array_equal, codebook, before)


def test_encode_gives_the_semantic_features_of_the_whole_model(
    variables: Any, codebook: Any
) -> None:
    encoded = make_model().apply(
        variables, make_inputs(), train=False, method="semantic"
    )
    whole = forward(variables, codebook).semantic
    for name in whole:
        np.testing.assert_array_equal(encoded[name], whole[name])


def test_the_codebook_gets_no_gradient_and_every_semantic_part_does(
    variables: Any, codebook: Any
) -> None:
    weight = jax.random.normal(jax.random.key(2), (B, T, D))

    def loss(params: Any, sums: Any) -> Any:
        book = dataclasses.replace(codebook, sums=sums)
        features = forward({"params": params}, book)
        return sum((weight * q).sum() for q in features.quantized.values())

    to_params, to_sums = jax.jit(jax.grad(loss, argnums=(0, 1)))(
        variables["params"], codebook.sums
    )
    assert not np.any(to_sums)
    for part in ("stems", "semantics", "pools"):
        for name, gradient in to_params.items():
            if name.startswith(part):
                assert all(np.any(leaf) for leaf in jax.tree.leaves(gradient)), name
    assert not any(np.any(g) for g in jax.tree.leaves(to_params["specifics_video"]))


def test_dropout_acts_in_training_only(variables: Any, codebook: Any) -> None:
    still = [forward(variables, codebook).semantic["current"] for _ in range(2)]
    np.testing.assert_array_equal(*still)
    moved = [
        forward(variables, codebook, train=True, key=jax.random.key(k)).semantic
        for k in (0, 0, 1)
    ]
    np.testing.assert_array_equal(moved[0]["current"], moved[1]["current"])
    for name in moved[0]:
        assert np.abs(moved[0][name] - moved[2][name]).max() > 1e-2
    assert np.abs(moved[0]["current"] - still[0]).max() > 1e-2


def test_bfloat16_computes_near_fp32_and_hands_fp32_to_the_quantiser(
    variables: Any, codebook: Any
) -> None:
    full = forward(variables, codebook)
    half = forward(variables, codebook, dtype=jnp.bfloat16)
    assert half.specific["video"].dtype == jnp.bfloat16
    for name in full.semantic:
        for field in ("semantic", "pooled_specific", "quantized", "code_vectors"):
            assert getattr(half, field)[name].dtype == jnp.float32
        error = np.abs(half.semantic[name] - full.semantic[name])
        assert 0 < error.mean() < 0.02
    fresh = jax.eval_shape(
        lambda k: make_model(dtype=jnp.bfloat16).init(
            k, make_inputs(), {"codebook": codebook}, MASK, train=False
        ),
        jax.random.key(0),
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(fresh)} == {jnp.dtype(jnp.float32)}


def test_rows_do_not_touch_one_another(variables: Any, codebook: Any) -> None:
    """So a row that only pads the batch changes nothing in the others."""
    inputs = make_inputs()
    other = {m: x.at[2].set(make_inputs(1)[m][2]) for m, x in inputs.items()}
    before, after = (
        forward(variables, codebook, inputs=batch) for batch in (inputs, other)
    )
    for name in inputs:
        np.testing.assert_array_equal(
            before.semantic[name][:2], after.semantic[name][:2]
        )
        assert np.any(before.semantic[name][2] != after.semantic[name][2])


def test_modalities_must_agree(variables: Any, codebook: Any) -> None:
    inputs = make_inputs()
    del inputs["text"]
    with pytest.raises(ValueError, match=r"the inputs must have .*got \['current'"):
        forward(variables, codebook, inputs=inputs)
    other = quantizer.empty_codebook(M, D, modalities=("video", "sound"))
    with pytest.raises(ValueError, match=r"the codebook must have .*'sound'"):
        forward(variables, other)
    narrow = quantizer.empty_codebook(M, D - 1, modalities=make_inputs())
    with pytest.raises(ValueError, match="same width; got 16 and 15"):
        forward(variables, narrow)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"vocabulary": 3}, r"stem must name its class; got keys \['vocabulary'\]"),
        (
            {"name": ENCODERS + "TokenStem", "vocabulry": 3},
            r"stem may give only what .*TokenStem takes; got vocabulry; allowed: "
            "dtype, features, vocabulary",
        ),
        ({"name": ENCODERS + "TokenStem"}, "needs; vocabulary not given"),
        ({"name": ENCODERS + "NoStem"}, "has no 'NoStem'"),
    ],
)
def test_a_wrong_entry_is_one_clear_error(entry: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(entry, "stem")


def test_a_wrong_config_names_its_place(codebook: Any) -> None:
    def init(**kwargs: Any) -> Any:
        return make_model(**kwargs).init(
            jax.random.key(0), make_inputs(), {"codebook": codebook}, MASK, train=False
        )

    with pytest.raises(ValueError, match=r"model\.transformer may .* got head;"):
        init(transformer={"head": 2})
    spec = modalities()
    spec["video"]["stem"]["stride"] = 2
    with pytest.raises(ValueError, match=r"model\.modalities\.video\.stem may .*strid"):
        init(modalities=spec)
    spec = modalities()
    spec["video"]["pool"] = None
    with pytest.raises(ValueError, match=r"one vector a tick.*give .*video a pool"):
        init(modalities=spec)
    spec = modalities()
    spec["text"]["pol"] = spec["text"].pop("pool")
    with pytest.raises(ValueError, match=r"modalities\.text must give exactly"):
        init(modalities=spec)


def count(tree: Any) -> int:
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def paper_model() -> Cmg:
    features = {"name": ENCODERS + "FeatureStem"}
    return Cmg(
        width=256,
        modalities={
            "video": {
                "stem": features,
                "pool": {"name": ENCODERS + "AttentivePool"},
                "specific": {"name": ENCODERS + "ConvSpecific"},
            },
            "audio": {
                "stem": features,
                "pool": None,
                "specific": {"name": ENCODERS + "DenseSpecific"},
            },
        },
    )


def paper_shapes() -> tuple[Any, Any]:
    """Shapes of the paper's model: parameters and features, nothing computed."""
    inputs = {
        "video": jax.ShapeDtypeStruct((2, 10, 1, 7, 7, 512), jnp.float32),
        "audio": jax.ShapeDtypeStruct((2, 10, 1, 128), jnp.float32),
    }

    def init(key: Any, inputs: Any) -> Any:
        book = quantizer.empty_codebook(400, 256, modalities=inputs)
        features, variables = paper_model().init_with_output(
            key, inputs, {"codebook": book}, jnp.ones(2, bool), train=False
        )
        return variables["params"], features

    return jax.eval_shape(init, jax.random.key(0), inputs)


def test_paper_size_encoders() -> None:
    params, features = paper_shapes()
    assert features.specific["video"].shape == (2, 10, 3, 3, 2048)
    assert features.pooled_specific["video"].shape == (2, 10, 512)
    layer = 4 * (256 * 256 + 256) + 2 * 256 * 1024 + 1024 + 256 + 4 * 256
    assert count(params["semantics_video"]) == 512 * 256 + 256 + 2 * layer
    assert count(params["semantics_audio"]) == 128 * 256 + 256 + 2 * layer
    assert count(params["specifics_audio"]) == 128 * 256 + 256
    attention = 2 * 512 * 64 + 64 + 512 + 2 * (512 * 256 + 256) + 257
    assert count(params["pools_video"]) == attention
    convolutions = 9 * 512 * 1024 + 1024 + 9 * 1024 * 2048 + 2048 + 2048**2 + 2048
    residual = 9 * 2048 * 1024 + 1024 + 1024 * 2048 + 2048
    summary = 2048**2 + 2048 + 2048 * 512 + 512
    assert count(params["specifics_video"]) == convolutions + residual + summary


def test_paper_size_total() -> None:
    """The paper's model has about 117.4 M with its unused 141-class heads.

    Those heads are left out here; the paper does not state the widths of the residual
    blocks and the summary's MLP, so the totals can only be near one another.
    """
    encoders, features = paper_shapes()

    def fresh(module: Any, *args: Any) -> int:
        return count(jax.eval_shape(module.init, jax.random.key(0), *args))

    def decoder(module: Any, name: str) -> int:
        parts = (features.quantized, features.specific, features.inputs)
        return fresh(module, *(part[name] for part in parts))

    z = features.semantic["video"]
    parts = {
        "encoders": count(encoders),
        "video decoder": decoder(decoders.ConvDecoder(), "video"),
        "audio decoder": decoder(decoders.DenseDecoder(), "audio"),
        "cross-CPC": 2 * fresh(CpcNetwork(steps=1, features=256), z),
        "CLUB": sum(fresh(ClubNetwork(features=s), z) for s in (512, 256)),
        "codebook": 400 * 256,
    }
    assert parts == {
        "encoders": 57_697_857,
        "video decoder": 53_486_080,
        "audio decoder": 131_456,
        "cross-CPC": 2_232_320,
        "CLUB": 461_824,
        "codebook": 102_400,
    }
    assert sum(parts.values()) == 114_111_937 == pytest.approx(117.4e6, rel=0.03)
