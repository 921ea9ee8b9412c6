# %% [markdown]
# # Sparse autoencoders
#
# Activations are sums of a few directions out of many. This learns such directions, asks how good
# they are, and looks at what single ones fire for.

# %%
import interp
import saes

model = interp.load("demo:pylm")
texts = interp.read("demo:python").inputs[:400]
acts = interp.capture(model, texts, ["resid_post.2"], pool="all")
X = acts["resid_post.2"]
print("tokens x width:", tuple(X.shape))

# %% [markdown]
# A step touches only active latents. The config is frozen and refuses keys it does not know.

# %%
config = saes.TopKConfig(n_latents=512, k=16)
sae = saes.train(X, config, steps=100, batch_size=2048, seed=0)

# %% [markdown]
# FVU is the error over the variance (0 is perfect, 1 is no better than the mean). Loss recovered
# asks the model itself: what does it lose when the reconstruction takes the activation's place?

# %%
judged = saes.evaluate(sae, X)
print({k: v for k, v in judged.metrics().items() if k in ("fvu", "l0", "dead", "dense")})
recovered = saes.loss_recovered(model, sae, texts[:60], hookpoint="resid_post.2")
print(recovered.to_frame().round(3).to_string(index=False))

# %% [markdown]
# The control is an SAE of the same size that has learnt nothing.

# %%
untrained = saes.TopKSAE(config, X.shape[1])
print("FVU of an untrained one:", round(saes.evaluate(untrained, X).metrics()["fvu"], 3))

# %% [markdown]
# What a latent fires for: its strongest examples, the tokens that its decoder row raises, and a
# name only where its firing predicts a label on documents that did not choose it.

# %%
found = saes.features(sae, model, "demo:python", "resid_post.2", top=3, context=6)
often = found.to_frame().query("fires > 50").sort_values("f1", ascending=False)
print(
    often.head(5)[["latent", "fires", "predicts", "precision", "recall", "chance_f1"]].to_string()
)
feature = found[int(often.iloc[0]["latent"])]
for example in feature.top:
    print(round(example.activation, 2), repr("".join(example.tokens)))

# %% [markdown]
# Two seeds: how many of the latents does another training find again?

# %%
other = saes.train(X, config, steps=100, batch_size=2048, seed=1)
match = saes.match_latents(sae, other)
print(match.counts, "mean cosine", round(match.mean, 2), "chance", round(match.chance, 2))
