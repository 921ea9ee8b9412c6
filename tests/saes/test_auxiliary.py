"""The auxiliary autoencoder: its loss by the reference's numbers, what it learns, its files."""

import json
import math

import pytest
import torch
from torch.testing import assert_close

import saes
from interp.errors import CheckpointError, DataError, ParameterError, ShapeError
from saes import AuxiliaryAE, AuxiliaryConfig, info_nce
from saes.rows import seeded

V, L = torch.tensor([[0.2, 0.1], [0.0, 0.3]]), torch.tensor([[0.1, 0.2], [0.3, 0.1]])


def unaligned(n=600, seed=0):
    """Hidden rows seen through two unrelated maps of unlike widths, the same for every seed."""
    hidden = torch.randn(n, 6, generator=seeded(seed, "hidden"))
    maps = seeded(0, "maps")
    return tuple(hidden @ torch.randn(6, d, generator=maps) for d in (10, 8))


def test_v5_info_nce_of_the_code_and_of_the_paper():
    assert float(info_nce(V, L, mode="released_code")) == pytest.approx(0.931436, abs=1e-6)
    assert float(info_nce(V, L)) == pytest.approx(5.560589, abs=1e-5)
    assert float(info_nce(3 * V, 7 * L)) == pytest.approx(5.560589, abs=1e-5)
    assert float(info_nce(V[:1], L[:1])) == 0
    same = torch.ones(5, 2)
    assert float(info_nce(same, same)) == pytest.approx(math.log(5))


def test_unaligned_spaces_become_one():
    x, y = unaligned()
    config = AuxiliaryConfig(width=6)
    fitted = AuxiliaryAE.fit((x, y), config, epochs=40, batch_size=100, lr=1e-2)
    first = AuxiliaryAE.fit((x, y), config, epochs=1, batch_size=600, lr=1e-6)
    new = unaligned(100, seed=1)

    def best(own):
        e = [own.transform(t, modality=m) for t, m in zip(new, ("image", "text"), strict=True)]
        e = [t / t.norm(dim=1, keepdim=True) for t in e]
        return float(((e[0] @ e[1].T).argmax(1) == torch.arange(100)).float().mean())

    assert best(fitted) > 0.9 and best(first) < 0.1
    back = fitted.inverse(fitted.transform(x, modality="image"), modality="image")
    assert (back - x).square().mean() < 0.1 * x.square().mean()
    assert len(fitted.losses) == 40 and fitted.losses[-1] < fitted.losses[0] / 2
    again = AuxiliaryAE.fit((x, y), config, epochs=40, batch_size=100, lr=1e-2)
    assert torch.equal(again.state_dict()["encoders.image.weight"],
                       fitted.state_dict()["encoders.image.weight"])  # fmt: skip


def test_a_vl_sae_is_trained_behind_it():
    """Mapped as they are read, of either width, and the same as mapped before."""
    x, y = unaligned(300)
    own = AuxiliaryAE.fit((x, y), AuxiliaryConfig(width=6), epochs=1, batch_size=100, lr=1e-2)
    config, options = saes.VLConfig(n_latents=24, k=3), {"steps": 4, "batch_size": 50}
    with pytest.raises(ParameterError, match="one width; got 10 and 8"):
        saes.train((x, y), config, **options)
    behind = saes.train(own.rows((x, y)), config, **options)
    with torch.no_grad():
        mapped = [own.transform(t, modality=m) for t, m in ((x, "image"), (y, "text"))]
    before = saes.train(tuple(mapped), config, **options)
    for name, p in before.state_dict().items():
        assert_close(behind.state_dict()[name], p)


def test_saved_and_loaded(tmp_path):
    own = AuxiliaryAE(AuxiliaryConfig(width=5, mode="released_code"), 10, 8, generator=seeded(1))
    own.metadata = {"model": "m"}
    own.save_pretrained(tmp_path)
    back = AuxiliaryAE.from_pretrained(tmp_path)
    x = unaligned(7)[1]
    assert back.config == own.config and back.metadata == own.metadata
    assert torch.equal(back.transform(x, modality="text"), own.transform(x, modality="text"))
    with pytest.raises(CheckpointError, match="unknown architecture, 'auxiliary_ae'"):
        saes.SAE.from_pretrained(tmp_path)
    document = json.loads((tmp_path / "config.json").read_text())
    document["config"]["mode"] = "both"
    (tmp_path / "config.json").write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match="mode must be one of paper, released_code"):
        AuxiliaryAE.from_pretrained(tmp_path)
    saes.TopKSAE(saes.TopKConfig(n_latents=4, k=1), 3).save_pretrained(tmp_path / "other")
    with pytest.raises(CheckpointError, match="holds a topk SAE, which is no AuxiliaryAE"):
        AuxiliaryAE.from_pretrained(tmp_path / "other")


def test_bad_input_is_refused_in_a_sentence():
    x, y = unaligned(50)
    config = AuxiliaryConfig(width=4)
    for acts, error, said in (
        (x, DataError, "learns from pairs"),
        ((x, y[:40]), ShapeError, "50 and 40 rows"),
    ):
        with pytest.raises(error, match=said):
            AuxiliaryAE.fit(acts, config, epochs=1)
    for options, said in (({"epochs": 0}, "epochs"), ({"lr": 0.0}, "lr")):
        with pytest.raises(ParameterError, match=said):
            AuxiliaryAE.fit((x, y), config, **options)
    for fields, said in (
        ({"width": 0}, "width"), ({"mode": "x"}, "mode must be"), ({"temperature": 0}, "above 0"),
    ):  # fmt: skip
        with pytest.raises(ParameterError, match=said):
            AuxiliaryConfig(**{"width": 3, **fields})
    own = AuxiliaryAE(config, 10, 8)
    with pytest.raises(ShapeError, match=r"\[\.\.\., 8\]; got \[50, 10\]"):
        own.transform(x, modality="text")
    with pytest.raises(ParameterError, match="image or text; got 'audio'"):
        own.transform(x, modality="audio")
    with pytest.raises(DataError, match="row 1 of a batch of 2 is 0"):
        info_nce(V, L * torch.tensor([[1.0], [0.0]]))
