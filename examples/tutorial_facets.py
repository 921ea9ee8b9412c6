# %% [markdown]
# # Facets
#
# One unit can fire for several different things. The network of `demo:digits` has an output
# "even", which fires for zeros, twos, fours, sixes and eights. Nobody told it the digits, and one
# picture of "even" would hide them. This finds the facets, asks whether there is more than one at
# all, and draws each.

# %%
import numpy as np

import interp
import probes
from probes.multifaceted import objectives, schedules

model = interp.load("demo:digits")
data = interp.read("demo:digits")
found = probes.facets(model, data, unit="even", schedule=schedules.lucid(steps=128), seed=0)
print(found.scores[["facet", "name", "inputs", "tightness", "purity"]].round(3).to_string())

# %% [markdown]
# The inputs that fire the unit were read, and what the last linear layer sees of each is its code.
# Codes were put on a map and grouped there. The number of groups is the one with the greatest
# silhouette.

# %%
print("\n".join(found.notes))
print({k: round(v, 3) for k, v in found.tried.items()})
found.plot()  # the map, one colour and one symbol a facet

# %% [markdown]
# ## Is there more than one?
#
# k-means finds groups in anything. So two tests are made in the codes themselves, where distances
# mean something: are the groups tighter than those of one Gaussian lump of the same covariance, and
# is there a valley between two of them? Both must say yes at .05, else one facet is reported.

# %%
print("Gaussian null p", found.null["p"], " valley p", f"{found.valley:.2g}", " ->", found.several)

# %% [markdown]
# The control: one long lump. k-means halves it and the tests do not believe it.

# %%
lump = np.random.default_rng(0).standard_normal((300, 20)) * np.linspace(5, 1, 20)
control = probes.find_facets(lump, embed="pca")
print("Gaussian null p", control.null["p"], " valley p", f"{control.valley:.2g}", " ->",
      control.several, "and", control.k, "facet")  # fmt: skip

# %% [markdown]
# ## Are they right?
#
# Here the truth is known: the digit, which took no part in the search. The adjusted Rand index is 1
# for the same groups and 0 for chance. `agreement` compares the groups with those that k-means
# makes without a map.

# %%
print("adjusted Rand index with the digit", round(found.adjusted_rand_index, 3))
print({k: round(v, 3) for k, v in found.control.items()})

# %% [markdown]
# ## What do they look like?
#
# Each facet has a mean of the real images nearest its centre, and an image that climbed from there.


# %%
def show(images):
    """Images [n, 1, h, w] side by side, as characters."""
    for rows in images[:, 0].transpose(1, 0, 2):
        print("   ".join("".join(" .:-=+*#%@"[int(v * 9.99)] * 2 for v in row) for row in rows))


show(found.means)
show(found.images)

# %% [markdown]
# `ratio` is the activation over that of the best real input, `own cosine` the likeness of the
# image's code with its own facet's mean code, `other cosine` with the nearest other one's.

# %%
names = ["name", "image ratio", "image own cosine", "image other cosine", "image facet"]
print(found.scores[names].round(3).to_string())

# %% [markdown]
# ## Climbing by hand
#
# That each image stays with its facet is no matter of course. Climbing the unit alone, from the
# same mean images, fires it more and forgets most facets: `recognised` is the share of images that
# are nearest their own facet, by chance one of five.

# %%
alone = probes.maximize(
    model, objectives.logit(0), starts=found.means, schedule=schedules.lucid(steps=128)
)
_, codes = interp.run_with_cache(model, data.inputs[found.rows], [found.codes_at])
codes = codes[found.codes_at].flatten(1).double().numpy()
centroids = [codes[found.labels == i].mean(0) for i in range(found.n_facets)]
scores = probes.facet_scores(
    model, alone, hookpoint=found.codes_at, centroids=centroids, best_real=found.strongest
)
print("recognised", scores.recognised, " diversity", round(scores.diversity, 3),
      "(kept near:", f"{found.diversity:.3f})")  # fmt: skip
show(alone.images)

# %% [markdown]
# ## Facets of a language model's unit
#
# The inputs are contexts, and a facet has words that its contexts have more often. A context's code
# is that of the token that fires most. This unit fires at ` self`, and the facets are what stands
# before it.

# %%
text = probes.facets("demo:pylm", "demo:python", hookpoint="mlp_act.1", unit=17, n_top=400)
for i, (words, snippets) in enumerate(zip(text.words, text.snippets, strict=True)):
    print("facet", i, [word for word, _ in words])
    for tokens, _, at in snippets[:2]:
        print("   ", repr("".join(tokens[:at])), "->", repr(tokens[at]))

# %% [markdown]
# The same from a shell, with a page of maps and pictures:
# `interp facets demo:digits demo:digits --unit even --unit prime`.
