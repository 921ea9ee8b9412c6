"""Other libraries' checkpoints, written here by hand in their layouts.

The codes to agree with are plain numpy in float64, after each library's own formulas.
"""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import saes
from interp.errors import CheckpointError, ParameterError

D, N, K, OUT = 6, 16, 3, 4
TOLERANCE = 1e-5
V6 = {"d_in": D, "d_sae": N, "dtype": "float32", "metadata": {"sae_lens_version": "6.1.0"}}
X = np.random.default_rng(7).normal(0.5, 1, (40, D))


def arrays(seed=0, d_out=D):
    """Weights in SAELens's layout; no bias is 0, no decoder row of length 1."""
    rng = np.random.default_rng(seed)
    names = {"b_enc": N, "b_gate": N, "b_mag": N, "r_mag": N, "threshold": N, "b_dec": d_out}
    made = {name: 0.4 * rng.normal(size=size) for name, size in names.items()}
    made |= {"W_enc": rng.normal(size=(D, N)) / D**0.5, "W_dec": rng.normal(size=(N, d_out)) / 3}
    return {name: a.astype(np.float32) for name, a in made.items()}


def tensors(a, names):
    return {name: torch.from_numpy(np.ascontiguousarray(a[name])) for name in names.split()}


def relu(a):
    return np.maximum(a, 0)


def top(a, k):
    """The k largest of each row, those below 0 as 0."""
    least = np.sort(a, axis=1)[:, -k][:, None]
    return np.where(a >= least, relu(a), 0)


def codes_of(kind, a, x=X, *, centred=True, k=K):
    """Codes by the formulas that all three libraries share."""
    a = {name: value.astype(np.float64) for name, value in a.items()}
    u = (x - a["b_dec"] if centred else x) @ a["W_enc"]
    if kind == "gated":
        return relu(np.exp(a["r_mag"]) * u + a["b_mag"]) * (u + a["b_gate"] > 0)
    pre = u + a["b_enc"]
    if kind == "jumprelu":
        return relu(pre) * (pre > a["threshold"])
    return top(pre, k) if kind == "topk" else relu(pre)


def decoded(z, a):
    return z @ a["W_dec"].astype(np.float64) + a["b_dec"]


def assert_gives(sae, codes, output, x=X):
    x = torch.from_numpy(x).float()
    with torch.no_grad():
        np.testing.assert_allclose(sae.encode(x).numpy(), codes, rtol=0, atol=TOLERANCE)
        np.testing.assert_allclose(sae(x).output.numpy(), output, rtol=0, atol=TOLERANCE)


def write_saelens(folder, config, found):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cfg.json").write_text(json.dumps(config))
    save_file(found, folder / "sae_weights.safetensors")
    return folder


def write_sparsify(folder, a, **config):
    folder.mkdir(parents=True, exist_ok=True)
    known = {"activation": "topk", "num_latents": N, "k": K, "d_in": D, "expansion_factor": 32}
    (folder / "cfg.json").write_text(json.dumps({**known, **config}))
    found = {"encoder.weight": a["W_enc"].T, "encoder.bias": a["b_enc"], "W_dec": a["W_dec"],
             "b_dec": a["b_dec"]}  # fmt: skip
    if "W_skip" in a:
        found["W_skip"] = a["W_skip"]
    save_file(tensors(found, " ".join(found)), folder / "sae.safetensors")
    return folder


def write_dictionary(folder, theirs, found, **trainer):
    folder.mkdir(parents=True, exist_ok=True)
    document = {"trainer": {"dict_class": theirs, "lm_name": "gpt2", **trainer}}
    (folder / "config.json").write_text(json.dumps(document))
    state = {k: torch.from_numpy(np.array(v, order="C")) for k, v in found.items()}
    torch.save(state, folder / "ae.pt")
    return folder


NAMES = {
    "standard": "W_enc W_dec b_dec b_enc",
    "topk": "W_enc W_dec b_dec b_enc",
    "jumprelu": "W_enc W_dec b_dec b_enc threshold",
    "gated": "W_enc W_dec b_dec b_gate b_mag r_mag",
}
OURS = {"standard": "relu", "topk": "topk", "jumprelu": "jumprelu", "gated": "gated"}


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("kind", NAMES)
def test_saelens(tmp_path, kind, centred):
    a = arrays()
    config = {**V6, "architecture": kind, "k": K, "apply_b_dec_to_input": centred}
    sae = saes.import_checkpoint(write_saelens(tmp_path, config, tensors(a, NAMES[kind])))
    z = codes_of(kind, a, centred=centred)
    assert_gives(sae, z, decoded(z, a))
    assert sae.architecture == OURS[kind] and not sae.training
    assert all(p.requires_grad for p in sae.parameters())  # it can be trained on
    other = codes_of(kind, a, centred=not centred)  # so a wrong reading of b_dec would show
    assert np.abs(z - other).max() > 0.1


@pytest.mark.parametrize("kind", ["standard", "jumprelu"])
def test_saelens_transcoders_of_two_widths(tmp_path, kind):
    a = arrays(d_out=OUT)
    name = {"standard": "transcoder", "jumprelu": "jumprelu_transcoder"}[kind]
    config = {**V6, "architecture": name, "apply_b_dec_to_input": False, "d_out": OUT}
    sae = saes.import_checkpoint(write_saelens(tmp_path, config, tensors(a, NAMES[kind])))
    z = codes_of(kind, a, centred=False)
    assert_gives(sae, z, decoded(z, a))
    assert sae.transcodes and sae.d_out == OUT


def test_saelens_rescaled_latents(tmp_path):
    """pre * |W_dec| picks and measures the latents; the output divides it out again."""
    a = arrays()
    length = np.linalg.norm(a["W_dec"].astype(np.float64), axis=1)
    config = {**V6, "architecture": "topk", "k": K, "rescale_acts_by_decoder_norm": True}
    sae = saes.import_checkpoint(write_saelens(tmp_path, config, tensors(a, NAMES["topk"])))
    pre = (X - a["b_dec"]) @ a["W_enc"].astype(np.float64) + a["b_enc"]
    z = top(pre * length, K)
    assert_gives(sae, z, decoded(z / length, a))
    assert ((z > 0) != (top(pre, K) > 0)).any()  # without it other latents are picked


@pytest.mark.parametrize("rescaled", [True, False])
@pytest.mark.parametrize("kind", ["batchtopk", "matryoshka_batchtopk"])
def test_saelens_batch_topk_as_saved_in_training(tmp_path, kind, rescaled):
    a = arrays()
    config = {**V6, "architecture": kind, "k": 3.0, "matryoshka_widths": [4, 9, N],
              "rescale_acts_by_decoder_norm": rescaled}  # fmt: skip
    found = tensors(a, NAMES["topk"])
    found["topk_threshold"] = torch.tensor(0.7, dtype=torch.float64)
    sae = saes.import_checkpoint(write_saelens(tmp_path, config, found))
    length = np.linalg.norm(a["W_dec"].astype(np.float64), axis=1) if rescaled else 1
    pre = ((X - a["b_dec"]) @ a["W_enc"].astype(np.float64) + a["b_enc"]) * length
    z = pre * (pre > 0.7)
    assert_gives(sae, z, decoded(z / length, a))
    assert sae.config.k == 3
    if kind != "batchtopk":
        assert sae.config.prefixes == (4, 9, N)


def test_saelens_batch_topk_as_saved_for_inference(tmp_path):
    a = {**arrays(), "threshold": np.full(N, 0.7, np.float32)}
    metadata = {"sae_lens_version": "6.1.0", "training_architecture": "batchtopk"}
    config = {**V6, "architecture": "jumprelu", "metadata": metadata}
    sae = saes.import_checkpoint(write_saelens(tmp_path, config, tensors(a, NAMES["jumprelu"])))
    z = codes_of("jumprelu", a)
    assert_gives(sae, z, decoded(z, a))
    assert sae.architecture == "jumprelu"
    assert sae.metadata["training_architecture"] == "batchtopk"
    assert not np.array_equal(z > 0, codes_of("standard", a) > 0)  # the threshold does something


@pytest.mark.parametrize("kind", NAMES)
def test_saelens_scale_of_the_activations_is_folded_in(tmp_path, kind):
    a, scale = arrays(), 0.3
    config = {**V6, "architecture": kind, "k": K,
              "normalize_activations": "expected_average_only_in"}  # fmt: skip
    write_saelens(tmp_path, config, tensors(a, NAMES[kind]))
    with pytest.raises(CheckpointError, match="does not say by how much; put its activation_scal"):
        saes.import_checkpoint(tmp_path)
    (tmp_path / "activation_scaler.json").write_text(json.dumps({"scaling_factor": scale}))
    z = codes_of(kind, a, scale * X)
    assert_gives(saes.import_checkpoint(tmp_path), z, decoded(z, a) / scale)


def test_saelens_scale_and_rescaled_latents_fold_as_in_its_final_file(tmp_path):
    """Folding the scale shortens decoder rows, so that latents and threshold shrink alike."""
    a, scale = arrays(), 0.3
    config = {**V6, "architecture": "batchtopk", "k": K, "rescale_acts_by_decoder_norm": True,
              "normalize_activations": "expected_average_only_in"}  # fmt: skip
    found = {**tensors(a, NAMES["topk"]), "topk_threshold": torch.tensor(0.4).double()}
    write_saelens(tmp_path, config, found)
    (tmp_path / "activation_scaler.json").write_text(json.dumps({"scaling_factor": scale}))
    length = np.linalg.norm(a["W_dec"].astype(np.float64), axis=1)
    pre = ((scale * X - a["b_dec"]) @ a["W_enc"].astype(np.float64) + a["b_enc"]) * length
    z = pre * (pre > 0.4)
    assert (z > 0).any() and ((pre > 0) != (z > 0)).any()
    assert_gives(saes.import_checkpoint(tmp_path), z / scale, decoded(z / length, a) / scale)


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("kind", NAMES)
def test_saelens_whitening_is_folded_in(tmp_path, kind, centred):
    a, rng = arrays(), np.random.default_rng(3)
    mean, matrix = rng.normal(size=D), np.eye(D) + 0.3 * rng.normal(size=(D, D))
    inverse = np.linalg.inv(matrix)
    config = {**V6, "architecture": kind, "k": K, "apply_b_dec_to_input": centred,
              "normalize_activations": "covariance_whitening"}  # fmt: skip
    write_saelens(tmp_path, config, tensors(a, NAMES[kind]))
    (tmp_path / "activation_scaler.json").write_text('{"scaling_factor": null}')
    norm = {"mean": mean, "matrix": matrix, "inverse_matrix": inverse}
    save_file(tensors(norm, " ".join(norm)), tmp_path / "activation_whitening.safetensors")
    z = codes_of(kind, a, (X - mean) @ matrix, centred=centred)
    assert_gives(saes.import_checkpoint(tmp_path), z, decoded(z, a) @ inverse + mean)


def test_saelens_before_version_6(tmp_path):
    a = arrays()
    flat = {"d_in": D, "d_sae": N, "hook_point": "blocks.3.hook_resid_pre", "model_name": "gpt2",
            "normalize_activations": False}  # fmt: skip
    topk = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}}
    found = {**tensors(a, NAMES["topk"]), "scaling_factor": torch.ones(N)}
    for name, more, kind in (("plain", {}, "standard"), ("topk", topk, "topk")):
        sae = saes.import_checkpoint(write_saelens(tmp_path / name, {**flat, **more}, found))
        z = codes_of(kind, a)
        assert_gives(sae, z, decoded(z, a))
        assert sae.metadata["hook_name"] == "blocks.3.hook_resid_pre"


def test_saelens_thresholds_by_logarithm_and_factors_of_fine_tuning(tmp_path):
    a = arrays()
    a["threshold"] = np.abs(a["threshold"]) + np.float32(0.1)
    found = tensors(a, NAMES["standard"])
    found["log_threshold"] = torch.from_numpy(np.log(a["threshold"]))
    config = {**V6, "architecture": "jumprelu"}
    z = codes_of("jumprelu", a)
    assert_gives(saes.import_checkpoint(write_saelens(tmp_path, config, found)), z, decoded(z, a))
    found["scaling_factor"] = torch.full((N,), 1.5)
    with pytest.raises(CheckpointError, match="scaling_factor from fine-tuning"):
        saes.import_checkpoint(write_saelens(tmp_path, config, found))


@pytest.mark.parametrize("transcode", [True, False])
def test_sparsify(tmp_path, transcode):
    a = arrays()
    sae = saes.import_checkpoint(write_sparsify(tmp_path, a, transcode=transcode))
    z = codes_of("topk", a, centred=not transcode)
    assert_gives(sae, z, decoded(z, a))
    assert sae.transcodes == transcode


def test_sparsify_width_from_the_expansion_factor_and_a_skip_connection(tmp_path):
    a = arrays()
    wide = {**a, "W_enc": a["W_enc"][:, : 2 * D], "W_dec": a["W_dec"][: 2 * D]}
    wide["b_enc"] = a["b_enc"][: 2 * D]
    wide["W_skip"] = np.random.default_rng(4).normal(size=(D, D)).astype(np.float32)
    more = {"num_latents": 0, "expansion_factor": 2, "transcode": True, "skip_connection": True}
    sae = saes.import_checkpoint(write_sparsify(tmp_path, wide, **more))
    z = codes_of("topk", wide, centred=False)
    assert_gives(sae, z, decoded(z, wide) + X @ wide["W_skip"].T.astype(np.float64))


def their_tensors(theirs, a):
    """The state dict of a dictionary_learning class."""
    linear = {"encoder.weight": a["W_enc"].T, "decoder.weight": a["W_dec"].T}
    k = {"k": np.array(K, np.int32), "threshold": np.array(0.7, np.float32)}
    plain = {name: a[name] for name in ("W_enc", "W_dec", "b_enc", "b_dec")}
    biases = {"decoder_bias": a["b_dec"], "gate_bias": a["b_gate"], "mag_bias": a["b_mag"]}
    return {
        "AutoEncoder": {**linear, "encoder.bias": a["b_enc"], "bias": a["b_dec"]},
        "AutoEncoderNew": {**linear, "encoder.bias": a["b_enc"], "decoder.bias": a["b_dec"]},
        "GatedAutoEncoder": {**linear, **biases, "r_mag": a["r_mag"]},
        "JumpReluAutoEncoder": {**plain, "threshold": a["threshold"]},
        "AutoEncoderTopK": {**linear, **k, "encoder.bias": a["b_enc"], "b_dec": a["b_dec"]},
        "BatchTopKSAE": {**linear, **k, "encoder.bias": a["b_enc"], "b_dec": a["b_dec"]},
        "MatryoshkaBatchTopKSAE": {**plain, **k, "group_sizes": np.array([4, 5, N - 9])},
    }[theirs]


DICTIONARIES = {
    "AutoEncoder": ("standard", True),
    "AutoEncoderNew": ("standard", False),
    "GatedAutoEncoder": ("gated", True),
    "JumpReluAutoEncoder": ("jumprelu", False),
    "AutoEncoderTopK": ("topk", True),
    "BatchTopKSAE": ("jumprelu", True),
    "MatryoshkaBatchTopKSAE": ("jumprelu", True),
}
"""Their class -> the formula, and whether the bias is taken off the input."""


@pytest.mark.parametrize("theirs", DICTIONARIES)
def test_dictionary_learning(tmp_path, theirs):
    a = arrays()
    write_dictionary(tmp_path, theirs, their_tensors(theirs, a), k=K)
    kind, centred = DICTIONARIES[theirs]
    if theirs in ("BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
        a["threshold"] = np.full(N, 0.7, np.float32)
    z = codes_of(kind, a, centred=centred)
    output = decoded(z, a)
    if theirs == "AutoEncoder":  # its loader gives decoder rows length 1
        z = z * np.linalg.norm(a["W_dec"], axis=1)
    sae = saes.import_checkpoint(tmp_path)
    assert_gives(sae, z, output)
    assert sae.metadata["trainer"]["lm_name"] == "gpt2"
    if theirs == "MatryoshkaBatchTopKSAE":
        assert sae.config.prefixes == (4, 9, N)


def test_dictionary_learning_checkpoints_lie_below_their_config(tmp_path):
    a = arrays()
    write_dictionary(tmp_path, "AutoEncoderTopK", their_tensors("AutoEncoderTopK", a), k=K)
    (tmp_path / "checkpoints").mkdir()
    moved = shutil.move(tmp_path / "ae.pt", tmp_path / "checkpoints" / "ae_500.pt")
    z = codes_of("topk", a)
    assert_gives(saes.import_checkpoint(moved), z, decoded(z, a))


def test_a_threshold_that_was_never_set_stays_unset(tmp_path):
    found = their_tensors("BatchTopKSAE", arrays())
    found["threshold"] = np.array(-1, np.float32)
    sae = saes.import_checkpoint(write_dictionary(tmp_path / "a", "BatchTopKSAE", found, k=K))
    assert sae.threshold.isnan()
    again = saes.export_checkpoint(sae, tmp_path / "b", "dictionary_learning")
    assert torch.load(again / "ae.pt", weights_only=True)["threshold"] == -1
    with pytest.raises(CheckpointError, match="no threshold yet, and SAELens stores one"):
        saes.export_checkpoint(sae, tmp_path / "c", "saelens")


def test_the_dtype_is_kept_or_widened(tmp_path):
    a = arrays()
    for stored, given in (("float16", "float32"), ("bfloat16", "float32"), ("float64",) * 2):
        dtype = getattr(torch, stored)
        found = {k: v.to(dtype) for k, v in tensors(a, NAMES["standard"]).items()}
        config = {**V6, "architecture": "standard"}
        sae = saes.import_checkpoint(write_saelens(tmp_path / stored, config, found))
        assert sae.encoder.dtype == getattr(torch, given)
        assert torch.equal(sae.W_enc, found["W_enc"].to(sae.encoder.dtype))


FIELDS = {"topk": {"k": K}, "batch_topk": {"k": K}, "matryoshka": {"k": K, "prefixes": (4, 9, N)},
          "transcoder": {"k": K, "skip": True}, "crosscoder": {"n_layers": 2},
          "codebook": {"k": K, "layer_norm": False}, "vl": {"k": K}}  # fmt: skip


def example(name, d_out=None):
    """An SAE of interp with no weight, bias or threshold at its first value."""
    generator = torch.Generator().manual_seed(5)
    config_class, sae_class = saes.ARCHITECTURES[name]
    width = {"n_codes" if name == "codebook" else "n_latents": N}
    config = config_class(**width, **FIELDS.get(name, {}))
    sae = sae_class(config, D, d_out, generator=generator)
    with torch.no_grad():
        for p in sae.parameters():
            p += 0.3 * torch.randn(p.shape, generator=generator)
        for buffer in sae.buffers():
            buffer.fill_(0.4)
    return sae.eval()


AUTOENCODERS = ("relu", "gated", "topk", "batch_topk", "jumprelu", "matryoshka")
HELD = {
    "saelens": [(a, None) for a in AUTOENCODERS]
    + [(a, d) for a in ("relu", "jumprelu", "batch_topk", "matryoshka") for d in (D, OUT)],
    "sparsify": [("topk", None), ("topk", D), ("transcoder", None)],
    "dictionary_learning": [(a, None) for a in AUTOENCODERS],
}
"""Format -> what it can hold: our architecture, and d_out."""


@pytest.mark.parametrize(("format", "name", "d_out"), [(f, *c) for f in HELD for c in HELD[f]])
def test_what_is_exported_comes_back(tmp_path, format, name, d_out):
    sae = example(name, d_out)
    sae.metadata = {"hook_name": "resid_post.3"}
    back = saes.import_checkpoint(saes.export_checkpoint(sae, tmp_path, format))
    x = torch.from_numpy(X).float()
    with torch.no_grad():
        assert_gives(back, sae.encode(x).numpy(), sae(x).output.numpy())
        assert (sae.encode(x) > 0).any()
    assert back.transcodes == sae.transcodes
    if format != "saelens":  # there, what has a threshold is a jumprelu SAE
        same = back.architecture == name or (name, d_out) == ("topk", D)
        assert same and getattr(back.config, "k", None) == getattr(sae.config, "k", None)
    else:
        assert back.metadata["hook_name"] == "resid_post.3"


@pytest.mark.parametrize("format", HELD)
def test_what_a_format_cannot_hold_is_refused_and_nothing_written(tmp_path, format):
    refused = 0
    for name in saes.ARCHITECTURES:
        for d_out in (None, D, OUT):
            wide = D if name == "transcoder" and d_out is None else d_out
            listed = (name, wide) in HELD[format] or (name, d_out) in HELD[format]
            if (
                listed
                or (name, d_out) == ("transcoder", D)
                or (name in ("crosscoder", "codebook", "vl") and d_out)
            ):
                continue
            with pytest.raises(CheckpointError, match="has no|stores topk|have one width"):
                saes.export_checkpoint(example(name, d_out), tmp_path / "to", format)
            refused += 1
    assert refused > 3 and not (tmp_path / "to").exists()


def test_exported_layouts_are_those_that_the_libraries_read(tmp_path):
    sae = example("topk")
    saes.export_checkpoint(sae, tmp_path / "lens", "saelens")
    config = json.loads((tmp_path / "lens" / "cfg.json").read_text())
    assert config["architecture"] == "topk" and config["apply_b_dec_to_input"] is True
    assert config["metadata"]["sae_lens_version"].startswith("6.")  # else it reads an older layout
    found = load_file(tmp_path / "lens" / "sae_weights.safetensors")
    assert torch.equal(found["W_enc"], sae.W_enc) and torch.equal(found["W_dec"], sae.W_dec)

    saes.export_checkpoint(sae, tmp_path / "sparsify", "sparsify")
    found = load_file(tmp_path / "sparsify" / "sae.safetensors")
    assert set(found) == {"encoder.weight", "encoder.bias", "W_dec", "b_dec"}
    assert torch.equal(found["encoder.weight"], sae.encoder)

    saes.export_checkpoint(sae, tmp_path / "dict", "dictionary_learning")
    found = torch.load(tmp_path / "dict" / "ae.pt", weights_only=True)
    assert torch.equal(found["decoder.weight"], sae.W_dec.T)
    assert found["k"].dtype == torch.int32 and found["k"] == K and found["threshold"] == -1


def test_what_saelens_makes_a_jumprelu_sae_says_what_it_was(tmp_path):
    saes.export_checkpoint(example("matryoshka"), tmp_path, "saelens")
    config = json.loads((tmp_path / "cfg.json").read_text())
    assert config["architecture"] == "jumprelu"
    assert config["metadata"]["training_architecture"] == "matryoshka_batchtopk"
    details = config["metadata"]["training_architecture_details"]
    assert details == {"k": K, "matryoshka_widths": [4, 9, N]}


def test_a_relu_sae_is_only_an_autoencoder_of_theirs_with_unit_rows(tmp_path):
    """Their loader would change the size of its latents otherwise."""
    sae = example("relu")
    classes = {}
    for name in ("any", "unit"):
        saes.export_checkpoint(sae, tmp_path / name, "dictionary_learning")
        config = json.loads((tmp_path / name / "config.json").read_text())
        classes[name] = config["trainer"]["dict_class"]
        sae.normalize_decoder()
    assert classes == {"any": "AutoEncoderNew", "unit": "AutoEncoder"}


def test_export_keeps_two_formats_apart_and_replaces_its_own(tmp_path):
    sae = example("topk")
    saes.export_checkpoint(sae, tmp_path, "sparsify")
    saes.export_checkpoint(sae, tmp_path, "sparsify")
    with pytest.raises(CheckpointError, match="already holds sae.safetensors of sparsify"):
        saes.export_checkpoint(sae, tmp_path, "saelens")
    with pytest.raises(ParameterError, match="format must be one of 'saelens'.*got 'sae_lens'"):
        saes.export_checkpoint(sae, tmp_path, "sae_lens")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"architecture": "abstopk"}, "architecture 'abstopk'; interp reads standard"),
        ({"architecture": "skip_transcoder"}, "architecture 'skip_transcoder'"),
        ({"architecture": ["topk"]}, "interp reads standard"),
        ({"normalize_activations": "layer_norm"}, "normalises each activation as it runs"),
        ({"normalize_activations": "constant_norm_rescale"}, "as it runs"),
        ({"normalize_activations": "new"}, "unknown normalize_activations, 'new'"),
        ({"reshape_activations": "hook_z"}, "reshapes heads into one axis"),
        ({"activation_fn": "tanh-relu"}, "uses the activation 'tanh-relu'"),
        ({"apply_b_dec_to_input": "yes"}, "apply_b_dec_to_input must be true or false"),
        ({"d_sae": "many"}, "d_sae must be a whole number of at least 1; got 'many'"),
        ({"d_sae": N + 1}, r"W_enc is \[6, 16\]; the rest of the checkpoint makes it \[6, 17\]"),
        ({"architecture": "jumprelu"}, "lacks the tensor threshold"),
        ({"architecture": "topk", "k": N + 1}, "k must be at most 16"),
        ({"architecture": "topk"}, "k must be a whole number of at least 1; got None"),
        ({"architecture": "batchtopk", "k": 2.5}, "trains with k=2.5"),
        ({"architecture": "transcoder", "d_out": D}, "a transcoder's must be false"),
        ({"metadata": {}, "hook_name": "blocks.0.attn.hook_z"}, "reshapes heads"),
    ],
)
def test_saelens_refusals(tmp_path, change, says):
    found = tensors(arrays(), NAMES["standard"])
    config = {**V6, "architecture": "standard"}
    saes.import_checkpoint(
        write_saelens(tmp_path, config, found)
    )  # which is good before the change
    with pytest.raises(CheckpointError, match=says) as caught:
        saes.import_checkpoint(write_saelens(tmp_path, {**config, **change}, found))
    assert str(caught.value).count("\n") == 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"activation": "groupmax"}, "uses the activation 'groupmax'; interp reads topk"),
        ({"signed": True}, "keeps negative latents"),
        ({"skip_connection": True}, "an autoencoder with a skip_connection"),
        ({"skip_connection": True, "transcode": True}, "lacks the tensor W_skip"),
        ({"num_latents": 8}, r"encoder.weight is \[16, 6\]"),
        ({"k": 0}, "k must be a whole number of at least 1; got 0"),
    ],
)
def test_sparsify_refusals(tmp_path, change, says):
    saes.import_checkpoint(write_sparsify(tmp_path, arrays()))
    with pytest.raises(CheckpointError, match=says):
        saes.import_checkpoint(write_sparsify(tmp_path, arrays(), **change))


@pytest.mark.parametrize(
    ("theirs", "trainer", "change", "says"),
    [
        ("IdentityDict", {}, {}, "class 'IdentityDict'; interp reads AutoEncoder"),
        ("AutoEncoder", {}, {"bias": None}, "lacks the tensor bias"),
        ("AutoEncoder", {}, {"extra": np.zeros(3)}, "holds 'extra', which import_checkpoint"),
        ("AutoEncoder", {}, {"bias": np.zeros(3)}, r"bias is \[3\]"),
        ("AutoEncoder", {}, {"bias": np.full(D, np.nan)}, "bias must hold finite"),
        ("AutoEncoder", {}, {"encoder.weight": None}, "lacks the matrix encoder.weight"),
        ("AutoEncoder", {}, {"decoder.weight": np.zeros((D, N))}, "decoder rows are 0"),
        ("AutoEncoderTopK", {"k": K + 1}, {}, "k is 3, and config.json says 4"),
        ("MatryoshkaBatchTopKSAE", {"k": K}, {"group_sizes": None}, "lacks group_sizes"),
        ("MatryoshkaBatchTopKSAE", {"k": K}, {"group_sizes": np.array([4, 5])}, "prefixes must"),
    ],
)
def test_dictionary_learning_refusals(tmp_path, theirs, trainer, change, says):
    known = theirs if theirs in DICTIONARIES else "AutoEncoder"
    found = {**their_tensors(known, arrays()), **change}
    found = {name: value for name, value in found.items() if value is not None}
    with pytest.raises(CheckpointError, match=says):
        saes.import_checkpoint(write_dictionary(tmp_path, theirs, found, **trainer))


def test_a_pickle_that_would_run_something_is_refused_before_it_runs(tmp_path):
    class Runs:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    write_dictionary(tmp_path, "AutoEncoder", their_tensors("AutoEncoder", arrays()))
    torch.save({"bias": Runs()}, tmp_path / "ae.pt")
    with pytest.raises(CheckpointError, match="holds more than tensors; nothing in it was run"):
        saes.import_checkpoint(tmp_path)
    assert not (tmp_path / "ran").exists()
    loaded = torch.load(tmp_path / "ae.pt", weights_only=False)  # it does run where that is allowed
    loaded["bias"].close()
    assert (tmp_path / "ran").exists()


def test_a_backup_with_an_optimiser_is_refused(tmp_path):
    write_dictionary(tmp_path, "AutoEncoder", their_tensors("AutoEncoder", arrays()))
    torch.save({"step": 5, "ae": {}, "optimizer": {}}, tmp_path / "ae.pt")
    with pytest.raises(CheckpointError, match="something else than tensors by name"):
        saes.import_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["sae_weights.safetensors", "sae.safetensors", "ae.pt"])
def test_a_file_that_is_cut_short(tmp_path, name):
    if name == "ae.pt":
        write_dictionary(tmp_path, "AutoEncoder", their_tensors("AutoEncoder", arrays()))
    elif name == "sae.safetensors":
        write_sparsify(tmp_path, arrays())
    else:
        config = {**V6, "architecture": "standard"}
        write_saelens(tmp_path, config, tensors(arrays(), NAMES["standard"]))
    whole = (tmp_path / name).read_bytes()
    for size in (0, 5, len(whole) // 2):
        (tmp_path / name).write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=f"{name} is (cut short|damaged)"):
            saes.import_checkpoint(tmp_path)


def test_folders_and_files_that_are_no_checkpoint(tmp_path):
    run = tmp_path / "run"
    write_sparsify(run / "layers.3", arrays())
    release = tmp_path / "release"  # as dictionary_learning's lie on the hub
    for i in (0, 1):
        place = release / "gpt2" / "resid_post_layer_4" / f"trainer_{i}"
        write_dictionary(place, "AutoEncoder", their_tensors("AutoEncoder", arrays()))
    own = example("topk").save_pretrained(tmp_path / "own")
    (tmp_path / "notes.txt").write_text("x")
    for path, says in (
        (tmp_path / "absent", "does not exist"),
        (tmp_path / "notes.txt", "is no file of a checkpoint"),
        (tmp_path, "holds none of sae_weights.safetensors, sae.safetensors, ae.pt"),
        (run, r"give one of the folders in it: layers\.3\."),
        (release, r"folders in it: gpt2/resid_post_layer_4/trainer_0, .*trainer_1\."),
        (own, "load it with saes.SAE.from_pretrained"),
    ):
        with pytest.raises(CheckpointError, match=says):
            saes.import_checkpoint(path)
    (run / "layers.3" / "cfg.json").unlink()
    with pytest.raises(CheckpointError, match="holds no cfg.json"):
        saes.import_checkpoint(run / "layers.3")
    (run / "layers.3" / "cfg.json").write_text("[]")
    with pytest.raises(CheckpointError, match="must hold a JSON object"):
        saes.import_checkpoint(run / "layers.3" / "sae.safetensors")
    write_dictionary(run / "layers.3", "AutoEncoder", their_tensors("AutoEncoder", arrays()))
    with pytest.raises(CheckpointError, match="of two libraries"):
        saes.import_checkpoint(run / "layers.3")


PEERS = Path(os.environ.get("INTERP_PEERS", ""))
CASES = sorted(PEERS.glob("*/*/checkpoint")) if "INTERP_PEERS" in os.environ else []


@pytest.mark.real
@pytest.mark.skipif(
    not CASES,
    reason="set INTERP_PEERS to the folder that examples/peer_checkpoints.py writes in the "
    "environments of SAELens, sparsify and dictionary_learning",
)
@pytest.mark.parametrize(
    "checkpoint", CASES or [PEERS], ids=lambda p: f"{p.parent.parent.name}-{p.parent.name}"
)
def test_what_the_libraries_wrote_gives_their_codes(checkpoint):
    if checkpoint.parent.name.startswith("refused"):
        with pytest.raises(CheckpointError):
            saes.import_checkpoint(checkpoint)
        return
    expected = load_file(checkpoint.parent / "expected.safetensors")
    sae = saes.import_checkpoint(checkpoint)
    given = [expected[name].numpy() for name in ("codes", "output", "x")]
    assert_gives(sae, *given)
    assert (given[0] > 0).any()
