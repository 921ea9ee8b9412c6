"""A codebook and an SAE under one interface: the same rows, trainer, measures and loss."""

import importlib.util
from pathlib import Path

import torch

import saes

PATH = Path(__file__).parents[3] / "examples" / "codebook_and_sae.py"


def test_both_are_trained_and_judged_alike(gpt2, texts):
    spec = importlib.util.spec_from_file_location("codebook_and_sae", PATH)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    book = saes.CodebookConfig(n_codes=16, k=2, layer_norm=False, similarity="euclidean")
    configs = {"sae": saes.TopKConfig(n_latents=16, k=2), "book": book}
    asked = ("mlp_out.1", configs, texts, texts)
    table = example.compared(gpt2, *asked, steps=160, batch_size=16).set_index("coder")
    assert table["L0"].tolist() == [2, 2] and table["latents"].tolist() == [16, 16]
    assert (table["FVU"] > 0).all() and (table["FVU"] < 1).all()
    assert table["dead"].between(0, 1).all() and (table["KL"] > 0).all()
    few = example.compared(gpt2, *asked, steps=1, batch_size=16).set_index("coder")
    assert (few["FVU"] > table["FVU"]).all()  # it is the training that makes them good
    again = example.compared(gpt2, *asked, steps=1, batch_size=16).set_index("coder")
    assert again.equals(few)
    assert torch.is_grad_enabled()
