"""Results to draw, texts that attack, a reader of tags, and a browser with the network cut."""

import contextlib
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import torch

import saes
from interp.store import ActivationStore
from probes import ConceptDepth
from probes.perturb import Perturbed
from probes.steering import LogitLens, Steering

ATTACKS = {
    "script": "<script>window.hit=1</script>",
    "end": "</script><script>window.hit=1</script>",
    "handler": '"><img src=x onerror="window.hit=1">',
    "attribute": "' onfocus='window.hit=1' autofocus='",
    "entity": "&lt;script&gt;&#60;b&#62;",
    "comment": "<!--<script>",
    "bidi": "user\u202egnp.exe\u2066",
    "nul": "a\x00b\x1b[31m",
    "surrogate": "a\ud800b",
    "separator": "a\u2028b\u2029c",
    "long": "x" * 1_000_000,
}

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class Reader(HTMLParser):
    """What a browser would make of it: the tags, the attributes, and the text."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.text = [], [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


LAYERS = ("embed", *(f"resid_post.{i}" for i in range(5)))


def make_depth(name="facts.label", *, hookpoints=LAYERS, seed=0, **changes):
    """A concept depth result whose curve rises from about .5 to about .9."""
    rng = np.random.default_rng(seed)
    depth = np.linspace(0, 1, len(hookpoints))
    accuracy = np.clip(0.52 + 0.4 / (1 + np.exp(-14 * (depth - 0.5))), 0, 1)
    accuracy = accuracy + rng.normal(0, 0.004, len(hookpoints))
    shuffled = 0.5 + rng.normal(0, 0.01, len(hookpoints))
    jump, converging = changes.get("jump_point", 2 / 6), changes.get("converging_point", 4 / 6)
    layers = len(hookpoints)
    fields = dict(
        name=name,
        n=600,
        label=name.partition(".")[2],
        groups="city",
        about="Is the statement true?",
        layers=tuple(range(1, layers)),
        classes=("False", "True"),
        class_counts={"False": 300, "True": 300},
        n_groups=120,
        folds=5,
        permutations=10,
        strengths=(0.01, 1.0),
        seed=seed,
        strength=np.ones((layers, 5)),
        stratified=0.5,
        bag_of_words_low=0.58,
        bag_of_words_high=0.64,
        jump_hookpoint=None if jump is None else hookpoints[min(2, layers - 1)],
        converging_hookpoint=None if converging is None else hookpoints[min(4, layers - 1)],
        peak=float(np.nanmax(accuracy)),
        peak_hookpoint=hookpoints[int(np.nanargmax(accuracy))],
        leakage=None,
        interval="95 % percentile bootstrap.",
        notes=("Features are standardised.",),
        hookpoints=tuple(hookpoints),
        accuracy=accuracy,
        accuracy_low=accuracy - 0.03,
        accuracy_high=accuracy + 0.03,
        f1=accuracy - 0.01,
        auc=accuracy + 0.02,
        shuffled=shuffled,
        shuffled_low=shuffled - 0.03,
        shuffled_high=shuffled + 0.03,
        selectivity=accuracy - shuffled,
        majority=0.5,
        bag_of_words=0.61,
        jump_point=jump,
        converging_point=converging,
        examples=[
            {"text": f"The city of Accra is in Ghana, {i}.", "label": i % 2} for i in range(5)
        ],
        provenance={
            "model": {"spec": "demo:pylm", "fingerprint": "9f2c51aa"},
            "data": {"name": name.partition(".")[0], "hash": "ab12"},
            "pool": "last",
            "seed": 0,
        },
    )
    return ConceptDepth(**{**fields, **changes})


def make_full(name="facts.label", *, model="demo:pylm", hookpoints=LAYERS, seed=0, **changes):
    """A result that holds all that one can hold; a higher seed knows the concept later."""
    base = make_depth(name, hookpoints=hookpoints, seed=seed)
    rng = np.random.default_rng(seed)
    n, d = len(hookpoints), len(hookpoints) - 1
    at = np.linspace(0, 1, n)
    accuracy = 0.52 + 0.4 / (1 + np.exp(-14 * (at - 0.3 - 0.05 * (seed % 6))))
    accuracy = accuracy + rng.normal(0, 0.006, n)
    untrained = 0.56 + 0.03 * at + rng.normal(0, 0.008, n)
    features = 0.5 + rng.normal(0, 0.01, n)
    p = np.where(accuracy > 0.6, 0.001, 0.4)
    onset = int(np.argmax(accuracy > 0.6))
    fields = dict(
        accuracy=accuracy,
        accuracy_low=accuracy - 0.03,
        accuracy_high=accuracy + 0.03,
        peak=float(accuracy.max()),
        peak_hookpoint=hookpoints[int(accuracy.argmax())],
        selectivity=accuracy - base.shuffled,
        selectivity_low=accuracy - base.shuffled - 0.04,
        selectivity_high=accuracy - base.shuffled + 0.04,
        f1_low=base.f1 - 0.03,
        f1_high=base.f1 + 0.03,
        auc_low=base.auc - 0.03,
        auc_high=base.auc + 0.03,
        calibration_error=0.1 - 0.05 * at,
        calibration_error_low=0.08 - 0.05 * at,
        calibration_error_high=0.13 - 0.05 * at,
        variation_rate=np.concatenate([[np.nan], accuracy[1:] / accuracy[:-1]]),
        converging_literal=(d - 1) / d,
        converging_point=min(onset + 2, d) / d,
        converging_hookpoint=hookpoints[min(onset + 2, d)],
        jump_point=(onset - 1) / d,
        jump_hookpoint=hookpoints[onset],
        onset_depth=(onset - 1) / d,
        onset_hookpoint=hookpoints[onset],
        onset_low=max(onset - 2, 0) / d,
        onset_high=min(onset, d - 1) / d,
        p_value=p,
        p_adjusted=np.minimum(1.0, p * d),
        random_model=untrained,
        random_model_low=untrained - 0.03,
        random_model_high=untrained + 0.03,
        random_features=features,
        random_features_low=features - 0.03,
        random_features_high=features + 0.03,
        probe="logistic",
        prompt="Is it true?",
        warnings=("A random split would separate matched rows: 407 of 748 groups.",),
        provenance={**base.provenance, "model": {"spec": model, "fingerprint": "9f2c51aa"}},
    )
    return replace(base, **{**fields, **changes})


def make_perturbed(name="facts.label", **changes):
    """Every perturbation; the input noise moves depths, the coarse weights the accuracy.

    Intervals reach 0.2 of depth and 0.03 of accuracy to either side; those of bfloat16 are a point.
    """
    kinds = (
        ("prefix", None, 0.0, 0.2, 0.2, -0.01),
        ("swap", 0.05, 0.2, 0.0, 0.2, -0.05),
        ("drop", 0.1, None, 0.4, None, -0.12),
        ("gaussian", 0.1, 0.0, 0.0, 0.0, 0.004),
        ("bfloat16", None, 0.0, 0.0, 0.0, 0.0),
        ("int8", None, 0.0, 0.0, 0.0, -0.002),
        ("int4", None, 0.2, 0.2, 0.4, -0.08),
    )
    clean = dict(
        accuracy=[0.5, 0.7, 0.9], accuracy_low=[0.4, 0.6, 0.8], accuracy_high=[0.6, 0.8, 0.95],
        jump_point=0.2, converging_point=0.4, onset_depth=0.2, peak=0.9,
    )  # fmt: skip
    runs = []
    for kind, strength, jump, converging, onset, peak in kinds:
        run = {**clean, "kind": kind, "strength": strength, "reasons": {}}
        for measure, shift, half in (
            ("jump_point", jump, 0.2),
            ("converging_point", converging, 0.2),
            ("onset_depth", onset, 0.2),
            ("peak", peak, 0.03),
        ):
            half = 0.0 if kind == "bfloat16" else half
            for end, off in (("", 0.0), ("_low", -half), ("_high", half)):
                run[f"{measure}_shift{end}"] = None if shift is None else shift + off
        runs.append(run)
    runs[1] |= {"jump_point_shift_low": None, "jump_point_shift_high": None}
    fields = dict(
        name=name, n=600, label="label", groups="city", hookpoints=("embed", "a.0", "a.1"),
        layers=(1, 2), majority=0.5, clean=clean, runs=tuple(runs), seed=0,
        notes=("The noise is seeded.",),
        provenance={"model": {"spec": "demo:pylm"}, "data": {"name": name.partition(".")[0]}},
    )  # fmt: skip
    return Perturbed(**{**fields, **changes})


def make_steering(name="facts.label", **changes):
    """A direction that flips the answer, beside random ones that do not."""
    alphas = (-4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0)
    a = np.array(alphas)
    odds = -0.4 + 0.9 * a
    fields = dict(
        name=name, n=200, label="label", hookpoint="resid_post.3", classes=("False", "True"),
        answers={"False": [" No"], "True": [" Yes"]}, alphas=alphas, step=3.2,
        log_odds=odds, log_odds_low=odds - 0.3, log_odds_high=odds + 0.3,
        positive=1 / (1 + np.exp(-odds)), flipped=np.clip(np.abs(a) / 5, 0, 1),
        right=np.full(7, 0.6), random_log_odds=-0.4 + 0.02 * a, random_low=-0.7 + 0.02 * a,
        random_high=-0.1 + 0.05 * a, random_flipped=np.full(7, 0.03), directions=5, slope=0.9,
        random_slope=0.05, answer_mass=0.31, seed=0, notes=("alpha = 1 is one class distance.",),
        provenance={"model": {"spec": "demo:pylm"}, "data": {"name": name.partition(".")[0]}},
    )  # fmt: skip
    return Steering(**{**fields, **changes})


def make_lens(name="facts.label", **changes):
    """Ten tokens raised and ten lowered."""
    raised = (" true", " yes", "yes", "\n", "\t", " correct", " right", "True", " is", "")
    lowered = (" false", " no", "No", " not", "n't", " never", " wrong", "False", "0", " <b>")
    fields = dict(
        name=name, n=32_000, hookpoint="resid_post.3", raised=raised, lowered=lowered,
        raised_ids=tuple(range(10)), lowered_ids=tuple(range(10, 20)),
        raised_logits=np.linspace(9, 4, 10), lowered_logits=np.linspace(-8, -3, 10), spread=1.4,
        notes=("A linear reading.",), provenance={"model": {"spec": "demo:pylm"}},
    )  # fmt: skip
    return LogitLens(**{**fields, **changes})


LARGE = ("embed", *(f"resid_post.{i}" for i in range(12)))


def make_everything():
    """A report of all kinds: three concepts in three models, disturbed, steered and read."""
    names = ("facts.label", "python.keyword", "python.in_loop")
    models = (("demo:pylm", LAYERS), ("small/model", LARGE[:9]), ("org/larger-model", LARGE))
    depths = [
        make_full(name, model=model, hookpoints=hookpoints, seed=i + 2 * j)
        for j, name in enumerate(names)
        for i, (model, hookpoints) in enumerate(models)
    ]
    return [*depths, make_perturbed(), make_steering(), make_lens()]


def make_features(n=6, tokens=60, seed=0):
    """Features of an SAE that reads coordinates; the last latent is dead."""
    rng = np.random.default_rng(seed)
    x = np.maximum(rng.normal(0, 1, (tokens, n)), -0.5).astype(np.float32)
    x[:, -1] = -1
    sae = saes.TopKSAE(saes.TopKConfig(n_latents=n, k=n), n)
    with torch.no_grad():
        sae.encoder.copy_(torch.eye(n))
        sae.decoder.copy_(torch.eye(n))
    rows = pd.DataFrame({"document": np.arange(tokens) // 10, "position": np.arange(tokens) % 10})
    store = ActivationStore.from_tensors({"h": torch.tensor(x)}, rows)
    return saes.features(sae, store, None, "h", probes={"first": np.eye(n)[0]})


@pytest.fixture(scope="session")
def features():
    """``features(n=6)``: features of an SAE that reads coordinates; the last latent is dead."""
    return make_features


@pytest.fixture(scope="session")
def depth():
    return make_depth


@pytest.fixture(scope="session")
def full():
    return make_full


@pytest.fixture(scope="session")
def perturbed():
    return make_perturbed


@pytest.fixture(scope="session")
def steering():
    return make_steering


@pytest.fixture(scope="session")
def lens():
    return make_lens


@pytest.fixture(scope="session")
def everything():
    return make_everything()


@pytest.fixture(scope="session")
def six():
    names = ("facts.label", "python.keyword", "python.in_string", "python.in_loop", "a.b", "c.d")
    return [make_depth(name, seed=i) for i, name in enumerate(names)]


@pytest.fixture(params=ATTACKS)
def attack(request):
    return ATTACKS[request.param]


@pytest.fixture(scope="session")
def attacks():
    return ATTACKS


@pytest.fixture(scope="session")
def reader():
    """Parses HTML into ``.tags``, ``.attributes`` and ``.text``."""
    return Reader


@pytest.fixture(scope="session")
def browser():
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("no Chromium on the path; Debian's package `chromium` brings one")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is in the extra `dev`")
    with api.sync_playwright() as play:
        started = play.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture(scope="session")
def until():
    """Waits until an expression holds in a page; playwright's own wait needs `unsafe-eval`."""

    def wait(page, expression, seconds=20):
        for _ in range(20 * seconds):
            if page.evaluate(expression):
                return
            page.wait_for_timeout(50)
        pytest.fail(f"after {seconds} s it does not hold that {expression}")

    return wait


@pytest.fixture
def opened(browser):
    """Opens a file and waits until all is drawn; gives the page, its complaints and requests."""
    with contextlib.ExitStack() as stack:

        def open_(path, width=1280, scheme="light", until="html[data-drawn=all]"):
            context = browser.new_context(
                viewport={"width": width, "height": 900},
                color_scheme=scheme,
                reduced_motion="reduce",  # a page that still scrolls is clicked in the wrong place
                offline=True,
            )
            stack.callback(context.close)
            page = context.new_page()
            complaints, requests = [], []
            page.on("console", lambda m: complaints.append(m.text))
            page.on("pageerror", lambda e: complaints.append(str(e)))
            page.on("request", lambda r: requests.append(r.url))
            page.goto(path.as_uri())
            page.wait_for_selector(until)
            return page, complaints, requests

        yield open_
