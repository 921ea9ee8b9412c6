"""`interp probe --lens --steer`: what directions say and do, and what is refused beforehand."""

import json
import shlex
import sys

import pandas as pd
import pytest

import interp
import probes
from interp.cli.directions import read_answers
from interp.cli.show import show
from interp.data import read
from interp.errors import ParameterError
from interp.runs import read_results

QUICK = ("--probe", "difference_of_means", "--no-random-model")
POINTS = ("-p", "resid_post.1,resid_post.2", *QUICK)
NUMBERS = ("--answer", "0=w20", "--answer", "1=w30", "--answer", "1=w31")


@pytest.fixture
def data(tmp_path):
    """Forty-two rows; the last word gives all the labels away."""
    rows = [
        {
            "text": f"w{60 + i % 7} w{2 + 40 * (i % 2) + 9 * (i % 3)}",
            "number": i % 2,
            "word": ["w20", "w30"][i % 2],
            "three": "abc"[i % 3],
        }
        for i in range(42)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "things.csv", index=False)
    return tmp_path / "things.csv"


@pytest.fixture
def probe(invoke, folder, data, tmp_path):
    """``probe("word", "--lens")``: what it did on these labels, and the run's results."""

    def run(labels, *arguments, out="run"):
        columns = [v for label in labels.split() for v in ("--label-column", label)]
        arguments = (*POINTS, *columns, *arguments, "--out", tmp_path / out)
        done = invoke("probe", folder("gpt2"), data, *arguments)
        assert done.exit_code == 0, done.output
        return done, read_results(tmp_path / out)

    return run


@pytest.fixture
def refused(invoke, folder, data, tmp_path, monkeypatch):
    """``refused(2, "--lens")``: the sentence of a run that ends before it captures anything."""

    def run(code, *arguments, model="gpt2"):
        calls = []
        monkeypatch.setattr("interp.feeds.TextFeed.run", lambda *a: calls.append(a))
        out = tmp_path / "run"
        done = invoke("probe", folder(model), data, *arguments, "--out", out)
        assert done.exit_code == code, done.output
        assert not calls and not out.exists()
        return done.stderr.splitlines()[-1]

    return run


def of_kind(results, kind):
    return [r for r in results if isinstance(r, kind)]


def test_the_lens_of_each_concept_is_that_of_its_direction(probe, folder):
    done, results = probe("word three", "--lens")
    depths = {r.label: r for r in of_kind(results, probes.ConceptDepth)}
    lenses = {r.name: r for r in of_kind(results, probes.LogitLens)}
    assert list(lenses) == ["things.three=a", "things.three=b", "things.three=c", "things.word"]
    model = interp.load(str(folder("gpt2")))
    for name, found in lenses.items():
        depth = depths[name.split(".")[1].split("=")[0]]
        class_ = name.partition("=")[2] or "w30"
        direct = probes.logit_lens(model, depth.direction(depth.peak_hookpoint, class_))
        assert found.raised_ids == direct.raised_ids and found.towards == class_
        assert found.provenance["concept"] == depth.name and found.hookpoint == depth.peak_hookpoint
        assert found.provenance["model"]["short"] == folder("gpt2").name
        assert found.provenance["data"] == depth.provenance["data"]
        assert " ".join(map(repr, found.raised[:2])) in done.stdout
    assert lenses["things.three=a"].raised_ids != lenses["things.three=b"].raised_ids


def test_steering_is_that_of_python_and_takes_the_answers(probe, folder, data):
    done, results = probe("number", "--steer", *NUMBERS)
    (depth,) = of_kind(results, probes.ConceptDepth)
    (found,) = of_kind(results, probes.Steering)
    answers = {"0": ["w20"], "1": ["w30", "w31"]}
    table = interp.data.read(data, label_column="number")
    direct = probes.steering_effect(str(folder("gpt2")), table, depth, answers=answers)
    assert found.metrics() == direct.metrics() and found.answers == answers
    assert found.name == "things.number" == found.provenance["concept"]
    for number in (found.slope, found.random_slope, found.flipped[-1], found.random_flipped[-1]):
        assert f"{number:.3f}" in done.stdout
    assert "steering things.number: " in done.stderr


def test_what_cannot_be_steered_is_said_and_the_rest_is(probe):
    done, results = probe("number word three", "--steer")
    (found,) = of_kind(results, probes.Steering)
    assert found.label == "word" and found.answers == {"w20": ["w20"], "w30": ["w30"]}
    assert "things.number is not steered: the classes 0 and 1 are numbers" in done.stderr
    assert "--answer '0= No'" in done.stderr
    assert "things.three is not steered: steering needs two classes; it has 3." in done.stderr
    early = done.stderr.index("is not steered") < done.stderr.index("capturing things")
    assert early, "it is said before the work"


def test_a_resumed_run_finds_them_and_gives_the_same_numbers(probe, tmp_path):
    arguments = ("word three", "--lens", "--steer")
    done, first = probe(*arguments)
    kept = (tmp_path / "run" / "metrics.json").read_bytes()
    metrics = json.loads(kept)
    assert {k: list(v) for k, v in metrics.items()} == {
        "concept_depth": ["things.three", "things.word"],
        "logit_lens": ["things.three=a", "things.three=b", "things.three=c", "things.word"],
        "steering": ["things.word"],
    }
    again, results = probe(*arguments, "--resume", "--json")
    assert again.stderr.count(": found in ") == len(first) == len(results) == 7
    assert json.loads(again.stdout) == metrics
    assert (tmp_path / "run" / "metrics.json").read_bytes() == kept
    (tmp_path / "run" / "results" / "steering.things.word.json").unlink()
    again, _ = probe(*arguments, "--resume")
    assert again.stderr.count(": found in ") == 6 and "steering things.word: " in again.stderr
    assert (tmp_path / "run" / "metrics.json").read_bytes() == kept


def test_several_models_have_each_their_own(probe, folder):
    _, results = probe("word", "--lens", "--steer", "--compare", folder("llama"))
    for kind in (probes.LogitLens, probes.Steering):
        found = of_kind(results, kind)
        assert [r.name for r in found] == sorted(
            f"{folder(m).name}/things.word" for m in ("gpt2", "llama")
        )
        assert {r.provenance["concept"] for r in found} == {"things.word"}


def test_the_lens_reads_the_stream_where_the_peak_is_elsewhere(probe):
    _, results = probe("word", "--lens", "-p", "mlp_act.*")
    (depth,) = of_kind(results, probes.ConceptDepth)
    (found,) = of_kind(results, probes.LogitLens)
    stream = ("resid_post.1", "resid_post.2")
    assert set(depth.hookpoints) > set(stream)
    at = dict(zip(depth.hookpoints, depth.accuracy, strict=True))
    assert found.hookpoint == max(stream, key=lambda name: at[name])


@pytest.mark.parametrize(
    ("code", "arguments", "says"),
    [
        (2, "--lens --mode paper", "in which mlp_in.0 is not known to lie"),
        (2, "--lens -p mlp_act.*", "probe resid_post.* too"),
        (2, "--lens --probe random_forest", "random_forest has no direction"),
        (2, "--steer --pool all", "each token has a row"),
        (2, "--answer 0=w20", "needs --steer"),
        (2, "--steer --answer w20", "CLASS=WORD"),
        (2, "--steer --answer no=w20", "names the class 'no'; the classes are 0, 1, a, b, c"),
        (2, "--steer --label-column three", "no concept to steer by: things.three is not steered"),
        (2, "--steer --label-column number", "are numbers"),
        (2, "--steer --answer 0=w1000 --answer 1=w30 --label-column number", "no single token"),
        (
            2,
            "--steer --answer 1=w30 --label-column number",
            "classes are 0, 1, and answers were given for 1",
        ),
    ],
)
def test_what_is_refused_before_a_capture(refused, code, arguments, says):
    labels = [] if "--label-column" in arguments else "number word three".split()
    columns = [v for label in labels for v in ("--label-column", label)]
    assert says in refused(code, *shlex.split(arguments), *columns)


@pytest.mark.parametrize("flags", [("--lens",), ("--steer",), ("--lens", "--steer")])
def test_a_model_without_words_is_refused(refused, flags):
    says = refused(1, *flags, "--label-column", "word", model="bert")
    assert f"a language model is needed for {' and '.join(flags)}: " in says
    assert says.endswith("has no unembedding, so it is no language model.")


def test_data_that_are_no_texts_are_refused(invoke, folder, tmp_path):
    code = "import torch\ndef rows():\n    return torch.zeros(20, 3), [0, 1] * 10\n"
    (tmp_path / "made.py").write_text(code)
    arguments = ("--steer", "--out", tmp_path / "run")
    done = invoke("probe", folder("gpt2"), f"{tmp_path / 'made.py'}:rows", *arguments)
    assert done.exit_code == 1 and "--steer reads an answer after a text, and rows" in done.stderr


def test_answers_are_read():
    given = ["1= True", "0=No", "1=a=b"]
    assert read_answers(given) == {"1": [" True", "a=b"], "0": ["No"]}
    assert read_answers(None) == {}
    for wrong in ("1", "=w", "1=", "1= "):
        with pytest.raises(ParameterError, match="CLASS=WORD"):
            read_answers([wrong])


def test_a_page_says_the_command_that_was_typed(probe, invoke, folder, data, tmp_path, monkeypatch):
    typed = ["probe", "a b", "c.csv", "--answer", "1= True"]
    monkeypatch.setattr(sys, "argv", ["/opt/python/bin/interp", *typed])
    probe("word")
    said = "interp probe &#x27;a b&#x27; c.csv --answer &#x27;1= True&#x27;"
    page = tmp_path / "run" / "report.html"
    assert said in page.read_text() and "/opt/python" not in page.read_text()
    assert "Made by" not in (tmp_path / "run" / "metrics.json").read_text()
    metrics = (tmp_path / "run" / "metrics.json").read_bytes()
    monkeypatch.setattr(sys, "argv", ["interp", "report", "run"])
    page.unlink()
    assert invoke("report", tmp_path / "run").exit_code == 0
    assert said in page.read_text(), "a report made again names the run's command, not its own"
    monkeypatch.setattr(sys, "argv", ["pytest", "-q"])
    probe("word", "--force")
    assert "Made by" not in page.read_text(), "another program's arguments are no command"
    assert (tmp_path / "run" / "metrics.json").read_bytes() == metrics


def test_a_shift_has_its_interval_where_there_is_one(capsys):
    measures = ("jump_point", "converging_point", "onset_depth", "peak")
    plain = {"kind": "swap", "strength": 0.05, "peak": 0.9, "jump_point_shift": None}
    plain |= {f"{m}_shift": 0.25 for m in measures[1:]}
    full = plain | {"kind": "int4", "strength": None}
    full |= {f"{m}_shift{end}": v for m in measures for end, v in (("_low", -0.5), ("_high", 1))}
    base = {"n": 4, "label": "x", "groups": None, "hookpoints": (), "layers": (), "majority": 0.5}
    show([probes.Perturbed(name="a.x", clean={}, runs=(plain, full), seed=0, **base)])
    lines = capsys.readouterr().out.splitlines()
    said = {line.split()[0]: line.split(maxsplit=1)[1].split() for line in lines if "0.900" in line}
    assert said["swap=0.05"] == ["0.900", "-", "0.250", "0.250", "0.250"]
    assert said["int4"] == ["0.900", "-", *["0.250", "[-0.500,", "1.000]"] * 3]


def test_a_class_may_have_an_equals_sign():
    rows = pd.DataFrame({"text": ["a", "b", "c", "d"], "label": ["a=b", "c", "a=b", "c"]})
    data = read(rows, name="things")
    assert read_answers(["a=b= yes", "c= no"], [data]) == {"a=b": [" yes"], "c": [" no"]}
    assert read_answers(["a=b= yes"]) == {"a": ["b= yes"]}
