"""`interp probe`: modes, prompts, controls, several models, perturbations."""

import json

import pandas as pd
import pytest

import probes
from interp.cli.study import prompted, short_names
from interp.data import read
from interp.errors import ParameterError
from interp.prompts import RELEASED, TASKS
from interp.runs import read_results


@pytest.fixture
def data(tmp_path):
    """Forty rows; the last word gives the label away."""
    rows = [
        {"text": f"w{60 + i % 7} w{2 + 40 * (i % 2) + i % 3}", "label": i % 2, "city": f"c{i // 2}"}
        for i in range(40)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "cities.csv", index=False)
    return tmp_path / "cities.csv"


@pytest.fixture
def probe(invoke, folder, data, tmp_path):
    """``probe("--mode", "paper")``: what it did, and the run's results."""

    def run(*arguments, model="gpt2", out="run"):
        done = invoke("probe", folder(model), data, "--out", tmp_path / out, *arguments)
        assert done.exit_code == 0, done.output
        return done, read_results(tmp_path / out)

    return run


def test_the_recommended_mode_is_the_default(probe):
    done, (depth,) = probe("--group-column", "city")
    assert depth.mode == "recommended" and depth.probe == "logistic" and depth.prompt is None
    assert depth.hookpoints == ("embed", "resid_post.0", "resid_post.1", "resid_post.2")
    assert depth.random_model is not None and len(depth.random_model) == 4
    assert "capturing cities, random weights" in done.stderr
    assert depth.name == "cities.label" and depth.provenance["concept"] == "cities.label"
    for line in depth.warnings:
        assert line in done.stderr


def test_the_released_mode_reads_the_norm_before_the_mlp_with_its_prompt(probe):
    done, (depth,) = probe("--mode", "released_code")
    assert depth.mode == "released_code" and depth.prompt == RELEASED
    assert depth.hookpoints == ("mlp_in.0", "mlp_in.1", "mlp_in.2")
    assert RELEASED in done.stderr and "before each text" in done.stderr
    assert depth.folds == 1


def test_the_released_label_direction(probe):
    """Whose test rows are 1 decides the F1; scikit-learn's split keeps the order of the rows."""
    _, (depth,) = probe("--mode", "released_code", "--no-random-model")
    _, (turned,) = probe("--mode", "released_code", "--no-random-model", "--positive", 0, out="b")
    assert depth.classes == ("0", "1") and turned.classes == ("1", "0")


def test_the_paper_s_mode_takes_a_wording_for_the_task(probe):
    done, (depth,) = probe("--mode", "paper", "--no-random-model")
    assert depth.mode == "paper" and depth.prompt == TASKS["truth"].wording
    assert TASKS["truth"].wording in done.stderr and depth.random_model is None


def test_a_prompt_of_one_s_own_where_one_wants_it(probe):
    done, (depth,) = probe("--prompt", "w9 w9", "--prompt-layout", "after", "--no-random-model")
    assert depth.prompt == "w9 w9" and "after each text" in done.stderr
    assert depth.hookpoints[0] == "embed"
    # all rows end in the same word: at the embedding nothing can be read but the position
    assert depth.accuracy[0] < 0.7 < depth.peak


def test_another_kind_of_probe(probe):
    _, (depth,) = probe("--probe", "difference_of_means", "--no-random-model")
    assert depth.probe == "difference_of_means"


def test_several_models_in_one_report(probe, folder, tmp_path):
    done, results = probe("--compare", folder("llama"), "--no-random-model")
    one, two = folder("gpt2").name, folder("llama").name
    names = [f"{one}/cities.label", f"{two}/cities.label"]
    assert sorted(r.name for r in results) == sorted(names)
    for r in results:
        assert r.name == f"{r.provenance['model']['short']}/{r.provenance['concept']}"
    specs = {r.provenance["model"]["spec"] for r in results}
    assert specs == {str(folder("gpt2")), str(folder("llama"))}
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert list(metrics["concept_depth"]) == sorted(names)
    assert all(name in done.stdout for name in names)
    assert {p.name for p in (tmp_path / "run" / "acts").iterdir()} == {one, two}


def test_the_same_model_twice_has_two_names(probe, folder):
    _, results = probe("--compare", folder("gpt2"), "--no-random-model")
    one, two = sorted(r.name for r in results)
    assert (one.split("/")[1], two.split("/")[1]) == ("cities.label", "cities.label")
    assert one != two and "~2" in two


def test_perturbations_are_results_of_their_own(probe, tmp_path):
    arguments = ("--perturb", "swap=0.2,int8", "--perturb", "prefix", "--no-random-model")
    done, results = probe(*arguments)
    (depth,) = [r for r in results if isinstance(r, probes.ConceptDepth)]
    (found,) = [r for r in results if isinstance(r, probes.Perturbed)]
    assert [(r["kind"], r["strength"]) for r in found.runs] == [
        ("swap", 0.2),
        ("int8", None),
        ("prefix", None),
    ]
    assert found.name == depth.name and found.clean["peak"] == depth.peak
    assert "swap=0.2" in done.stdout and "peak by" in done.stdout
    assert [p.name for p in (tmp_path / "run" / "acts").iterdir()] == ["cities"]  # no scratch left
    first = (tmp_path / "run" / "metrics.json").read_bytes()
    again, _ = probe(*arguments, "--resume")
    assert again.stderr.count("cities.label: found in") == 2
    assert (tmp_path / "run" / "metrics.json").read_bytes() == first


def test_equal_runs_give_equal_files(probe, tmp_path):
    probe("--perturb", "gaussian", out="a")
    probe("--perturb", "gaussian", out="b")
    files = [(tmp_path / out / "metrics.json").read_bytes() for out in "ab"]
    assert files[0] == files[1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--mode", "published"), "--mode must be one of recommended, paper, released_code"),
        (("--perturb", "swop"), "did you mean 'swap'"),
        (("--perturb", "swap=3"), "at most 1"),
        (("--prompt-layout", "after"), "--prompt-layout needs --prompt"),
        (("--prompt", "w3", "--prompt-layout", "around"), "after or before"),
        (("--probe", "oracle"), "--probe must be one of logistic, "),
        (("--mode", "paper", "--probe", "lda"), "logistic, random_forest in the mode paper"),
        (("--perturb", "swap", "--pool", "all"), "which tokens a text has"),
        (("--positive", "maybe"), "positive names one of two classes"),
    ],
)
def test_wrong_usage(invoke, folder, data, tmp_path, arguments, says):
    done = invoke("probe", folder("gpt2"), data, "--out", tmp_path / "run", *arguments)
    assert done.exit_code == 2 and says in done.stderr, done.output
    assert not (tmp_path / "run").exists(), "refused before anything is written"


def test_a_model_to_compare_that_is_not_there_fails_first(invoke, folder, data, tmp_path):
    out = tmp_path / "run"
    done = invoke("probe", folder("gpt2"), data, "--compare", "./nowhere", "--out", out)
    assert done.exit_code == 1 and "no model folder" in done.stderr and not out.exists()


def test_a_random_model_that_cannot_be_made(invoke, folder, data, tmp_path):
    spec = f"tl:{folder('gpt2')}"
    done = invoke("probe", spec, data, "--out", tmp_path / "a")
    assert done.exit_code == 0 and "no random-initialised control" in done.stderr
    done = invoke("probe", spec, data, "--out", tmp_path / "b", "--random-model")
    assert done.exit_code == 1 and "cannot be drawn anew" in done.stderr


def test_a_row_a_token_holds_documents_together(probe):
    _, (depth,) = probe("--pool", "all", "--no-random-model", "-p", "resid_post.1")
    assert depth.groups == "document" and depth.n == 80


def test_short_names_differ():
    specs = ["demo:pylm", "org/pylm", "./a/gpt2/", "tl:gpt2", "my.py:net", "a/b c"]
    assert short_names(specs) == ["pylm", "pylm~2", "gpt2", "tl-gpt2", "net", "b-c"]
    runs = ["runs/tall/model", "runs/wide/model", "wide/checkpoint-500", "model"]
    assert short_names(runs) == ["tall-model", "wide-model", "wide-checkpoint-500", "model"]


def test_prompts_by_mode():
    text = read(["w3", "w4"], name="sentiment")
    frame = read(pd.DataFrame({"text": ["w3"]}), name="cities")
    assert prompted([text], "recommended", None, None) == ([text], {})
    done, used = prompted([text, frame], "released_code", None, None)
    assert used == {"sentiment": RELEASED, "cities": RELEASED}
    assert done[0].inputs[0] == f"w3 {RELEASED}" and done[1].inputs[0] == f"{RELEASED} w3"
    done, used = prompted([text, frame], "paper", None, "after")
    assert used == {"sentiment": TASKS["sentiment"].wording, "cities": TASKS["truth"].wording}
    assert done[1].inputs[0].startswith("w3 ")
    with pytest.raises(ParameterError, match="needs --prompt"):
        prompted([text], "recommended", None, "after")


@pytest.fixture
def forwards(monkeypatch):
    """The forwards that a model made on texts, counted."""
    from interp.feeds import TextFeed

    calls, run = [], TextFeed.run
    monkeypatch.setattr(
        TextFeed, "run", lambda self, rows: (calls.append(rows), run(self, rows))[1]
    )
    return calls


@pytest.mark.parametrize(
    ("arguments", "labels", "says"),
    [
        (("--folds", 2), None, "--folds must be at least 3"),
        (("--folds", 30), None, "cities.label: "),
        ((), ["a"] * 40, "one class only"),
        ((), ["a"] * 39 + ["b"], "cities.label: "),
        ((), [f"c{i}" for i in range(40)], "a label has few"),
        (("--group-column", "city"), ["ab"[i < 20] for i in range(40)], None),
        ((), None, None),
    ],
)
def test_labels_and_folds_are_checked_before_any_forward(
    invoke, folder, data, tmp_path, forwards, arguments, labels, says
):
    if labels is not None:
        pd.read_csv(data).assign(label=labels).to_csv(data, index=False)
    points = ("-p", "resid_post.0", "--no-random-model")
    done = invoke("probe", folder("gpt2"), data, "--out", tmp_path / "run", *points, *arguments)
    if says is None:  # what shows that the count can rise
        assert done.exit_code == 0 and forwards
        return
    assert done.exit_code in (1, 2) and says in done.stderr.splitlines()[-1], done.output
    assert forwards == [] and not (tmp_path / "run").exists()


def test_a_column_for_a_data_set_that_is_not_there(invoke, folder, data, tmp_path):
    for option, column in (("--label-column", "label"), ("--group-column", "city")):
        arguments = ("probe", folder("gpt2"), data, "--out", tmp_path / "run", "--dry-run", option)
        done = invoke(*arguments, f"citys={column}")
        assert done.exit_code == 2 and done.stdout == ""
        assert f"'citys={column}' names the data set 'citys'; this run has cities." in done.stderr
        assert invoke(*arguments, f"cities={column}").exit_code == 0


def test_two_data_sets_of_one_file_name_have_names_of_their_own(invoke, folder, data, tmp_path):
    files = [data]
    for name in "xy":
        (tmp_path / name).mkdir()
        files.append(tmp_path / name / data.name)
        pd.read_csv(data).head(20 + 2 * len(files)).to_csv(files[-1], index=False)
    out = tmp_path / "run"
    arguments = ("-p", "resid_post.1", "--no-random-model", "--group-column", "cities=city")
    done = invoke("probe", folder("gpt2"), *files, "--out", out, *arguments)
    assert done.exit_code == 0, done.output
    found = {r.name: (r.n, r.groups) for r in read_results(out)}
    assert found == {
        "cities.label": (40, "city"),
        "cities~2.label": (24, "city"),
        "cities~3.label": (26, "city"),
    }
    assert {p.name for p in (out / "acts").iterdir()} == {"cities", "cities~2", "cities~3"}


def test_a_dry_run_in_json_is_a_list_of_captures(invoke, folder, data, tmp_path):
    arguments = ("--compare", folder("llama"), "-p", "resid_post.*", "--dry-run", "--json")
    done = invoke("probe", folder("gpt2"), data, "--out", tmp_path / "run", *arguments)
    plans = json.loads(done.stdout)
    assert [p["model"] for p in plans] == [str(folder("gpt2")), str(folder("llama"))]
    for plan in plans:
        assert (plan["data"], plan["rows"], plan["bytes"]) == ("cities", 40, 40 * 3 * 32 * 4)
    assert not (tmp_path / "run").exists()


def test_a_model_without_blocks_needs_hook_points(invoke, tmp_path):
    (tmp_path / "net.py").write_text(
        "import torch\n"
        "def net():\n"
        "    return torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU())\n"
        "def rows():\n"
        "    x = torch.arange(30.0).reshape(30, 1, 1, 1) * torch.ones(1, 1, 5, 5)\n"
        "    return x, [i // 15 for i in range(30)]\n"
    )
    spec = f"{tmp_path / 'net.py'}:"
    arguments = ("probe", f"{spec}net", f"{spec}rows", "--out", tmp_path / "run")
    done = invoke(*arguments)
    assert done.exit_code == 2 and not (tmp_path / "run").exists()
    says = done.stderr.splitlines()[-1]
    assert "--hookpoints is needed: " in says and "has no stack of blocks" in says
    assert "--pool mean" in says
    done = invoke(*arguments, "-p", "0", "--pool", "mean", "--no-random-model")
    assert done.exit_code == 0, done.output


def test_matched_rows_that_a_random_split_tears_apart_are_warned_of(invoke, folder, tmp_path):
    """Each text is there with both labels, so what is learnt of one is wrong of the other."""
    rows = [{"text": f"w{2 + i // 2}", "label": i % 2, "city": f"c{i // 2}"} for i in range(60)]
    pd.DataFrame(rows).to_csv(tmp_path / "pairs.csv", index=False)
    arguments = ("probe", folder("gpt2"), tmp_path / "pairs.csv", "-p", "resid_post.1")
    done = invoke(*arguments, "--no-random-model", "--out", tmp_path / "a")
    (depth,) = read_results(tmp_path / "a")
    said = "is below the majority class: rows that are matched seem to lie in training and test; "
    (warning,) = [line for line in depth.warnings if said in line]
    assert warning.endswith("group by 'city'.") and depth.accuracy[0] < depth.majority
    assert f"pairs.label: {warning}" in done.stderr
    assert warning in (tmp_path / "a" / "metrics.json").read_text()
    grouped = ("--group-column", "city", "--out", tmp_path / "b")
    done = invoke(*arguments, "--no-random-model", *grouped)
    (depth,) = read_results(tmp_path / "b")
    assert not any(said in line for line in depth.warnings) and said not in done.stderr
