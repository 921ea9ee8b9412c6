"""One result of every kind: it shows itself, is drawn or says why not, and survives attacks."""

import dataclasses
import re

import numpy as np
import plotly.offline
import pytest
import torch
from PIL import Image
from torch import nn

import interp
import probes
import saes
from dashboards import Report
from dashboards.figures import FIGURES
from dashboards.overview import headline
from interp.changes import Changes
from interp.errors import ParameterError
from interp.pairs import read_pairs
from interp.results import Result
from interp.store import ActivationStore
from probes.multifaceted.scoring import FacetScores
from probes.shortcut import mlp_fit
from saes.codebook import CodebookTraining, CodePatterns, CodeSteering, TokFSMScores
from saes.codebook.reading import PatternCode

N = 80
RNG = np.random.default_rng(0)
Y = np.arange(N) % 2
LAYERS = {f"resid_post.{i}": RNG.normal(size=(N, 6)) + i * Y[:, None] for i in range(3)}
X = LAYERS["resid_post.2"]
FAST = {"draws": 50, "permutations": 19}
KINDS = sorted(k for k in Result.KINDS if not k.startswith("test_"))
ONES = np.ones(2)


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.conv(x).relu().mean((2, 3)))


def store(shift=0.0):
    tensors = {k: torch.from_numpy(v.copy()) for k, v in LAYERS.items()}
    tensors["resid_post.2"][Y == 0] += shift
    rows = {"text": [f"word {i}" for i in range(N)], "label": Y.tolist()}
    return ActivationStore.from_tensors(tensors, rows, data={"name": "d", "text_column": "text"})


def topk():
    return saes.TopKSAE(saes.TopKConfig(n_latents=12, k=3), 6,
                        generator=torch.Generator().manual_seed(0))  # fmt: skip


def concepts():
    x = torch.tensor(np.eye(4)[Y] + 0.05 * RNG.standard_normal((N, 4))).float()
    texts = [f"{'round' if k else 'square'} {i}" for i, k in enumerate(Y)]
    images = [Image.new("RGB", (8, 8), (3 * i, 0, 0)) for i in range(N)]
    rows = {"image": [f"{i}.png" for i in range(N)], "caption": texts, "kind": Y}
    about = {"image": "a", "text": "b", "image_column": "image"}
    data = {"name": "things", "text_column": "caption", "labels": ["kind"]}
    acts = ActivationStore.from_tensors({"a": x, "b": x}, rows, pairs=about, data=data)
    sae = saes.VLSAE(saes.VLConfig(n_latents=4, k=1), 4)
    with torch.no_grad():
        sae.encoder.copy_(torch.cat([torch.eye(4)[:2], -torch.ones(1, 4), torch.eye(4)[2:3]]))
    found = saes.concepts(sae, acts, read_pairs(list(zip(images, texts, strict=True))), top=4)
    explained = saes.explain(sae, found, image=x[1], text=x[3], said="a text", shown="one.png")
    return found, explained, saes.evaluate_pairs(sae, x, x, pool=20)


def from_activations():
    """What is computed from a few layers of random rows in two classes."""
    return [
        probes.aqi(X, Y, name="d.label", **FAST),
        probes.aqi_by_layer(store(), **FAST),
        probes.aqi_by_axiom(X, Y, np.repeat(["a", "b"], N // 2), name="d.label", **FAST),
        probes.pool_layers(list(LAYERS.values()), Y, list(LAYERS), pairs=50, **FAST),
        probes.delta_aqi_by_layer(store(), store(2.0)),
        probes.cluster_map(X, np.where(Y, "safe", "unsafe"), texts=["t"] * N),
        probes.geometry_by_layer(store(), "label"),
        probes.compare_spaces(store(), store(1.0), "label", anchors=20),
        probes.hidden_flow({k: torch.from_numpy(v).float() for k, v in LAYERS.items()}),
        probes.information_plane(LAYERS, Y, bins=3),
        probes.infomec(np.stack([Y, Y[::-1]], 1), {"even": Y, "late": np.arange(N) > 40}),
        probes.variance_explained(LAYERS, {"even": Y}),
        probes.prototypes(X, 3, Y),
        saes.evaluate(topk(), torch.from_numpy(X).float()),
        saes.sparse_probing(topk(), torch.from_numpy(X).float(), Y, ks=(1, 2), folds=2),
        saes.feature_absorption(topk(), torch.from_numpy(X).float(), Y),
        saes.seed_stability(topk(), torch.eye(6)),
        saes.match_latents(topk(), torch.eye(6)),
    ]


def from_models(gpt2, texts):
    task = probes.mqar(20, length=32, pairs=4, vocabulary=64)
    active = {"mlp_act.0": torch.from_numpy(X).relu(), "mlp_act.1": torch.from_numpy(X + 1).relu()}
    sparse = probes.sparsity(active, "exact")
    width = gpt2.module.config.n_embd
    sae = saes.TopKSAE(saes.TopKConfig(n_latents=8, k=8), width)
    return [
        sparse,
        probes.sparsity_difference(sparse, sparse),
        probes.density_curve(gpt2, texts, (0.5, 0.1), draws=20),
        probes.recall_by_gap(task, probes.induction_oracle(task.inputs)),
        probes.feature_complexity(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))),
        probes.removal_curve(Small(), torch.randn(8, 3, 12, 12), shares=(0.5,)),
        probes.shortcut_bias(
            mlp_fit((), steps=3), availability=(1.0, 2.0), predictivity=(0.8,), n=32, seeds=1
        ),
        probes.facets("demo:digits", interp.read("demo:digits"), unit="even", n_top=40, n_facets=2,
                      embed="pca", draws=5, schedule=None),
        saes.loss_recovered(gpt2, sae, texts, "resid_post.0", draws=20),
        saes.ablation_effect(sae, gpt2, texts, "resid_post.0", [0, 1], controls=1),
    ]  # fmt: skip


def by_hand():
    """What takes a training to compute: numbers that could be."""
    steps = np.arange(1, 9)
    falling, images = 1 / steps, np.full((2, 1, 3, 3), 0.5, np.float32)
    low, high = ONES * 0.2, ONES * 0.4
    rows = (PatternCode("self", "mlp_out.1", 7, 0.9, 0.5, "mlp_out.0:3", 0.6, 0.5, 0.02, 40),)
    three = {"without": 4, "with": 30, "random codes": 5}
    ends = {"without": (0.04, 0.2), "with": (0.6, 0.9), "random codes": (0.05, 0.3)}
    return [
        saes.Training(
            name="d.sae", n=800, architecture="topk", config={"n_latents": 64, "k": 4}, steps=steps,
            loss={"total": falling, "reconstruction": falling}, fvu=falling, l0=np.full(8, 4.0),
            dead=np.zeros(8), dead_after=100, lr=falling, rows_per_second=falling, scale=[1.0],
        ),
        CodebookTraining(
            name="d.codebook", n=300, configs={"mlp_out.0": {"n_codes": 20, "k": 2}}, steps=steps,
            total=falling, language=falling, accuracy=falling, lr=falling, reference=0.1,
            reconstruction={"mlp_out.0": falling}, fvu={"mlp_out.0": falling},
            dead={"mlp_out.0": falling}, held_out={"with codebooks": 3.25},
        ),
        CodePatterns(name="d", n=500, documents=20, patterns={"self": "self"}, found=rows,
                     hookpoints=("mlp_out.0", "mlp_out.1"), fired={"mlp_out.0": 0.5}),
        CodeSteering(
            name="d", n=40, codes=(("mlp_out.1", 7),), pattern="self", prompts=("def f(",),
            counts=three, intervals=ends, texts={k: ("a",) for k in three}, tokens=20,
            temperature=1.0, seed=0, every_slot=True,
        ),
        TokFSMScores(
            name="d", n=100, loss=1.2, floor=1.17, accuracy=0.45, best_accuracy=0.46,
            state_accuracy=0.8, state_interval=(0.78, 0.82), state_chance=0.1, first_accuracy=0.7,
            overlap=0.9, purity={"head_out.0": 0.1}, pair_purity={"head_out.0": 0.2},
            interchange={"head_out.0": 0.7, "all head_out": 0.5},
            states={"code precision": 0.9, "code recall": 0.8, "neuron precision": 0.5,
                    "neuron recall": 0.7, "states": 100},
            forced={"codes": (60, 100), "clean": (10, 100), "random codes": (12, 100)},
        ),
        probes.DepthDifference(
            name="d.label", n=100, models=("old", "new"), hookpoints=("embed", "resid_post.0"),
            first=low, second=high, delta=high - low, low=low - 0.1, high=high, draws=100, seed=0,
            points={"peak_shift": 0.2, "peak_shift_low": 0.1, "peak_shift_high": 0.3},
        ),
        Changes(name="old and new", n=1, what=("number",), key=("aqi.d.value",), first=(1.0,),
                second=(2.0,), delta=(1.0,), models=("old", "new"), equal=3,
                not_compared={"aqi d": "gone."}),
        probes.Maximized(
            name="d", n=2, images=images, activation=ONES, start_activation=0 * ONES,
            trace=np.outer(steps, ONES), objective="output[0]", hookpoints=("output",),
            schedule="lucid", canvas=None, opacity=images[:, 0], mean=(0.0,), std=(1.0,),
            started="images", seed=0,
        ),
        FacetScores(
            name="d", n=2, hookpoint="conv", activation=ONES, best_real=1.0, gain=0 * ONES,
            own_cosine=high, other_cosine=low, nearest=(0, None), recognised=0.5, diversity=0.3,
            purity=high,
        ),
        probes.TokenPatching(
            name="d", n=4, text="a dog", hookpoint="resid_post.1", items=("dog", "a"),
            spans=((1,), (2,)), tokens=("[CLS]", " dog", " a", "[SEP]"), clean=high, empty=low,
            sufficiency=np.array([[0.0, 0.8, 0.1, 0.0], [np.nan] * 4]), item_alone=np.eye(2),
            leakage=np.array([[np.nan, -0.02], [0.01, np.nan]]), isolated=low, swaps=("cat", "x"),
        ),
        saes.ZeroShot(
            name="d", n=60, form="latents", classes=2, alpha=0.5, alphas=np.array([0.0, 0.5]),
            validation=np.array([0.6, 0.7]), n_validation=20, plain=0.6, enhanced=0.7, added=0.5,
            gain=0.1, low=0.02, high=0.2, helps=True, chance=0.5, seed=0,
        ),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def made(full, perturbed, steering, lens, features, tiny, tokenizer):
    """Kind -> one result of it."""
    from interp.models import Model

    texts = ["w3 w4 w5 w6 w7", "w5 w6 w7 w3", "w9 w3 w4 w2 w8"] * 3
    results = [
        *(full(), perturbed(), steering(), lens(), features()),
        *from_activations(), *concepts(), *by_hand(),
        *from_models(Model(tiny("gpt2"), spec="tiny", tokenizer=tokenizer()), texts),
    ]  # fmt: skip
    return {r.kind: r for r in results}


def test_there_is_one_of_every_kind(made):
    assert sorted(made) == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_it_shows_itself_and_its_figure_or_says_in_a_sentence_that_there_is_none(made, kind):
    result = made[kind]
    shown = result._repr_html_()
    assert "<table" in shown and "<script" not in shown
    if any(t in FIGURES for t in type(result).__mro__):
        assert len(result.plot().layout.meta["alt"]) > 20
    else:
        with pytest.raises(ParameterError, match=r"has no figure; its numbers are in to_frame\(\)"):
            result.plot()


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"concept_depth", "cluster_map"}))
def test_the_overview_says_what_was_found(made, kind):
    said = headline(made[kind])
    assert re.search(r"\d|undefined|'", said) and "nan" not in said and "None" not in said


def hostile(value, text):
    """The same with every text in it replaced: names, labels, words, paths."""
    if isinstance(value, str):
        return text
    if isinstance(value, np.ndarray) and value.dtype.kind in "OU":
        return np.array([hostile(v, text) for v in value.tolist()], dtype=object)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return attacked_fields(value, text)
    if isinstance(value, tuple | list) and not hasattr(value, "_fields"):
        return type(value)(hostile(v, text) for v in value)
    return value


# Read by the code and not shown: the method of an analysis, the columns of a record.
OWN = {"mode", "kind", "unit", "rule", "method", "architecture", "how", "of", "variant", "weight",
       "state", "what", "form", "layout", "criterion", "thumbnails", "schedule", "norm", "task",
       "ways", "design", "reasons", "model", "rows"}  # fmt: skip


def attacked_fields(record, text):
    fields = (f.name for f in dataclasses.fields(record) if f.name not in OWN)
    return dataclasses.replace(record, **{n: hostile(getattr(record, n), text) for n in fields})


def attacked(result, text):
    """Each text field, and what can be said of model and data, holds the attack."""
    about = {"model": {"spec": text}, "data": {"name": text, "notes": [text]}, "pool": text}
    return dataclasses.replace(attacked_fields(result, text), provenance=about)


@pytest.mark.parametrize("kind", KINDS)
def test_attacks_in_its_texts_stay_text(made, reader, kind):
    attack = "</script><script>window.hit=1</script><img src=x onerror=window.hit=1>\u202e\x00"
    library = plotly.offline.get_plotlyjs()
    plain = reader(Report([made[kind]]).html().replace(library, ""))
    page = Report([attacked(made[kind], attack)]).html().replace(library, "")
    read = reader(page)
    assert page.count("<script") == len([t for t in read.tags if t == "script"])
    assert read.tags.count("script") == plain.tags.count("script")
    assert not [v for k, v in read.attributes if k == "src" and not str(v).startswith("data:image")]
    assert not [k for k, _ in read.attributes if k.startswith("on")]
    assert not set("\u202e\x00") & set(page)
    shown = attacked(made[kind], attack)._repr_html_()
    assert "<script" not in shown and "<img src=x" not in shown


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
def test_a_page_of_all_opens_alone_and_axe_finds_nothing_serious(opened, made, tmp_path, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    path = Report([made[k] for k in KINDS]).write(tmp_path / "all.html")
    page, complaints, requests = opened(path, width, "light" if width > 400 else "dark")
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    page.wait_for_timeout(200)
    assert complaints == [] and requests == [path.as_uri()]
    wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(wide) <= 0
    assert page.locator(".plot:not(:has(.main-svg))").count() == 0
    found = axe.Axe().run(page).response["violations"]
    assert [v["id"] for v in found if v["impact"] in ("serious", "critical")] == []


@pytest.mark.browser
def test_a_page_of_all_attacked_runs_nothing(opened, made, tmp_path):
    text = "</script><script>window.hit=1</script><img src=x onerror=window.hit=1>\u202e"
    path = Report([attacked(made[k], text) for k in KINDS]).write(tmp_path / "evil.html")
    page, complaints, requests = opened(path, 390)
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    # Names of 80 characters in 390 px: plotly says that it stops making room for them.
    said = [c for c in complaints if c != "WARN: Too many auto-margin redraws."]
    assert said == [] and requests == [path.as_uri()]
    assert page.evaluate("window.hit") is None
