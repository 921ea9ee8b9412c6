"""Features, against records worked out by hand, and whatever the batch."""

import numpy as np
import pandas as pd
import pytest
import torch

import interp
import probes
import saes
from interp.errors import DataError, ParameterError, ShapeError
from interp.store import ActivationStore
from saes.tallies import EDGES, Together
from saes.tokens import encoded


def reading(width, k=None):
    """An SAE whose latent i is coordinate i, where that is above 0."""
    sae = saes.TopKSAE(saes.TopKConfig(n_latents=width, k=k or width), width)
    with torch.no_grad():
        sae.encoder.copy_(torch.eye(width))
        sae.decoder.copy_(torch.eye(width))
    return sae.eval()


def stored(x, lengths):
    """A store of documents of these lengths."""
    document = np.repeat(np.arange(len(lengths)), lengths)
    position = np.concatenate([np.arange(n) for n in lengths])
    rows = pd.DataFrame({"document": document, "position": position})
    return ActivationStore.from_tensors({"h": torch.as_tensor(x, dtype=torch.float32)}, rows)


TEXTS = ["w2 w3 w4", "w5 w6", "w7"]
X = [
    [1, 0, 0, 0],
    [4, 2, 0, 0],
    [0, 2, 0, -1],
    [2, 0, 0, 0],
    [3, 1, 0, 0],
    [0, 8, 0, 0],
]


@pytest.fixture
def lm(tiny, tokenizer):
    return interp.load(tiny("gpt2"), tokenizer=tokenizer())


@pytest.fixture
def found(lm):
    sae = reading(4)
    with torch.no_grad():
        sae.encoder[2] = 0
    return saes.features(
        sae,
        stored(X, [3, 2, 1]),
        TEXTS,
        "h",
        model=lm,
        context=1,
        top=2,
        quantiles=(0.5,),
        probes={"first": torch.tensor([2.0, 0, 0, 0]), "between": torch.tensor([1.0, 1, 0, 0])},
    )


def test_counts_and_examples_by_hand(found):
    first = found[0]
    assert (first.fires, first.density, first.mean, first.strongest) == (4, 4 / 6, 2.5, 4.0)
    assert first.dead is None
    # one example a document, its strongest token
    assert [(e.document, e.position, e.activation) for e in first.top] == [(0, 1, 4), (1, 1, 3)]
    assert first.top[0].tokens == ("w2", "w3", "w4")
    assert first.top[0].activations == (1, 4, 0) and first.top[0].at == 1
    assert first.top[1].tokens == ("w5", "w6")  # the window ends with the document
    assert first.top[1].activations == (2, 3) and first.top[1].at == 1
    # a tie within document 0 goes to its first token
    assert [(e.document, e.position, e.activation) for e in found[1].top] == [(2, 0, 8), (0, 1, 2)]


def test_bands_and_histogram_by_hand(found):
    first = found[0]
    low, high = first.bands
    assert (low.least, low.most, high.least, high.most) == (1, 2.5, 2.5, 4)
    assert [e.activation for e in low.examples] == [2, 1]
    assert [e.activation for e in high.examples] == [4, 3]
    assert first.histogram.sum() == 4 and found[1].histogram.sum() == 4
    for value in (1, 2, 3, 4):
        place = np.flatnonzero((found.edges[:-1] <= value) & (value < found.edges[1:]))
        assert first.histogram[place].tolist() == [1]
    assert found.edges[0] == 1  # the empty bins at both ends are left away
    assert set(found.edges) <= set(EDGES)


def test_partners_by_hand(found):
    (partner,) = found[0].partners
    assert (partner.latent, partner.tokens) == (1, 2)
    assert partner.expected == pytest.approx(4 * 4 / 6)
    assert partner.pmi == pytest.approx(np.log2(2 * 6 / 16))
    assert found[2].partners == () and found.paired_tokens == 6


def test_probes_by_hand(found):
    cosines = {a.probe: a.cosine for a in found[0].aligned}
    assert cosines == pytest.approx({"first": 1, "between": 0.5**0.5})
    assert {a.probe: a.cosine for a in found[1].aligned} == pytest.approx(
        {"first": 0, "between": 0.5**0.5}
    )
    assert found[0].aligned[0].probe == "first"
    # a random direction in four dimensions has a coordinate of at least 1/2
    assert 0.5 < found.random_alignment < 1


def test_dead_latents_are_records_with_a_reason(found):
    assert set(found.dead) == {"2", "3"}
    assert "cannot fire" in found[2].dead and "at no token" in found[3].dead
    for latent in (2, 3):
        assert found[latent].fires == 0 and np.isnan(found[latent].mean)
        assert found[latent].top == () and not any(b.examples for b in found[latent].bands)
    assert "no labels" in found.reasons["predicts"] and found[0].predicts is None
    assert "32" in found.reasons["raised"]  # the unembedding is wider than the decoder


def test_records_survive_the_file(found, tmp_path):
    again = saes.Features.load(found.save(tmp_path / "f.json"))
    assert again[0].top == found[0].top and again[1].partners == found[1].partners
    assert again.to_frame().equals(found.to_frame()) and again.metrics() == found.metrics()
    assert len(list(again)) == 4
    with pytest.raises(ParameterError, match="latent 9"):
        again[9]


def test_chosen_latents_are_the_same_records(found, lm):
    sae = reading(4)
    one = saes.features(sae, stored(X, [3, 2, 1]), TEXTS, "h", model=lm, context=1, top=2,
                        quantiles=(0.5,), latents=[1])  # fmt: skip
    assert one[1].top == found[1].top and one[1].bands == found[1].bands
    assert one[1].partners == found[1].partners  # sought among all latents
    with pytest.raises(ParameterError, match="no record"):
        one[0]


def many(seed=0, documents=40, width=12):
    """Whole numbers, so that no product rounds, many of them equal."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 15, documents)
    return rng.integers(-3, 6, (lengths.sum(), width)).astype(np.float32), lengths


ARRAYS = ("fires", "mean", "strongest", "histogram", "band_edges")


@pytest.mark.parametrize("batch_size", [1, 17, 10_000])
def test_batches_change_nothing(batch_size):
    x, lengths = many()
    sae = reading(12, k=5)
    store = stored(x, lengths)
    one = saes.features(sae, store, None, "h", seed=3)
    two = saes.features(sae, store, None, "h", seed=3, batch_size=batch_size)
    for name in ARRAYS:
        assert np.array_equal(getattr(one, name), getattr(two, name)), name
    for table in ("top", "bands", "partners"):
        for key, values in getattr(one, table).items():
            other = getattr(two, table)[key]
            if key != "tokens":
                assert np.array_equal(values, other, equal_nan=True), (table, key)
    assert [f.top for f in one] == [f.top for f in two]
    other = saes.features(sae, store, None, "h", seed=4)
    assert np.array_equal(one.top["document"], other.top["document"])
    assert not np.array_equal(one.bands["document"], other.bands["document"])


def test_top_and_sample_against_brute_force():
    x, lengths = many(1)
    found = saes.features(reading(12), stored(x, lengths), None, "h", batch_size=20, top=4)
    document = np.repeat(np.arange(len(lengths)), lengths)
    z = np.maximum(x, 0)
    for latent in range(12):
        most = np.array([z[document == d, latent].max() for d in range(len(lengths))])
        best = sorted(range(len(lengths)), key=lambda d: (-most[d], d))[:4]
        assert [e.document for e in found[latent].top] == best
        assert [e.activation for e in found[latent].top] == most[best].tolist()
        for band in found[latent].bands:
            for e in band.examples:
                assert band.least <= e.activation <= band.most
                row = np.flatnonzero(document == e.document)[e.position]
                assert z[row, latent] == e.activation > 0
                around = slice(max(row - 10, row - e.position), row + 11)
                inside = z[around, latent][document[around] == e.document]
                assert e.activations == tuple(inside.tolist())


def test_a_sample_is_uniform_over_firings():
    x = np.ones((4000, 2), np.float32)
    found = saes.features(reading(2), stored(x, [4000]), None, "h", quantiles=(), per_band=400)
    places, others = found.bands["position"][:, 0]
    assert len(set(places.tolist())) == 400
    assert abs(places.mean() - 2000) < 200 and not np.array_equal(places, others)
    assert len(found[0].top) == 1  # one document


def test_pairs_are_sampled_beyond_their_bound():
    x, lengths = many(2, documents=200)
    sae, document = reading(12), np.repeat(np.arange(200), lengths)
    position = np.concatenate([np.arange(n) for n in lengths])
    some, back, every = (Together(12, seed=0, slots=s) for s in (2000, 2000, 2**25))
    for table, order in ((some, 1), (back, -1), (every, 1)):
        for d in range(200)[::order]:
            part = document == d
            table.add(encoded(sae, torch.tensor(x[part]), document[part], position[part]))
    assert every.share == 1 and every.tokens == len(x)
    assert some.share < 1 and some.tokens / len(x) == pytest.approx(some.share, rel=0.2)
    assert len(x) * (x > 0).sum(1).mean() * 2 * some.share > 2000 * 0.8  # and no smaller
    whole, part, same = (t.partners(np.arange(12), 11) for t in (every, some, back))
    for key in part:
        assert np.array_equal(part[key], same[key]), key  # the order of the documents is no matter
    z = (x > 0).astype(int)
    both = z.T @ z
    for i in range(12):
        assert whole["count"][i].tolist() == both[i, whole["index"][i]].tolist()
        assert i not in whole["index"][i] and (np.diff(whole["count"][i]) <= 0).all()
    assert part["count"].sum() == pytest.approx(whole["count"].sum() * some.share, rel=0.2)
    assert not np.array_equal(part["count"], whole["count"])


def test_pads_never_appear(lm, texts):
    sae = saes.TopKSAE(saes.TopKConfig(n_latents=8, k=8), 32)
    with torch.no_grad():
        sae.b_enc += 1000  # fires everywhere, on pads too if there were any
    found = saes.features(sae, lm, texts, "resid_post.1", batch_size=12)
    lengths = [len(t.split()) for t in texts]
    assert len(set(lengths)) > 1  # so that a batch of all has pads
    assert found.n == sum(lengths) and (found.fires == sum(lengths)).all()
    for feature in found:
        for e in feature.top:
            words = texts[e.document].split()
            assert e.tokens == tuple(words[max(0, e.position - 10) : e.position + 11])
            assert e.tokens[e.at] == words[e.position]
    # the arm that can fail: read with its pads, the batch has more
    _, acts = interp.run_with_cache(lm, texts, "resid_post.1")
    assert int((sae.encode(acts["resid_post.1"]) > 0).any(-1).sum()) > found.n


def test_a_model_and_its_store_give_the_same(lm, texts):
    sae = saes.TopKSAE(saes.TopKConfig(n_latents=24, k=4), 32)
    store = interp.capture(lm, texts, "resid_post.1", pool="all")
    one = saes.features(sae, lm, texts, "resid_post.1", batch_size=3)
    two = saes.features(sae, store, texts, "resid_post.1", model=lm, batch_size=5)
    assert np.array_equal(one.fires, two.fires) and one.words == two.words
    for a, b in zip(one, two, strict=True):
        assert [(e.document, e.position, e.tokens) for e in a.top] == [
            (e.document, e.position, e.tokens) for e in b.top
        ]
    assert two.strongest[two.fires > 0] == pytest.approx(one.strongest[one.fires > 0], rel=1e-4)


def test_the_logit_effect_is_the_logit_lens_of_each_row(lm, texts):
    sae = saes.TopKSAE(saes.TopKConfig(n_latents=300, k=4), 32)
    with torch.no_grad():
        sae.decoder[7] = 0
    found = saes.features(sae, lm, texts, "resid_post.1", words=5)
    for latent in (0, 255, 256, 299):  # both sides of a batch of rows
        lens = probes.logit_lens(lm, sae.W_dec[latent], 5)
        assert [w for w, _ in found[latent].raised] == list(lens.raised)
        assert [v for _, v in found[latent].raised] == pytest.approx(lens.raised_logits, rel=1e-5)
        assert [w for w, _ in found[latent].lowered] == list(lens.lowered)
        assert [v for _, v in found[latent].lowered] == pytest.approx(lens.lowered_logits, rel=1e-5)
    assert found[0].raised != found[1].raised
    assert found[7].raised == ()  # a row of zeros raises nothing


def test_a_name_is_a_label_that_holds_on_other_documents(lm):
    n = 60
    texts = ["w2 w3 w4 w5"] * n
    marks = [{2: "even", 5: "odd", 8: "even", 11: "odd"}] * n
    data = interp.Dataset(
        name="d", kind="text", inputs=texts, rows=pd.DataFrame({"text": texts}),
        marks={"place": marks},
    )  # fmt: skip
    odd = np.tile([0, 1, 0, 1], n)
    noise = np.random.default_rng(0).integers(0, 2, 4 * n)
    rare = np.zeros(4 * n)
    rare[1] = 1
    x = np.stack([odd, np.ones(4 * n), noise, rare], 1)
    found = saes.features(reading(4), stored(x, [4] * n), data, "h", model=lm)
    assert found.labels == ("place=even", "place=odd")
    assert [f.name for f in found] == ["place=odd", None, None, None]
    best = found[0].predicts
    assert best[:5] == ("place=odd", 1, 1, 1, 0.5) and best.chance_f1 == 0.5
    assert found[1].predicts is None  # firing always says nothing
    assert found.named_control == 0  # half the texts have their labels turned by one
    assert found.metrics()["names"] == {"0": "place=odd"}
    # labels that say nothing on the text give no name
    mixed = np.random.default_rng(1).permutation(x)
    assert not saes.features(reading(4), stored(mixed, [4] * n), data, "h", model=lm).named.any()


@pytest.mark.parametrize("name", [n for n in saes.ARCHITECTURES if n not in ("crosscoder", "vl")])
def test_every_architecture_has_features(small, name):
    sae = small(name).eval()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, sae.d_in, generator=generator)
    found = saes.features(sae, stored(x, [20, 30]), None, "h", batch_size=25)
    z = sae.encode(x)
    assert found.fires.tolist() == (z > 0).sum(0).tolist() and found.fires.sum() > 0
    assert np.nan_to_num(found.strongest) == pytest.approx(z.amax(0).tolist(), rel=1e-5)
    both = (z > 0).T.float() @ (z > 0).float()
    commonest = int(found.fires.argmax())
    partner = found[commonest].partners[0]
    assert partner.tokens == both[commonest, partner.latent]


def test_bad_input_ends_in_a_sentence(lm, texts):
    sae, store = reading(4), stored(X, [3, 2, 1])
    for options, said in (
        ({"latents": [4]}, "0 to 3"),
        ({"latents": [1, 1]}, "each once"),
        ({"latents": []}, "at least one"),
        ({"top": 0}, "top"),
        ({"context": -1}, "context"),
        ({"quantiles": (0.5, 0.2)}, "rise"),
        ({"probes": {"a": torch.zeros(4)}}, "no direction"),
        ({"probes": ["a"]}, "concept_depth"),
    ):
        with pytest.raises(ParameterError, match=said):
            saes.features(sae, store, None, "h", **options)
    with pytest.raises(ShapeError, match="4"):
        saes.features(sae, store, None, "h", probes={"a": torch.ones(5)})
    with pytest.raises(ShapeError):
        saes.features(sae, lm, texts, "resid_post.1")
    with pytest.raises(DataError, match="other tokens"):
        saes.features(sae, store, ["w1"], "h", model=lm)
    split = ActivationStore.from_tensors(
        {"h": torch.ones(3, 4)}, {"document": [0, 1, 0], "position": [0, 0, 1]}
    )
    with pytest.raises(DataError, match="stand together"):
        saes.features(sae, split, None, "h")
    layers = saes.Crosscoder(saes.CrosscoderConfig(n_latents=4, n_layers=2, l1=1.0), 4)
    with pytest.raises(ParameterError, match="crosscoder"):
        saes.features(layers, store, None, "h")
