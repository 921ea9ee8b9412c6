"""Checkpoints that other libraries write and read, to hold `saes.import_checkpoint` to.

    PEER/bin/python examples/peer_checkpoints.py write FOLDER     # in a peer's environment
    python examples/peer_checkpoints.py export FOLDER             # in that of interp
    PEER/bin/python examples/peer_checkpoints.py check FOLDER     # in a peer's environment again

A peer is SAELens (``pip install sae-lens==6.54.12``), sparsify (``eai-sparsify==1.3.3``) or
dictionary_learning (``dictionary-learning==0.1.0``), each in an environment of its own.

``write`` lets the peer save an SAE of each of its kinds, random but with every bias, threshold and
norm away from its default, into ``FOLDER/PEER/CASE/checkpoint``, and beside it, in
``expected.safetensors``, inputs with the codes and outputs that the peer then gives for them. Cases
without that file are those that interp refuses. With INTERP_PEERS set to FOLDER,
``pytest tests/saes/test_interchange.py`` compares.

``export`` does the same the other way round, into ``FOLDER/exported/PEER/CASE``, and ``check``
compares what the peer gives; it fails where codes or outputs differ by more than 1e-5.
"""

import argparse
import contextlib
import importlib.util
import io
import json
import sys
from itertools import product
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

D, N, K, ROWS = 12, 40, 5, 64
TOLERANCE = 1e-5


def numbers(seed, *shape):
    """Normal numbers of a seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def fill(module, seed):
    """Give every parameter of a peer's module numbers that no default would hide."""
    with torch.no_grad():
        for i, (name, p) in enumerate(sorted(module.named_parameters())):
            value = numbers(100 * seed + i, *p.shape)
            if "threshold" in name:
                value = value.abs() * 0.4 - 0.1  # some below 0
            elif p.ndim == 2:
                value = value / D**0.5 * (1 + 0.5 * numbers(seed, *p.shape).abs())
            else:
                value = value * 0.3
            p.copy_(value)


def record(folder, x, codes, output):
    """What the peer gives for x, beside its checkpoint."""
    tensors = {"x": x, "codes": codes, "output": output}
    save_file(
        {k: v.detach().contiguous() for k, v in tensors.items()}, folder / "expected.safetensors"
    )


# ------------------------------------------------------------------ SAELens


def write_saelens(folder):
    """Every inference architecture, every training save, norms, and the layout before version 6."""
    import sae_lens as sl
    from sae_lens.training.activation_scaler import ActivationScaler, ActivationWhitening

    sizes = {"d_in": D, "d_sae": N}
    inference = {
        "standard": sl.StandardSAEConfig(**sizes),
        "standard_raw_input": sl.StandardSAEConfig(**sizes, apply_b_dec_to_input=False),
        "gated": sl.GatedSAEConfig(**sizes),
        "gated_raw_input": sl.GatedSAEConfig(**sizes, apply_b_dec_to_input=False),
        "jumprelu": sl.JumpReLUSAEConfig(**sizes),
        "jumprelu_raw_input": sl.JumpReLUSAEConfig(**sizes, apply_b_dec_to_input=False),
        "topk": sl.TopKSAEConfig(**sizes, k=K),
        "topk_rescaled": sl.TopKSAEConfig(**sizes, k=K, rescale_acts_by_decoder_norm=True),
        "transcoder": sl.TranscoderConfig(**sizes, d_out=7, apply_b_dec_to_input=False),
        "jumprelu_transcoder": sl.JumpReLUTranscoderConfig(
            **sizes, d_out=7, apply_b_dec_to_input=False
        ),
        "refused_skip_transcoder": sl.SkipTranscoderConfig(
            **sizes, d_out=7, apply_b_dec_to_input=False
        ),
        "refused_jumprelu_skip_transcoder": sl.JumpReLUSkipTranscoderConfig(
            **sizes, d_out=7, apply_b_dec_to_input=False
        ),
        "refused_layer_norm": sl.StandardSAEConfig(**sizes, normalize_activations="layer_norm"),
        "refused_token_norm": sl.JumpReLUSAEConfig(
            **sizes, normalize_activations="constant_norm_rescale"
        ),
        "refused_lost_scale": sl.StandardSAEConfig(
            **sizes, normalize_activations="expected_average_only_in"
        ),
        "refused_hook_z": sl.StandardSAEConfig(
            **sizes,
            reshape_activations="hook_z",
            metadata=sl.saes.sae.SAEMetadata(hook_name="blocks.0.attn.hook_z"),
        ),
        "refused_abstopk": sl.AbsTopKSAEConfig(**sizes, k=K),
        "refused_matching_pursuit": sl.MatchingPursuitSAEConfig(**sizes),
    }
    x = numbers(1, ROWS, D) + 0.5
    for i, (case, config) in enumerate(inference.items()):
        sae = sl.SAE.get_sae_class_for_architecture(config.architecture())(config)
        fill(sae, 10 + i)
        sae.save_model(folder / case / "checkpoint")
        if not case.startswith("refused"):
            again = sl.SAE.load_from_disk(folder / case / "checkpoint")
            record(folder / case, x, again.encode(x), again(x))

    more = {"k": K, "rescale_acts_by_decoder_norm": True}
    training = {
        "standard": sl.StandardTrainingSAEConfig(**sizes),
        "gated": sl.GatedTrainingSAEConfig(**sizes),
        "jumprelu": sl.JumpReLUTrainingSAEConfig(**sizes),
        "topk": sl.TopKTrainingSAEConfig(**sizes, **more),
        "batchtopk": sl.BatchTopKTrainingSAEConfig(**sizes, **more),
        "batchtopk_plain": sl.BatchTopKTrainingSAEConfig(
            **sizes, k=K, rescale_acts_by_decoder_norm=False
        ),
        "matryoshka": sl.MatryoshkaBatchTopKTrainingSAEConfig(
            **sizes, **more, matryoshka_widths=[8, 20, N]
        ),
    }
    white = numbers(3, D, D).double() / D**0.5 + torch.eye(D).double()
    whitening = ActivationWhitening(numbers(4, D).double(), white, torch.linalg.inv(white))
    for i, (case, config) in enumerate(training.items()):
        norms = {
            "": (None, None),
            "scaled": (0.37, None),
            "whitened": (None, whitening),
        }
        for j, (norm, (scale, whiten)) in enumerate(norms.items()):
            config.normalize_activations = {
                "": "none", "scaled": "expected_average_only_in", "whitened": "covariance_whitening"
            }[norm]  # fmt: skip
            sae = sl.TrainingSAE.get_sae_class_for_architecture(config.architecture())(config)
            fill(sae, 50 + 10 * i + j)
            if hasattr(sae, "topk_threshold"):
                sae.topk_threshold.fill_(0.21)
            name = f"training_{case}" + (f"_{norm}" if norm else "")
            sae.save_model(folder / name / "checkpoint")
            if norm:  # as a checkpoint during training has it: the norm is not in the weights yet
                scaler = ActivationScaler(scaling_factor=scale, whitening=whiten)
                scaler.save(str(folder / name / "checkpoint" / "activation_scaler.json"))
            if scale is not None:
                sae.fold_activation_norm_scaling_factor(scale)
            if whiten is not None:
                sae.fold_activation_whitening(whiten.mean, whiten.matrix, whiten.inverse_matrix)
            ended = folder / f"inference_{case}{'_' + norm if norm else ''}"
            sae.save_inference_model(ended / "checkpoint")
            again = sl.SAE.load_from_disk(ended / "checkpoint")
            for to in (folder / name, ended):
                record(to, x, again.encode(x), again(x))

    flat = {
        "d_in": D, "d_sae": N, "dtype": "torch.float32", "device": "cpu", "hook_point": "resid",
        "hook_point_layer": 3, "model_name": "gpt2", "normalize_activations": False,
    }  # fmt: skip
    topk = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}}
    legacy = {
        "legacy_standard": ("standard", {**flat, "activation_fn_str": "relu"}),
        "legacy_topk": ("topk", {**flat, **topk}),
        "legacy_jumprelu": ("jumprelu", {**flat, "architecture": "jumprelu"}),
        "legacy_gated": ("gated", {**flat, "architecture": "gated"}),
    }
    for case, (source, config) in legacy.items():
        checkpoint = folder / case / "checkpoint"
        checkpoint.mkdir(parents=True)
        tensors = load_file(folder / source / "checkpoint" / "sae_weights.safetensors")
        tensors["scaling_factor"] = torch.ones(N)
        save_file(tensors, checkpoint / "sae_weights.safetensors")
        (checkpoint / "cfg.json").write_text(json.dumps(config))
        again = sl.SAE.load_from_disk(checkpoint)
        record(folder / case, x, again.encode(x), again(x))


def read_saelens(checkpoint, x):
    """Codes and outputs of a checkpoint."""
    import sae_lens as sl

    sae = sl.SAE.load_from_disk(checkpoint)
    return sae.encode(x), sae(x)


# ----------------------------------------------------------------- sparsify


def _sparsify(coder, x):
    """Its forward gives the latents of the multi-top-k loss, 4 k, where that is on: not used."""
    values, indices, _ = coder.encode(x)
    codes = torch.zeros(len(x), coder.num_latents).scatter_(1, indices.long(), values)
    output = coder.decode(values, indices)
    return codes, output if coder.W_skip is None else output + x @ coder.W_skip.mT


def write_sparsify(folder):
    """Autoencoders and transcoders, with and without a skip, and group-max."""
    from sparsify import SparseCoder, SparseCoderConfig

    x = numbers(1, ROWS, D) + 0.5
    cases = {
        "topk": {"num_latents": N},
        "expansion": {"expansion_factor": 3, "normalize_decoder": False},
        "multi_topk": {"num_latents": N, "multi_topk": True},
        "transcode": {"num_latents": N, "transcode": True},
        "skip_transcode": {"num_latents": N, "transcode": True, "skip_connection": True},
        "refused_skip": {"num_latents": N, "skip_connection": True},
        "refused_groupmax": {"num_latents": N, "activation": "groupmax"},
    }
    for i, (case, config) in enumerate(cases.items()):
        coder = SparseCoder(D, SparseCoderConfig(k=K, **config))
        fill(coder, 10 + i)
        coder.save_to_disk(folder / case / "checkpoint")
        if not case.startswith("refused"):
            again = SparseCoder.load_from_disk(folder / case / "checkpoint")
            record(folder / case, x, *_sparsify(again, x))


def read_sparsify(checkpoint, x):
    """Codes and outputs of a checkpoint."""
    from sparsify import SparseCoder

    return _sparsify(SparseCoder.load_from_disk(checkpoint), x)


# ------------------------------------------------------ dictionary_learning


def write_dictionary_learning(folder):
    """Every dictionary that its `load_dictionary` knows, written as its training loop does."""
    from dictionary_learning import trainers
    from dictionary_learning.dictionary import AutoEncoderNew
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKTrainer

    x = numbers(1, ROWS, D) + 0.5
    sizes = {"steps": 9, "activation_dim": D, "dict_size": N, "layer": 3, "lm_name": "gpt2",
             "device": "cpu"}  # fmt: skip
    small = {**sizes, "warmup_steps": 1}
    sparse = {**small, "sparsity_warmup_steps": 1}
    groups = {"group_fractions": [0.2, 0.3, 0.5]}
    cases = {
        "standard": trainers.StandardTrainer(**sparse),
        "standard_any_norm": trainers.StandardTrainer(**sparse),
        "p_anneal": trainers.PAnnealTrainer(**sparse),
        "april": trainers.StandardTrainer(**sparse),
        "gated": trainers.GatedSAETrainer(**sparse),
        "jumprelu": trainers.JumpReluTrainer(**sparse),
        "topk": trainers.TopKTrainer(**small, k=K),
        "batch_topk": trainers.BatchTopKTrainer(**small, k=K),
        "matryoshka": MatryoshkaBatchTopKTrainer(**small, k=K, **groups),
    }
    for i, (case, trainer) in enumerate(cases.items()):
        ae, config = trainer.ae, dict(trainer.config)
        if case == "april":  # its trainer is not in this version, its dictionary is
            ae, config["dict_class"] = AutoEncoderNew(D, N), "AutoEncoderNew"
        fill(ae, 10 + i)
        if hasattr(ae, "threshold") and ae.threshold.ndim == 0:
            ae.threshold.fill_(0.21)
        if case in ("standard", "p_anneal"):  # what its optimiser keeps at length 1
            ae.decoder.weight.data /= ae.decoder.weight.data.norm(dim=0)
        if hasattr(ae, "scale_biases"):
            ae.scale_biases(1.7)
        checkpoint = folder / case / "checkpoint"
        checkpoint.mkdir(parents=True)
        torch.save(ae.state_dict(), checkpoint / "ae.pt")
        (checkpoint / "config.json").write_text(json.dumps({"trainer": config}, default=str))
        record(folder / case, x, *read_dictionary_learning(checkpoint, x))


def read_dictionary_learning(checkpoint, x):
    """Codes and outputs of a checkpoint."""
    from dictionary_learning.utils import load_dictionary

    with contextlib.redirect_stdout(io.StringIO()):  # it says that it normalises
        ae, _ = load_dictionary(str(checkpoint), "cpu")
    return ae.encode(x), ae(x)


PEERS = {
    "sae_lens": ("saelens", write_saelens, read_saelens),
    "sparsify": ("sparsify", write_sparsify, read_sparsify),
    "dictionary_learning": (
        "dictionary_learning", write_dictionary_learning, read_dictionary_learning,
    ),
}  # fmt: skip


# -------------------------------------------------------------------- interp


def example(architecture, d_out, *, unit_norm):
    """An SAE of interp whose weights, biases and thresholds are random."""
    import saes

    fields = {"topk": {"k": K}, "batch_topk": {"k": K}, "crosscoder": {"n_layers": 2}}
    fields |= {"matryoshka": {"k": K, "prefixes": (8, 20, N)}, "transcoder": {"k": K, "skip": True}}
    config_class, sae_class = saes.ARCHITECTURES[architecture]
    sae = sae_class(config_class(n_latents=N, **fields.get(architecture, {})), D, d_out)
    fill(sae, 90)
    with torch.no_grad():
        if hasattr(sae, "log_threshold"):
            sae.log_threshold.copy_(numbers(5, N) - 1)
        elif hasattr(sae, "threshold"):
            sae.threshold.fill_(0.21)
    if unit_norm:
        sae.normalize_decoder()
    return sae.eval()


def export(folder):
    """An SAE of each of interp's architectures in each format that can hold it."""
    import saes
    from interp.errors import CheckpointError

    x = numbers(1, ROWS, D) + 0.5
    for architecture, d_out, unit_norm in product(saes.ARCHITECTURES, (None, D, 7), (True, False)):
        if architecture == "codebook" or (architecture == "crosscoder" and d_out):
            continue
        sae = example(architecture, d_out, unit_norm=unit_norm)
        width = f"_to_{d_out}" if d_out else ""
        for name, _, _ in PEERS.values():
            to = (
                folder
                / "exported"
                / name
                / f"{architecture}{width}_{'unit' if unit_norm else 'any'}"
            )
            try:
                saes.export_checkpoint(sae, to / "checkpoint", format=name)
            except CheckpointError as error:
                print(f"{to.parent.name}/{to.name}: {error}")
            else:
                record(to, x, sae.encode(x), sae(x).output)


def check(folder, read):
    """Compare what the peer gives with what interp gave; the largest difference."""
    worst = 0.0
    for case in sorted(folder.iterdir()):
        expected = load_file(case / "expected.safetensors")
        with torch.no_grad():
            codes, output = read(case / "checkpoint", expected["x"])
        apart = [(a - b).abs().max().item() for a, b in
                 ((codes, expected["codes"]), (output, expected["output"]))]  # fmt: skip
        active = (expected["codes"] != 0).float().mean().item()
        print(f"{folder.name}/{case.name}: codes {apart[0]:.1e}, output {apart[1]:.1e}, "
              f"active {active:.2f}")  # fmt: skip
        worst = max(worst, *apart)
    return worst


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("what", choices=["write", "export", "check"])
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    if options.what == "export":
        return export(options.folder)
    here = [m for m in PEERS if importlib.util.find_spec(m)]
    if len(here) != 1:
        sys.exit(f"run this in an environment with one of {', '.join(PEERS)}; it has {here}.")
    name, write, read = PEERS[here[0]]
    if options.what == "write":
        return write(options.folder / name)
    worst = check(options.folder / "exported" / name, read)
    if not worst <= TOLERANCE:
        sys.exit(f"{name} differs by {worst:.1e}, more than {TOLERANCE:.0e}.")


if __name__ == "__main__":
    main()
