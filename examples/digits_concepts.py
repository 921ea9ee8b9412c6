"""Concepts that a small CLIP's images and captions share, over three seeds, and what they are for.

    python examples/digits_concepts.py           # about a minute on one CPU core

A VL-SAE of demo:digits-clip learns from the digits that the model was trained on. Printed for each
seed: latents that are named and that agree on a digit, on parity, on loops or on strokes, beside
the same count with rows that stand for others; and zero-shot accuracy on held-out digits without
and with the latents' cosine, its weight chosen on half of them.
"""

from collections import Counter

import numpy as np

import interp
import saes
from interp.demo.captions import FACTS, WORDS, captioned, prompts


def main() -> None:
    data, model = captioned(), interp.load("demo:digits-clip")
    store = interp.capture_pairs(model, data)
    images, texts = store["image_embeds"], store["text_embeds"]
    classes = interp.capture(model, prompts(), "text_embeds")["text_embeds"][:]
    learnt = (store.rows["split"] == "train").to_numpy()
    first = ~store.rows["image"].duplicated().to_numpy()  # an image has two captions
    judged = np.flatnonzero(~learnt & first)
    digits = [WORDS.index(d) for d in store.rows["digit"].iloc[judged]]
    config = saes.VLConfig(n_latents=64, k=8)
    for seed in range(3):
        sae = saes.train(
            (images[learnt], texts[learnt]), config, steps=300, batch_size=512, lr=1e-3, seed=seed
        )
        assert isinstance(sae, saes.VLSAE)  # noqa: S101  as the config says
        found = saes.concepts(sae, store, data, columns=FACTS, seed=seed)
        counts = found.metrics()
        about = Counter(concept.meaning.column for concept in found if concept.meaning)
        print(f"seed {seed}: {counts}")
        print(f"  agree on {dict(about)}")
        for form in ("latents", "reconstruction"):
            shot = saes.zero_shot(sae, images[judged], digits, classes, form=form, seed=seed)
            m = shot.metrics()
            print(
                f"  zero-shot with {form}: {m['plain']:.4f} plain, {m['enhanced']:.4f} enhanced, "
                f"gain {m['gain']:.4f} [{m['low']:.4f}, {m['high']:.4f}], alpha {m['alpha']}, the "
                f"added cosine alone {m['added']:.4f}; {m['verdict']}"
            )
            tried = zip(shot.alphas, shot.validation, strict=True)
            print("    validation by alpha:", ", ".join(f"{a:g} {v:.4f}" for a, v in tried))


if __name__ == "__main__":
    main()
