"""demo:digits-clip: captions that are true, a split by hash, and a model that reads both."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import interp
import interp.demo
from interp.demo.captions import FACTS, WORDS, caption, captioned, facts, is_held_out, prompts
from interp.errors import ParameterError

FOLDER = Path(interp.demo.__file__).parent / "digits_clip"


@pytest.fixture(scope="module")
def data():
    return captioned(captions=1)


def test_captions_say_what_is_true_and_only_what_they_list(data):
    for row in data.rows.to_dict("records"):
        true = {fact: row[fact] for fact in FACTS}
        says = tuple(row["says"].split())
        assert says and row["caption"] == caption(true, says)
        words = row["caption"].split()
        assert (f"digit {row['digit']}" in row["caption"]) == ("digit" in says)
        assert (row["parity"] in words) == ("parity" in says)
        assert (row["strokes"] in words) == ("strokes" in says)
    assert caption({"digit": "nine", "parity": "odd", "loops": "one loop", "strokes": "thin"},
                   FACTS) == "the odd digit nine with one loop in thin strokes"  # fmt: skip
    assert facts(8, 0.5) == {"digit": "eight", "parity": "even", "loops": "two loops",
                             "strokes": "thick"}  # fmt: skip


def test_rows_are_the_digits_of_scikit_learn(data):
    pixels, digits = load_digits(return_X_y=True)
    assert len(data) == len(digits) == 1797
    assert [WORDS.index(d) for d in data.rows["digit"]] == digits.tolist()
    first = np.asarray(data.inputs[5][0])[..., 0]
    assert np.array_equal(first, np.round(pixels[5].reshape(8, 8) * 255 / 16).astype(np.uint8))
    assert captioned(captions=1).hash == data.hash != captioned(1, captions=1).hash
    two = captioned(captions=2)
    assert len(two) == 2 * len(data) and two.group == "image"
    for wrong in ({"captions": 0}, {"split": "test"}):
        with pytest.raises(ParameterError, match="captions must be|split is"):
            captioned(**wrong)


def test_one_in_five_is_held_out_by_its_pixels_alone(data):
    split = data.rows["split"] == "held out"
    assert 0.17 < split.mean() < 0.23
    for i in (0, 100, 1500):
        assert is_held_out(np.asarray(data.inputs[i][0])[..., 0]) == split[i]
    assert len(captioned(captions=1, split="held out")) == split.sum()


def test_the_package_holds_a_small_model_and_says_how_good_it_is():
    assert sum(f.stat().st_size for f in FOLDER.iterdir()) < 1_000_000
    card = json.loads((FOLDER / "card.json").read_text())
    model = interp.load("demo:digits-clip")
    data = captioned(captions=1, split="held out")
    store = interp.capture_pairs(model, data)
    images = torch.nn.functional.normalize(store["image_embeds"][:], dim=1)
    classes = interp.capture(model, prompts(), "text_embeds")["text_embeds"][:]
    right = (images @ torch.nn.functional.normalize(classes, dim=1).T).argmax(1).numpy()
    truth = np.array([WORDS.index(d) for d in data.rows["digit"]])
    found = float((right == truth).mean())
    assert card["held_out"]["images"] == len(data)
    assert abs(found - card["held_out"]["zero_shot_accuracy"]) < 0.005
    assert found > 0.9
    shuffled = np.random.default_rng(0).permutation(truth)
    assert (right == shuffled).mean() < 0.2
