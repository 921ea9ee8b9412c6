# %% [markdown]
# # Concept depth
#
# At which layer can a linear probe read a concept, and is that more than the words give away?
# A curve alone says little: this shows the controls that belong to it.

# %%
import interp
import probes

model = interp.load("demo:pylm")
data = interp.read("demo:python", label_column=["keyword", "loop"])
places = ["embed", "resid_post.0", "resid_post.3"]
store = interp.capture(model, data, places, pool="last")
print(store.rows.iloc[0].to_dict())

# %% [markdown]
# Lines of one file stay on one side of every split, so the probe cannot know a file by heart.
# `random_model` is the same architecture with random weights.

# %%
random = interp.capture(model.reinitialised(0), data, places, pool="last")
depths = {
    label: probes.concept_depth(store, label=label, groups="file", random_model=random)
    for label in ("keyword", "loop")
}
for label, depth in depths.items():
    print(f"\n{label}: is it {depth.about}")
    columns = ["hookpoint", "accuracy", "shuffled", "random_model", "selectivity"]
    print(depth.to_frame()[columns].round(3).to_string(index=False))
    print(f"majority {depth.majority:.3f}, bag of words {depth.bag_of_words:.3f}")

# %% [markdown]
# The lexical concept is there early; the semantic one comes later, if at all. `onset` is the first
# place that beats shuffled labels, with the places corrected for one another; None says why.

# %%
for label, depth in depths.items():
    why = depth.reasons.get("onset_depth", "")
    print(label, "onset", depth.onset_depth, "converges", depth.converging_point, why)
    for warning in depth.warnings:
        print("  beware:", warning)

# %% [markdown]
# A probe's direction is a unit vector in the activation's own units: what does it write?

# %%
direction = depths["keyword"].direction("resid_post.3")
lens = probes.logit_lens(model, direction)
print("raises", lens.raised[:6], "lowers", lens.lowered[:6])

# %% [markdown]
# In a notebook, `depths["keyword"].plot()` draws the curve, and a result shows itself. A report is
# one file that opens from disk.

# %%
figure = depths["keyword"].plot()
print(figure.layout.meta["alt"])
