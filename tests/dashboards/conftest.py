"""Results to draw, texts that attack, and a reader of tags."""

from html.parser import HTMLParser

import numpy as np
import pytest

from probes import ConceptDepth

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


@pytest.fixture(scope="session")
def depth():
    return make_depth


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
