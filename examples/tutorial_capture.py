# %% [markdown]
# # Capture
#
# What does a layer hold while a model reads? Hook points name the places, `run_with_cache` reads
# them once, and `capture` writes a whole data set into a store that is read lazily afterwards.
# Nothing is downloaded: the model is 4 layers of GPT-2's architecture that ship in the package.

# %%
import tempfile
from pathlib import Path

import torch

import interp

model = interp.load("demo:pylm")
print(model)

# %% [markdown]
# Roles mean the same in every decoder, encoder and ViT; a module's own name and globs work too.

# %%
points = model.hookpoints()
print(points.query("alias != ''")[["alias", "name", "width"]].head(12).to_string(index=False))

# %% [markdown]
# One forward. The cache holds `[batch, position, width]`; layer i's `resid_post` is Hugging Face's
# `hidden_states[i + 1]`.

# %%
out, cache = interp.run_with_cache(model, "import os\nimport ", ["resid_post.*", "mlp_act.3"])
print({name: tuple(cache[name].shape) for name in cache})
share = (cache["mlp_act.3"] > 0).float().mean()
print(f"share of active neurons at mlp_act.3 in this text: {share:.3f}")

# %% [markdown]
# A data set into a store: the forward stops at the last hook point that is asked for, pads never
# enter, and the rows keep the columns of the data. A killed capture goes on where it stopped.

# %%
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "acts"
    store = interp.capture(model, "demo:facts", ["embed", "resid_post.*"], pool="last", out=path)
    print(store)
    print(store.rows.head(3).to_string())

    # Opened again, only what is asked for is read from the disk.
    again = interp.ActivationStore.open(path)
    X = again["resid_post.2"]
    print("matrix", tuple(X.shape), "rows 3 to 5", tuple(X[3:6].shape))

    # The same text alone gives the same row as in its batch: capture checks this, and so can you.
    text = str(store.rows["text"].iloc[7])
    _, alone = interp.run_with_cache(model, text, ["resid_post.2"])
    torch.testing.assert_close(alone["resid_post.2"][0, -1], X[7], rtol=1e-4, atol=1e-4)

# %% [markdown]
# Hooks write too. Inside the context the direction is added to every position; after it, and after
# an exception, the model is as it was.

# %%
prompt = "def area(width, height):\n    return "
before = model.generate(prompt, max_new_tokens=6)
away = cache["resid_post.2"][0, -1]
with interp.steer(model, "resid_post.2", away, alpha=2.0):
    print("steered ", repr(model.generate(prompt, max_new_tokens=6)))
print("unsteered", repr(before))
assert model.generate(prompt, max_new_tokens=6) == before  # the hooks are gone
