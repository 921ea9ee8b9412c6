# %% [markdown]
# # Facets
#
# One unit can fire for several different things. The demo's digit network has an output "even":
# what fires it are zeros, twos, fours, sixes and eights, and a single mean image hides that.

# %%
import interp
import probes

model = interp.load("demo:digits")
found = probes.facets(model, "demo:digits", unit="even", n_facets=5, seed=0)
print(found.to_frame().round(3).to_string(index=False))

# %% [markdown]
# Is there more than one facet at all? A null of one lump answers, and the number of facets can be
# chosen by the silhouette in place of being given.

# %%
print({k: v for k, v in found.metrics().items() if not isinstance(v, dict | list)})

# %% [markdown]
# `found.plot()` draws the map; a report shows the real examples, the mean images, and the images
# that were synthesised from them, one a facet.

# %%
print(found.plot().layout.meta["alt"])
