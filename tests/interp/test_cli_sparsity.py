"""``interp sparsity``: the run, its refusals, and going on."""

import json

import pytest

from interp.runs import read_results


@pytest.fixture
def data(tmp_path, texts):
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(texts), encoding="utf-8")
    return path


def test_a_run_with_all_of_it(invoke, folder, data, tmp_path):
    out = tmp_path / "run"
    arguments = ("sparsity", folder("gpt2"), data, "--criterion", "rel_eps", "--level", 0.1,
                 "--curve", "0.5,0.1", "--noise", 0.1, "--flow", "mass", "--drop-first", 1,
                 "--out", out)  # fmt: skip
    done = invoke(*arguments, "--json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    sparse = said["sparsity"]["texts"]
    assert sparse["criterion"] == "rel_eps" and sparse["level"] == 0.1
    assert sparse["dtypes"] == ["float32"] * 3 and len(sparse["initial_density"]) == 3
    assert sparse["tokens"] == [60] * 3
    assert said["density_curve"]["texts"]["densities"] == [1.0, 0.5, 0.1]
    assert said["hidden_flow"]["texts"]["dropped"] == 1
    assert {r.kind for r in read_results(out)} == set(said)
    assert (out / "report.html").stat().st_size > 1_000_000
    assert json.loads((out / "metrics.json").read_text()) == said
    again = invoke(*arguments)
    assert again.exit_code == 1 and "already holds a run" in again.stderr
    resumed = invoke(*arguments, "--resume")
    assert resumed.exit_code == 0 and "Flow found in" in resumed.stderr
    assert "MoHD-style" in resumed.stdout and "loss against density" in resumed.stdout
    assert json.loads((out / "metrics.json").read_text()) == said
    other = invoke(
        "sparsity", folder("gpt2"), data, "--criterion", "mass", "--out", out, "--resume"
    )
    assert other.exit_code == 1 and "other options" in other.stderr


def test_a_model_without_a_relu_is_refused_and_leaves_nothing(invoke, folder, data, tmp_path):
    out = tmp_path / "run"
    done = invoke("sparsity", folder("gpt2"), data, "--out", out)
    assert done.exit_code == 2 and not out.exists()
    assert "no ReLU" in done.stderr and "rel_eps" in done.stderr


def test_a_dry_run_writes_nothing(invoke, folder, data, tmp_path):
    out = tmp_path / "run"
    done = invoke("sparsity", folder("gpt2"), data, "--out", out, "--dry-run")
    assert done.exit_code == 0 and "nothing is stored" in done.stdout and not out.exists()
    done = invoke("sparsity", folder("gpt2"), data, "--dry-run", "--json")
    assert json.loads(done.stdout)["tokens"] == 60


def test_a_config_file_gives_the_options(invoke, folder, data, tmp_path):
    config = tmp_path / "c.toml"
    config.write_text('criterion = "mass"\nlevel = 0.5\ninitial = false\n')
    done = invoke("sparsity", folder("gpt2"), data, "--config", config, "--out", tmp_path / "r",
                  "--json")  # fmt: skip
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)["sparsity"]["texts"]
    assert found["criterion"] == "mass" and found["initial_density"] is None


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--criterion", "magic"), 2, "criterion must be one of"),
        (("--criterion", "mass", "--level", "2"), 2, "below 1"),
        (("--curve", "a"), 2, "--curve takes numbers"),
        (("--curve", "2"), 2, "at most 1"),
        (("--curve", "0.5", "--method", "magic"), 2, "method must"),
        (("--curve", "0.5", "--noise", "-1"), 2, "noise must"),
        (("--flow", "magic"), 2, "--flow is one of"),
        (("--hookpoints", "mlp_act.9"), 1, "layers 0..2"),
        (("--criterion", "mass", "--flow", "topk", "--flow-hookpoints", "x"), 1, "matches 'x'"),
        (("--criterion", "mass", "--curve", "0.5", "--at", "x"), 1, "matches 'x'"),
        (("--experts",), 1, "no mixture of experts"),
    ],
)
def test_wrong_usage_ends_in_a_sentence(invoke, folder, data, tmp_path, options, code, said):
    done = invoke("sparsity", folder("gpt2"), data, "--out", tmp_path / "run", *options)
    assert done.exit_code == code, done.output
    assert said in done.stderr and "Traceback" not in done.output
    assert not (tmp_path / "run").exists()
