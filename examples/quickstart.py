"""The first ten minutes: load, look, capture, probe, intervene, report. Runs offline in seconds."""

import tempfile
from pathlib import Path

import dashboards
import interp
import probes


def main() -> None:
    model = interp.load("demo:pylm")
    print(model)
    print(model.hookpoints().query("alias != ''").head(8).to_string(index=False))

    # one forward: the output, and what the hook points held
    out, cache = interp.run_with_cache(model, "import os\nimport ", ["resid_post.*", "mlp_act.3"])
    print("logits", tuple(out.logits.shape), "mlp_act.3", tuple(cache["mlp_act.3"].shape))

    # a data set into a store, then a probe at every layer
    store = interp.capture(model, "demo:facts", ["embed", "resid_post.*"])
    depth = probes.concept_depth(store, label="label", groups="group")
    print(depth.to_frame().round(3).to_string(index=False))

    # an intervention: the same prompt, with a direction added at layer 2
    prompt = "def area(width, height):\n    return "
    print(repr(model.generate(prompt, max_new_tokens=8)))
    away = cache["resid_post.2"][0, -1]
    with interp.steer(model, "resid_post.2", away, alpha=2.0):
        print(repr(model.generate(prompt, max_new_tokens=8)))

    with tempfile.TemporaryDirectory() as folder:
        path = dashboards.Report([depth], title="Quick start").write(Path(folder) / "report.html")
        print(f"report of {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
