"""Files that are damaged, another's, or not there: each ends in one sentence."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from interp.errors import CheckpointError, StoreError
from saes import SAE, GatedSAE, TopKSAE


@pytest.fixture
def saved(small, tmp_path):
    return small("topk").save_pretrained(tmp_path / "sae")


def refused(folder, sentence, cls=SAE):
    with pytest.raises(CheckpointError) as error:
        cls.from_pretrained(folder)
    text = str(error.value)
    assert sentence in text and text.endswith((".", "?")) and "\n" not in text, text


def edit(folder, **changes):
    document = json.loads((folder / "config.json").read_text())
    for key, value in changes.items():
        if value is None:
            del document[key]
        else:
            document[key] = value
    (folder / "config.json").write_text(json.dumps(document))


def test_what_is_written(saved, small):
    assert sorted(p.name for p in saved.iterdir()) == ["config.json", "model.safetensors"]
    document = json.loads((saved / "config.json").read_text())
    assert document == {
        "format": 1,
        "architecture": "topk",
        "d_in": 8,
        "d_out": None,
        "config": {
            "n_latents": 24,
            "k": 3,
            "k_aux": None,
            "auxk": 1 / 32,
            "multi_k": False,
            "selection": "exact",
        },
        "metadata": {},
    }
    tensors = load_file(saved / "model.safetensors")
    assert {n: list(t.shape) for n, t in tensors.items()} == {
        "encoder": [24, 8],
        "decoder": [24, 8],
        "b_enc": [24],
        "b_dec": [8],
    }


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_truncated_weights(saved, share):
    path = saved / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    refused(saved, "model.safetensors is cut short or is no safetensors file")


def test_missing_files(saved, tmp_path):
    refused(tmp_path, "holds no config.json, so it is no saved coder")
    (saved / "model.safetensors").unlink()
    refused(saved, "holds no model.safetensors")


def test_a_name_that_is_no_folder(tmp_path):
    refused(tmp_path / "nowhere", "is no folder, not in the local cache")
    refused("someone/no-such-sae", "is no folder, not in the local cache")


@pytest.mark.parametrize("text", ["", "{", "[1]", '"topk"', "{}"])
def test_config_that_is_none(saved, text):
    (saved / "config.json").write_text(text)
    refused(saved, "config.json")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"format": 2}, "has format 2; this interp reads 1."),
        ({"format": None}, "has format None; this interp reads 1."),
        ({"architecture": "topkk"}, "unknown architecture, 'topkk'; did you mean 'topk'"),
        ({"architecture": "zzz"}, "unknown architecture, 'zzz'; known are relu, gated"),
        ({"architecture": None}, "names no architecture"),
        ({"d_input": 8}, "unknown key 'd_input'; did you mean 'd_in'"),
        ({"metadata": None}, "lacks the key 'metadata'"),
        ({"d_in": "8"}, "d_in must be a whole number above 0; got '8'."),
        ({"d_in": 7}, "encoder is [24, 8], where config.json makes it [24, 7]."),
        ({"config": {"n_latents": 24}}, "TopKConfig lacks a field (k)."),
        ({"config": {"n_latents": 24, "k": 3, "kk": 1}}, "has no field 'kk'; did you mean 'k'"),
        ({"config": {"n_latents": 24, "k": 25}}, "k must be at most 24; got 25."),
        ({"config": {"n_latents": 23, "k": 3}}, "is [24, 8], where config.json makes it [23, 8]"),
        ({"config": [24, 3]}, "config must be a table"),
    ],
)
def test_config_that_does_not_fit(saved, changes, sentence):
    edit(saved, **changes)
    refused(saved, sentence)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: t.pop("b_enc"), "model.safetensors lacks b_enc."),
        (lambda t: t.update(threshold=torch.zeros(24)), "holds threshold, which this SAE does not"),
        (lambda t: t.update(b_enc=torch.zeros(23)), "b_enc is [23], where config.json makes it"),
        (lambda t: t.update(b_enc=torch.zeros(24).half()), "must hold one floating-point dtype"),
        (lambda t: t.update({k: v.long() for k, v in t.items()}), "one floating-point dtype"),
    ],
)
def test_tensors_that_do_not_fit(saved, change, sentence):
    tensors = load_file(saved / "model.safetensors")
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    change(tensors)
    save_file(tensors, saved / "model.safetensors")
    refused(saved, sentence)


def test_another_class_says_which_to_use(saved):
    refused(saved, "load it with TopKSAE.from_pretrained or SAE.from_pretrained", GatedSAE)
    assert type(TopKSAE.from_pretrained(saved)) is TopKSAE


def test_saving_again_replaces_the_whole(saved, small):
    small("gated").save_pretrained(saved)
    assert type(SAE.from_pretrained(saved)) is GatedSAE


def test_a_save_that_breaks_off_leaves_no_mixture(saved, small, monkeypatch):
    def full(path, text):
        raise StoreError("no space is left.")

    monkeypatch.setattr("saes.checkpoints.write_text", full)
    with pytest.raises(StoreError, match="no space"):
        small("gated").save_pretrained(saved)
    refused(saved, "holds no config.json")  # not the old config beside the new weights


def test_metadata_must_be_json(small, tmp_path):
    sae = small("topk")
    sae.metadata = {"model": object()}
    with pytest.raises(CheckpointError, match="config.json cannot hold this metadata"):
        sae.save_pretrained(tmp_path / "sae")
    assert not (tmp_path / "sae").exists()


def test_push_to_hub_uploads_what_is_saved(small, monkeypatch):
    import huggingface_hub

    calls = {}

    class Api:
        def create_repo(self, repo_id, *, private, exist_ok):
            calls["made"] = (repo_id, private, exist_ok)
            return f"https://hub/{repo_id}"

        def upload_folder(self, *, repo_id, folder_path, commit_message):
            calls["type"] = type(SAE.from_pretrained(folder_path))

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert small("topk").push_to_hub("me/sae", private=True) == "https://hub/me/sae"
    assert calls == {"made": ("me/sae", True, True), "type": TopKSAE}


def test_push_to_hub_says_why_it_fails(small):
    with pytest.raises(CheckpointError, match="the hub does not take 'me/sae'"):
        small("topk").push_to_hub("me/sae")  # the tests run offline
    with pytest.raises(CheckpointError, match="the hub does not take 'a b'"):
        small("topk").push_to_hub("a b")
