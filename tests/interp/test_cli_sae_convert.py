"""interp sae convert: there and back with equal codes, and refusals that write nothing."""

import json

import pytest
import torch

import saes


@pytest.fixture
def sae(tmp_path):
    generator = torch.Generator().manual_seed(0)
    made = saes.TopKSAE(saes.TopKConfig(n_latents=24, k=3), 8, generator=generator)
    with torch.no_grad():
        made.b_dec.normal_(generator=generator)
        made.b_enc.normal_(generator=generator)
    made.save_pretrained(tmp_path / "sae")
    return made


@pytest.mark.parametrize("to", ["saelens", "sparsify", "dictionary_learning"])
def test_there_and_back_gives_the_same_codes(invoke, sae, tmp_path, to):
    source, there, back = (tmp_path / n for n in ("sae", "there", "back"))
    assert invoke("sae", "convert", source, "--out", there, "--to", to).exit_code == 0
    assert not (there / "model.safetensors").exists()
    assert invoke("sae", "convert", there, "--out", back).exit_code == 0
    x = torch.randn(16, 8, generator=torch.Generator().manual_seed(1))
    found = saes.SAE.from_pretrained(back)
    torch.testing.assert_close(found.encode(x), sae.encode(x), rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        found.b_enc.add_(1)
    assert not torch.allclose(found.encode(x), sae.encode(x))


def test_json_says_what_was_converted(invoke, sae, tmp_path):
    done = invoke("sae", "convert", tmp_path / "sae", "--out", tmp_path / "a", "--json")
    assert json.loads(done.stdout)["architecture"] == "topk"


def test_a_dry_run_writes_nothing(invoke, sae, tmp_path):
    out = tmp_path / "out"
    done = invoke("sae", "convert", tmp_path / "sae", "--out", out, "--to", "saelens", "--dry-run")
    assert done.exit_code == 0 and "would be written" in done.stderr and not out.exists()


def test_wrong_uses_are_refused_in_a_sentence(invoke, sae, tmp_path):
    source, out = tmp_path / "sae", tmp_path / "out"
    for arguments, code, said in (
        ([source, "--to", "onnx"], 2, "must be one of"),
        ([tmp_path / "nothing"], 1, "does not exist"),
        ([tmp_path], 1, "holds none of"),
    ):
        done = invoke("sae", "convert", *arguments, "--out", out)
        assert done.exit_code == code and said in done.stderr and not out.exists()
    done = invoke("sae", "convert", source, "--out", source)
    assert done.exit_code == 1 and "not empty" in done.stderr
    assert invoke("sae", "convert", source, "--out", source, "--force").exit_code == 0
