# %% [markdown]
# # Codebooks
#
# A codebook replaces an activation by the nearest few of its codes, and the model goes on learning
# through it. What a position holds is then a short list of integers, which can be read and put in.

# %%
import interp
from saes.codebook import (
    CodebookConfig,
    TextBatches,
    codes_on,
    forced,
    insert,
    read_patterns,
    train_codebooks,
)

model = interp.load("demo:pylm")
batches = TextBatches(model, "demo:python", 8, max_length=64, seed=0, part="train")
held_out = TextBatches(model, "demo:python", 8, max_length=64, seed=0, part="held out")

# %% [markdown]
# The codebook is inserted by a hook; nothing of the model is copied. k-means on activations starts
# it near what it replaces.

# %%
books = insert(model, ["mlp_out.3"], CodebookConfig(n_codes=256, k=8), seed=0)
log = train_codebooks(books, batches, held_out=held_out, steps=20, init="kmeans", seed=0)
print(log.to_frame().tail(3).round(3).to_string(index=False))

# %% [markdown]
# With the codebooks switched off the weights are those that trained beside them.

# %%
prompt = "def __init__(self"
print("codes on ", repr(model.generate(prompt, max_new_tokens=8)))
with books.disabled():
    print("codes off", repr(model.generate(prompt, max_new_tokens=8)))

# %% [markdown]
# Which codes fire at the tokens of a text, and is a code a better sign of a pattern than the best
# neuron? Both are chosen on one half of the documents and judged on the other.

# %%
found = read_patterns(books, "demo:python", {"self.": r"self\.", "line end": r"\n"}, documents=200)
for row in found.best():
    print(row)

# %%
print(codes_on(books, "import os").head(8).to_string(index=False))

# %% [markdown]
# Control: put the code for `self.` in while the model writes. After twenty steps it need not work;
# `examples/codebook_pylm.py` trains longer and counts how often it does, with an interval.

# %%
best = next(row for row in found.best() if row.pattern == "self.")
code = (best.hookpoint, best.code)
with forced(books, [code], every_slot=True):
    print("with code", code, repr(model.generate(prompt, max_new_tokens=8)))
