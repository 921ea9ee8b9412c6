"""Loss against density: closed cases, the model's own loss, labels, noise and refusals."""

import inspect
import textwrap

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import interp
from interp.errors import DataError, LayerNotFound, ModelError, ParameterError
from probes import density_curve, sparsified

X = torch.randn(60, 6, generator=torch.Generator().manual_seed(0))


class Classifier(nn.Module):
    """The class of a row is the largest of four units after a ReLU, of eight."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first, self.act, self.last = nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)
            self.last.weight.data *= 20  # sure of its answers

    def forward(self, x):
        return self.last(self.act(self.first(x)))


def labelled(labels, **more):
    rows = pd.DataFrame({"label": labels})
    return interp.Dataset(
        name="rows", kind="tensor", inputs=X, rows=rows, labels=("label",), **more
    )


def answers(model):
    with torch.no_grad():
        return model(X).argmax(1).tolist()


def curve(model, data, **options):
    given = {"hookpoints": "act", "draws": 50, **options}
    return density_curve(model, data, (0.5, 0.125), **given)


def test_a_classifier_s_loss_accuracy_and_calibration():
    model = Classifier()
    found = curve(model, labelled(answers(model)))
    assert found.task == "classes" and found.densities == (1.0, 0.5, 0.125) and found.n == 60
    y = torch.tensor(answers(model))
    for j, density in enumerate(found.densities):
        with sparsified(model, "act", density=density), torch.no_grad():
            logits = model(X).double()
        loss = F.cross_entropy(logits, y)
        assert found.loss[0, j] == pytest.approx(float(loss), rel=1e-6)
        assert found.accuracy[0, j] == float((logits.argmax(1) == y).double().mean())
    assert found.accuracy[0, 0] == 1 > found.accuracy[0, 2]
    with torch.no_grad():
        confidence = model(X).double().softmax(1).max(1).values
    below = F.one_hot((confidence * 15).ceil().long() - 1, 15).double()
    expected = (below * (1 - confidence)[:, None]).sum(0).abs().sum() / 60
    assert found.calibration_error[0, 0] == pytest.approx(float(expected), rel=1e-6)
    assert found.realised[0, 2, 0] <= 1 / 8 < found.realised[0, 0, 0]
    assert found.saved() == pytest.approx(1 - found.realised[0, :, 0])
    assert found.increase_low[0, 0] == found.increase_high[0, 0] == 0
    increase = found.loss[0, 2] - found.loss[0, 0]
    assert found.increase_low[0, 2] < increase < found.increase_high[0, 2]


def test_labels_without_meaning_stay_at_chance():
    model = Classifier()
    shuffled = np.random.default_rng(0).integers(0, 4, 60).tolist()
    assert curve(model, labelled(shuffled)).accuracy[0, 0] < 0.5 < 1


def test_labels_may_be_names_or_missing():
    model = Classifier()
    y = [*answers(model)[:-4], 0, 1, 2, 3]  # every class has a row
    numbers = curve(model, labelled(y))
    named = curve(model, labelled(["abcd"[v] for v in y]))
    assert named.loss.tolist() == numbers.loss.tolist()
    assert "alphabetical" in named.notes[0] and not numbers.notes
    missing = curve(model, labelled([None, *y[1:]]))
    assert missing.n == 59
    assert missing.accuracy[0, 0] * 59 == pytest.approx(numbers.accuracy[0, 0] * 60 - 1)
    with pytest.raises(DataError, match="none of the 4 classes"):
        curve(model, labelled(["abcdefg"[v] for v in [*y[:-1], 6]]))
    with pytest.raises(DataError, match="no label column"):
        curve(model, interp.Dataset(name="x", kind="tensor", inputs=X, rows=pd.DataFrame({})))


def test_noise_is_a_second_row_and_does_not_touch_the_first():
    model = Classifier()
    data = labelled(answers(model))
    clean, noisy = curve(model, data), curve(model, data, noise=2.0)
    np.testing.assert_array_equal(noisy.loss[0], clean.loss[0])
    assert noisy.loss[1, 0] > noisy.loss[0, 0] and noisy.accuracy[1, 0] < 1
    assert noisy.harm_low[0] <= noisy.loss[1, 0] - noisy.loss[0, 0] <= noisy.harm_high[0]
    assert curve(model, data, noise=2.0).loss[1].tolist() == noisy.loss[1].tolist()
    assert curve(model, data, noise=2.0, seed=1).loss[1, 0] != noisy.loss[1, 0]
    tiny = curve(model, data, noise=1e-9)
    np.testing.assert_allclose(tiny.loss[1], tiny.loss[0], rtol=1e-6)


def test_groups_are_drawn_whole():
    model = Classifier()
    y = answers(model)
    rows = pd.DataFrame({"label": y, "group": [i // 20 for i in range(60)]})
    data = interp.Dataset(
        name="rows", kind="tensor", inputs=X, rows=rows, labels=("label",), group="group"
    )
    found = curve(model, data)
    assert found.documents == 3 and found.n == 60
    np.testing.assert_allclose(found.loss, curve(model, labelled(y)).loss, rtol=1e-12)
    one = curve(model, interp.Dataset(name="rows", kind="tensor", inputs=X,
                rows=rows.assign(group=0), labels=("label",), group="group"))  # fmt: skip
    assert np.isnan(one.increase_low).all() and one.reasons["increase_low"]


def test_a_language_model_s_loss_is_its_own(gpt2, texts):
    found = density_curve(gpt2, texts, (0.25,), batch_size=5, noise=0.2, draws=50)
    assert found.task == "language"
    for j, density in enumerate((1.0, 0.25)):
        total = count = right = 0
        for text in texts:
            ids = torch.tensor(gpt2.tokenize([text]))
            if ids.shape[1] < 2:
                continue
            with sparsified(gpt2, density=density), torch.no_grad():
                logits = gpt2.module(ids).logits[0, :-1].double()
            total += float(F.cross_entropy(logits, ids[0, 1:], reduction="sum"))
            right += int((logits.argmax(1) == ids[0, 1:]).sum())
            count += ids.shape[1] - 1
        assert found.n == count and found.accuracy[0, j] == right / count
        assert found.loss[0, j] == pytest.approx(total / count, rel=1e-5)
    np.testing.assert_allclose(found.realised[0, 1], 0.25)  # pads are not among the values
    assert found.realised[0, 0].min() > 0.99  # GELU
    assert found.loss[1, 0] != found.loss[0, 0]
    assert found.widths == (48, 48, 48)
    again = density_curve(gpt2, texts, (0.25,), batch_size=2, draws=50)
    np.testing.assert_allclose(again.loss[0], found.loss[0], rtol=1e-6)


def test_pylm_bears_a_quarter_and_not_a_fiftieth():
    source = inspect.getsource(textwrap)
    texts = [source[i : i + 250] for i in range(0, 3000, 250)]
    found = density_curve("demo:pylm", texts, (0.5, 0.02), draws=100)
    assert found.increase_high[0, 1] < 0.05 and found.increase_low[0, 2] > 1
    assert found.realised[0, 0].mean() < 0.2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"densities": [0.0]}, "above 0"),
        ({"densities": [1.2]}, "at most 1"),
        ({"method": "magic"}, "method must"),
        ({"ddof": 3}, "ddof"),
        ({"noise": -1.0}, "noise must"),
        ({"bins": 0}, "bins must"),
        ({"draws": 0}, "draws"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_wrong_settings_are_refused(gpt2, texts, options, said):
    with pytest.raises(ParameterError, match=said):
        density_curve(gpt2, texts, **options)


def test_what_has_no_loss_is_refused(tiny, tokenizer, gpt2, texts):
    bert = interp.Model(tiny("bert"), spec="tiny", tokenizer=tokenizer())
    with pytest.raises(ModelError, match="neither the next token"):
        density_curve(bert, texts)
    with pytest.raises(DataError, match="two tokens"):
        density_curve(gpt2, ["w5", "w6"])
    with pytest.raises(LayerNotFound):
        density_curve(gpt2, texts, hookpoints="mlp_act.9")


def test_it_saves_and_loads(tmp_path):
    model = Classifier()
    found = curve(model, labelled(answers(model)), noise=0.1)
    again = interp.Result.load(found.save(tmp_path / "r.json"))
    assert again.to_frame().equals(found.to_frame()) and again.densities == found.densities
