"""Concepts of pairs: hand-made codes, similarities by hand, planted concepts, and explanations."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

import saes
from interp.errors import DataError, ParameterError, ShapeError
from interp.pairs import read_pairs
from interp.results import Result
from interp.store import ActivationStore
from saes.exemplars import Strongest, similarities

WORDS = ("apple", "boat", "cloud", "drum")


def planted(n=240, seed=0, texts=True):
    """Pairs of one of four concepts: image and text near the same of four axes, and a store."""
    rng = np.random.default_rng(seed)
    kind = np.arange(n) % 4
    x = np.eye(8)[kind] + 0.05 * rng.standard_normal((n, 8))
    y = np.eye(8)[kind] * 2 + 0.05 * rng.standard_normal((n, 8))
    captions = [f"the {WORDS[k]} of day {i}" for i, k in enumerate(kind)]
    rows = {"image": [f"{i}.png" for i in range(n)], "caption": captions,
            "kind": [WORDS[k] for k in kind]}  # fmt: skip
    store = ActivationStore.from_tensors(
        {"a": torch.tensor(x).float(), "b": torch.tensor(y).float()},
        rows,
        pairs={"image": "a", "text": "b", "image_column": "image"},
        data={"name": "planted", "text_column": "caption", "labels": ["kind"]},
    )
    return store, kind


def exact(k=1):
    """A VL-SAE whose first four latents are the four axes, and whose fifth points away from all."""
    sae = saes.VLSAE(saes.VLConfig(n_latents=5, k=k), 8)
    with torch.no_grad():
        sae.encoder.copy_(torch.cat([torch.eye(8)[:4], -torch.ones(1, 8)]))
    return sae


def test_planted_concepts_are_found_named_and_pure():
    store, kind = planted()
    found = saes.concepts(exact(), store, top=5)
    for latent, word in enumerate(WORDS):
        concept = found[latent]
        assert concept.name == word and concept.words[0].share == 1
        assert concept.words[0].base_rate == pytest.approx(0.25)
        assert concept.image_fires == concept.text_fires == 60
        assert {kind[e.row] for e in (*concept.images, *concept.texts)} == {latent}
        assert (concept.meaning.column, concept.meaning.value) == ("kind", word)
        assert concept.meaning.image_purity == concept.meaning.text_purity == 1
        assert len(concept.images) == len(concept.texts) == 5
        values = [e.activation for e in concept.images]
        assert values == sorted(values, reverse=True)
    assert found.named_control == found.meant_control == 0
    assert found.intra > 0.95 and abs(found.inter) < 0.2
    dead = found[4]
    assert dead.dead == "it fires at no image and no text of the data"
    assert dead.name is None and dead.images == () and np.isnan(dead.similarity)
    assert found.metrics()["dead"] == 1 and found.metrics()["purity"] == 1


def test_a_latent_of_images_alone_has_neither_name_nor_meaning():
    store, _ = planted()
    texts = store["b"][:].clone()
    texts[0::4] = texts[1::4]  # texts of the first kind look like those of the second
    both = {"a": store["a"][:], "b": texts}
    held = {k: store.manifest[k] for k in ("pairs", "data")}
    found = saes.concepts(exact(), ActivationStore.from_tensors(both, store.rows, **held))
    one = found[0]
    assert (one.image_fires, one.text_fires) == (60, 0) and one.texts == () and one.dead is None
    assert one.name is None and one.unnamed == "it fires at no text of the data"
    assert one.meaning is None and np.isnan(one.similarity)
    assert found[2].meaning is not None and found[2].name == "cloud"


def test_the_mean_counts_zeros_and_both_sides():
    store, _ = planted()
    sae = exact()
    found = saes.concepts(sae, store)
    z = [sae.encode(store[h][:].float()).double().mean(0) for h in ("a", "b")]
    np.testing.assert_allclose(found.mean_activation, ((z[0] + z[1]) / 2).detach(), rtol=1e-6)


def test_what_is_found_does_not_depend_on_batches_or_on_when():
    store, _ = planted()
    one, two = (saes.concepts(exact(2), store, batch_size=b) for b in (4096, 7))
    for name in ("image_rows", "text_rows", "image_fires", "text_values"):
        assert np.array_equal(getattr(one, name), getattr(two, name))
    assert one.names == two.names and one.to_frame().equals(two.to_frame())


def test_the_strongest_rows_are_each_once_and_ties_go_to_the_first():
    strongest = Strongest(2, 2, np.array([0, 0, 2, 3, 4]))
    values = torch.tensor([[1.0], [3.0], [2.0], [2.0], [0.0]])
    strongest.update(values[:3], torch.zeros(3, 1, dtype=torch.long), 0)
    strongest.update(values[3:], torch.zeros(2, 1, dtype=torch.long), 3)
    # rows 0 and 1 show the same, and the greater stands; 2 and 3 are equal; 4 does not fire
    assert strongest.rows.tolist() == [[1, 2], [-1, -1]]
    assert strongest.values.tolist() == [[3, 2], [0, 0]]
    assert strongest.fires.tolist() == [4, 0] and strongest.total.tolist() == [8, 0]


def test_similarities_by_hand_and_the_released_asymmetry():
    store = ActivationStore.from_tensors(
        {"a": torch.tensor([[1.0, 0], [0, 1]]), "b": torch.tensor([[1.0, 0], [3, 4]])},
        pairs={"image": "a", "text": "b"},
    )
    rows = {"image": np.array([[0], [1]]), "text": np.array([[0], [1]])}
    each, intra, inter, reasons = similarities(store, rows, "recommended")
    np.testing.assert_allclose(each, [1, 0.8])
    # image 0 with text 1: 0.6; image 1 with text 0: 0
    assert (intra, inter, reasons) == (pytest.approx(0.9), pytest.approx(0.3), {})
    assert similarities(store, rows, "released_code")[2] == pytest.approx(0.6)
    turned = {k: v[::-1] for k, v in rows.items()}
    assert similarities(store, turned, "recommended")[2] == pytest.approx(0.3)
    assert similarities(store, turned, "released_code")[2] == pytest.approx(0), "order decides"
    lone = {"image": np.array([[0], [-1]]), "text": np.array([[0], [1]])}
    each, intra, inter, reasons = similarities(store, lone, "recommended")
    assert (
        np.isnan(each[1]) and intra == 1 and inter is None and "fewer than two" in reasons["inter"]
    )


def test_other_widths_and_no_pairs_give_reasons():
    store = ActivationStore.from_tensors(
        {"a": torch.ones(2, 3), "b": torch.ones(2, 4)}, pairs={"image": "a", "text": "b"}
    )
    rows = {"image": np.array([[0]]), "text": np.array([[1]])}
    each, intra, inter, reasons = similarities(store, rows, "recommended")
    assert np.isnan(each).all() and intra is inter is None and "widths" in reasons["intra"]


def test_thumbnails_are_small_pngs_of_the_top_images(monkeypatch):
    store, _ = planted(40)
    images = [Image.new("RGB", (200, 100), (i, 0, 0)) for i in range(40)]
    data = read_pairs(list(zip(images, store.rows["caption"], strict=True)))
    found = saes.concepts(exact(), store, data, top=3)
    shown = found[0].images[0]
    with Image.open(io.BytesIO(base64.b64decode(shown.thumbnail))) as png:
        assert png.format == "PNG" and png.size == (48, 24)
        assert png.convert("RGB").getpixel((0, 0)) == (shown.row, 0, 0)
    monkeypatch.setattr("saes.exemplars.THUMBNAILS", 300)
    less = saes.concepts(exact(), store, data, top=3)
    assert 0 < len(less.thumbnails) < len(found.thumbnails)
    assert saes.concepts(exact(), store, top=3).thumbnails == {}
    with pytest.raises(DataError, match="the data has 20 pairs and the store 40"):
        saes.concepts(exact(), store, read_pairs(data.inputs[:20]))


def test_results_save_and_load(tmp_path):
    store, _ = planted(40)
    found = saes.concepts(exact(), store)
    again = Result.load(found.save(tmp_path / "c.json"))
    assert isinstance(again, saes.Concepts) and again.to_frame().equals(found.to_frame())
    explained = saes.explain(exact(), found, image=store["a"][0])
    loaded = Result.load(explained.save(tmp_path / "e.json"))
    assert loaded.metrics() == explained.metrics()


def test_wrong_input_is_refused():
    store, _ = planted(8)
    with pytest.raises(ParameterError, match="mode must be one of"):
        saes.concepts(exact(), store, mode="paper")
    with pytest.raises(ParameterError, match="at least 1"):
        saes.concepts(exact(), store, top=0)
    with pytest.raises(ParameterError, match="no column 'colour'"):
        saes.concepts(exact(), store, columns=("colour",))
    with pytest.raises(DataError, match="none of pairs"):
        saes.concepts(exact(), ActivationStore.from_tensors({"a": torch.ones(2, 8)}))
    with pytest.raises(ShapeError, match="reads 4 numbers and a has 8"):
        saes.concepts(saes.VLSAE(saes.VLConfig(n_latents=4, k=1), 4), store)


def test_an_explanation_divides_by_the_mean_and_multiplies_a_pair():
    store, _ = planted()
    sae = exact(2)
    found = saes.concepts(sae, store)
    image, text = store["a"][1], store["b"][2]
    zi, zt = (sae.encode(v[None])[0].detach().double().numpy() for v in (image, text))
    alone = saes.explain(sae, found, image=image, top=3)
    scores = np.divide(zi, found.mean_activation, out=np.zeros(5), where=found.mean_activation > 0)
    order = np.argsort(-scores, kind="stable")[:2]
    assert alone.latents.tolist() == order.tolist() and alone.of == "image"
    np.testing.assert_allclose(alone.scores, scores[order], rtol=1e-6)
    assert alone.names[0] == WORDS[1] and np.isnan(alone.text_values).all()
    both = saes.explain(sae, found, image=image, text=text, top=5)
    shared = np.flatnonzero(zi * zt)
    assert both.of == "pair" and set(both.latents.tolist()) == set(shared.tolist())
    np.testing.assert_allclose(
        both.scores, (zi * zt)[both.latents] / found.mean_activation[both.latents], rtol=1e-6
    )


def test_a_latent_that_the_data_never_saw_scores_nothing():
    store, _ = planted()
    sae = exact()
    found = saes.concepts(sae, store)
    away = saes.explain(sae, found, text=-torch.ones(8))
    assert len(away.latents) == 0 and "no concept" in away.reasons["latents"]
    for wrong, error in (({}, ParameterError), ({"image": torch.ones(3)}, ShapeError)):
        with pytest.raises(error):
            saes.explain(sae, found, **wrong)
    other = saes.VLSAE(saes.VLConfig(n_latents=4, k=1), 8)
    with pytest.raises(ShapeError, match="of 5 latents"):
        saes.explain(other, found, image=torch.ones(8))
