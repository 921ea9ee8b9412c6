"""Facets of units that are known, of hidden channels, directions and latents, and bad input."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from torch import nn

import interp
import probes
import saes
from interp.errors import DataError, ModelError, ParameterError
from interp.results import Result
from probes.multifaceted.schedules import lucid

QUICK = {"embed": "pca", "draws": 19, "schedule": None}


@pytest.fixture(scope="module")
def net():
    return interp.load("demo:digits")


@pytest.fixture(scope="module")
def data():
    return interp.read("demo:digits")


@pytest.fixture(scope="module")
def even(net, data):
    return probes.facets(net, data, unit="even", schedule=lucid(96), draws=19)


def test_even_has_the_even_digits_as_facets(even):
    assert even.n_facets == 5 and even.several is True
    assert even.adjusted_rand_index >= 0.9
    assert sorted(even.title(i) for i in range(5)) == [f"digit {d}" for d in (0, 2, 4, 6, 8)]
    assert (even.purity > 0.95).all()
    assert even.means.shape == (5, 1, 8, 8) and (even.contrast > 0.8).all()
    assert even.images.min() >= 0 and even.images.max() <= 1


def test_each_synthesised_image_is_its_own_digit(net, data, even):
    """By the nearest mean code, and by a linear probe of the digit on the net's own codes."""
    assert even.image_scores["facet"].tolist() == list(range(5))
    _, acts = interp.run_with_cache(net, data.inputs, ["flatten"])
    codes, digit = acts["flatten"].numpy(), data.rows["digit"].to_numpy()
    seen = np.array(data.rows["split"] == "train")
    probe = LogisticRegression(max_iter=300).fit(codes[seen], digit[seen])
    assert probe.score(codes[~seen], digit[~seen]) > 0.93
    _, made = interp.run_with_cache(net, torch.from_numpy(even.images), ["flatten"])
    own = [int(even.classes[c]) for c in even.common]
    assert probe.predict(made["flatten"].numpy()).tolist() == own


def test_without_the_pull_facets_run_together(net, data, even):
    """The arm that shows why the recommended objective keeps an image with its facet."""
    plain = probes.facets(net, data, unit="even", schedule=lucid(96), stay=0, embed="pca",
                          n_facets=5, draws=1, n_top=300)  # fmt: skip
    assert plain.image_scores["facet"].tolist() != list(range(plain.n_facets))
    assert plain.image_scores["own_cosine"].mean() < even.image_scores["own_cosine"].mean()


def test_the_mean_images_are_those_of_the_nearest(data, even):
    for mean, near in zip(even.means, even.nearest, strict=True):
        assert np.array_equal(mean, data.inputs[near].double().mean(0).float().numpy())


def test_it_saves_and_loads(even, tmp_path):
    again = Result.load(even.save(tmp_path / "facets.json"))
    assert again.metrics() == even.metrics()
    assert np.array_equal(again.images, even.images) and again.scores.equals(even.scores)
    assert len(even.to_frame()) == 5


def test_equal_seeds_give_equal_facets_and_images(net, data):
    options = {"unit": 4, "hookpoint": "relu3", "n_top": 60, "embed": "pca", "draws": 5,
               "schedule": lucid(5), "n_facets": 2}  # fmt: skip
    one, two = (probes.facets(net, data, seed=1, **options) for _ in range(2))
    assert one.metrics() == two.metrics() and np.array_equal(one.images, two.images)


def test_a_direction_along_a_channel_has_that_channels_facets(net, data):
    way = np.eye(32)[4]
    unit = probes.facets(net, data, unit=4, hookpoint="relu3", n_top=80, n_facets=3, **QUICK)
    same = probes.facets(net, data, unit=way, hookpoint="relu3", n_top=80, n_facets=3, **QUICK)
    assert (unit.labels == same.labels).all() and (unit.rows == same.rows).all()
    assert same.index is None and unit.unit == "relu3[4]"


@pytest.mark.parametrize("kind", ["latent", "code"])
def test_latents_and_codes(net, data, kind):
    if kind == "latent":
        coder = saes.TopKSAE(saes.TopKConfig(n_latents=24, k=6), d_in=512)
    else:
        coder = saes.Codebook(saes.CodebookConfig(n_codes=24, k=6), d_in=512)
    _, acts = interp.run_with_cache(net, data.inputs[:200], ["flatten"])
    index = int((coder.encode(acts["flatten"]) > 0).sum(0).argmax())
    found = probes.facets(net, data, unit=index, hookpoint="flatten", coder=coder, n_top=60,
                          n_facets=2, embed="pca", draws=5, schedule=lucid(3))  # fmt: skip
    assert found.unit == f"{kind} {index} at flatten" and found.n_facets == 2
    assert found.images.shape == (2, 1, 8, 8)


def test_a_unit_that_never_fires_has_no_facet(net, data):
    found = probes.facets(net, data, unit="even", threshold=1e6, **QUICK)
    assert found.n == 0 and found.n_facets == 0 and found.several is None
    assert "none of 1,797 inputs fires the unit above 1e+06" in found.reasons["labels"]
    assert np.isnan(found.adjusted_rand_index) and len(found.to_frame()) == 0
    assert found.metrics()["n_facets"] == 0
    with pytest.raises(DataError, match="3 facets were asked for, and none of 1,797"):
        probes.facets(net, data, unit="even", threshold=1e6, n_facets=3, **QUICK)


def test_bad_input(net, data):
    with pytest.raises(DataError, match="9 facets need .* there are 5"):
        probes.facets(net, data, unit="even", n_top=5, n_facets=9, **QUICK)
    with pytest.raises(ParameterError, match="out has units 0 to 2"):
        probes.facets(net, data, unit=3, **QUICK)
    with pytest.raises(ParameterError, match="no label column 'x'"):
        probes.facets(net, data, unit=0, label="x", **QUICK)
    equal = interp.read(data.inputs[:1].repeat(30, 1, 1, 1))
    same = probes.facets(net, equal, unit=0, threshold=-99, **QUICK)
    assert same.n_facets == 1 and "one point" in same.reasons["several"]

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(8, 2)

        def forward(self, x, y):
            return self.linear(x + y)

    with pytest.raises(ModelError, match="the forward of Two fails"):
        probes.facets(Two(), torch.randn(9, 8), unit=0, **QUICK)


def test_of_one_class_neither_purity_nor_agreement_means_anything(net, data):
    rows = data.rows.assign(digit=3)
    found = probes.facets(net, interp.data.replace(data, rows=rows), unit=0, n_top=60, n_facets=2,
                          **QUICK)  # fmt: skip
    assert np.isnan(found.purity).all() and np.isnan(found.adjusted_rand_index)
    assert "one class of digit only" in found.reasons["purity"]


def test_images_out_of_range_keep_their_facets_and_say_why(net, data):
    raw = interp.data.replace(data, inputs=data.inputs * 16)
    found = probes.facets(net, raw, unit="even", n_top=60, n_facets=2, **QUICK)
    assert found.n_facets == 2 and found.means is None and "normalise" in found.reasons["means"]


def test_paper_mode_takes_ten_and_the_released_schedule(net, data):
    few = interp.data.replace(data, inputs=data.inputs[:150], rows=data.rows[:150])
    found = probes.facets(net, few, unit="even", mode="paper", **{**QUICK, "draws": 5})
    assert found.n_facets == 10 and found.mode == "paper"


def test_the_paper_s_images_of_a_class_need_not_fire(data):
    named = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    named.output_names = tuple(map(str, range(10)))
    with torch.no_grad():
        named[1].bias -= torch.tensor([0.0] * 3 + [100.0] + [0.0] * 6)
    options = {"unit": "3", "mode": "paper", "n_facets": 2, **QUICK}
    found = probes.facets(named, data, **options)
    threes = int((data.rows["digit"] == 3).sum())
    assert found.n == found.read == threes and found.firing == 0
    assert found.notes[0] == (
        f"0 of {threes} inputs of its class fire the unit; of a class all are taken"
    )
    assert set(data.rows["digit"].iloc[found.rows]) == {3}


def test_wrong_options_are_refused_before_anything_is_read():
    for words, option in (
        ("mode must be", {"mode": "papre"}),
        ("embed must be", {"embed": "mds"}),
        ("cluster must be", {"cluster": "dbscan"}),
        ("n_facets must be", {"n_facets": 0}),
        ("hdbscan finds its own", {"cluster": "hdbscan", "n_facets": 3}),
        ("n_top must be", {"n_top": 0}),
        ("nearest must be", {"nearest": 0}),
        ("stay must be", {"stay": -1.0}),
        ("stay must be", {"stay": float("nan")}),
        ("schedule must be", {"schedule": "lucit"}),
    ):
        with pytest.raises(ParameterError, match=words):
            probes.facets("no such model", "no such data", unit=0, **option)


def test_texts_have_snippets(gpt2, texts):
    found = probes.facets(gpt2, texts * 3, unit=5, hookpoint="mlp_act.1", threshold=-9, n_facets=2,
                          **QUICK)  # fmt: skip
    assert found.modality == "text" and found.codes_at == "resid_post.2" and found.means is None
    assert len(found.snippets) == 2 and all(len(s) >= 1 for s in found.snippets)
    tokens, values, at = found.snippets[0][0]
    assert len(tokens) == len(values) and values[at] == max(values)
    for shown in found.snippets:  # each text is there three times, and shown once
        ends = [tuple(t[max(0, at - 4) : at + 1]) for t, _, at in shown]
        assert len(set(ends)) == len(ends)


def files(folder):
    """Forty images of two kinds, the left half light or the right, larger than a model reads."""
    drawn = np.random.default_rng(0)
    for kind in range(2):
        (folder / f"kind{kind}").mkdir(parents=True)
        for i in range(20):
            pixels = drawn.integers(0, 60, (24, 24, 3), dtype=np.uint8)
            pixels[:, 12 * kind : 12 * kind + 12] += 160
            Image.fromarray(pixels).save(folder / f"kind{kind}" / f"{i:02d}.png")
    return interp.read(folder)


def test_a_vision_transformer_reads_image_files_through_its_processor(tiny, tmp_path):
    from transformers import ViTImageProcessor

    model = interp.load(tiny("vit"), processor=ViTImageProcessor(size={"height": 16, "width": 16}))
    data = files(tmp_path / "data")
    options = {"hookpoint": "mlp_act.1", "codes_at": "resid_post.2", "threshold": -9.0}
    found = probes.facets(model, data, unit=3, **options, embed="pca", draws=19, n_facets=2,
                          schedule=lucid(20))  # fmt: skip
    assert found.n == 40 and found.modality == "image" and found.means.shape == (2, 3, 16, 16)
    assert found.adjusted_rand_index == 1  # two kinds, two facets
    pixels = torch.as_tensor(found.images) * 2 - 1  # the processor's mean and deviation are .5
    _, acts = interp.run_with_cache(model, {"pixel_values": pixels}, ["mlp_act.1"])
    acts = acts["mlp_act.1"][..., 3].amax(1)
    np.testing.assert_allclose(found.image_scores["activation"], acts, rtol=1e-4)
    first = np.asarray(
        Image.open(data.inputs[int(found.nearest[0, 0])]).resize(
            (16, 16), Image.Resampling.BILINEAR
        )
    )
    assert np.abs(found.shown[0, 0].transpose(1, 2, 0).astype(int) - first).max() <= 1


def test_the_vision_tower_of_a_dual_encoder(tiny, tmp_path):
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    size = {"height": 16, "width": 16}
    half = [0.5, 0.5, 0.5]
    processor = CLIPImageProcessorPil(size=size, crop_size=size, image_mean=half, image_std=half)
    model = interp.load(tiny("clip"), processor=processor)
    found = probes.facets(model, files(tmp_path / "data"), unit=3, hookpoint="vision.mlp_act.1",
                          codes_at="vision.resid_post.2", threshold=-9.0, embed="pca", draws=5,
                          n_facets=2, schedule=lucid(5))  # fmt: skip
    assert found.reasons.keys() <= {"several"} and found.images.shape == (2, 3, 16, 16)
    assert np.isfinite(found.image_scores["activation"]).all()


@pytest.mark.real
def test_a_real_network(real):
    spec = f"{real}/resnet20.py"
    norm = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    found = probes.facets(f"{spec}:load", f"{spec}:images", unit=0, normalise=norm, draws=19)
    assert found.n == 570 and found.several is True and found.means.shape[1:] == (3, 32, 32)
    assert found.image_scores["facet"].tolist() == list(range(found.n_facets))
    assert (found.image_scores["ratio"] > 1).all()  # more than any real image
    named = [found.classes[c] for c in found.common]
    assert "airplane" in named and "ship" in named
