"""Examples of a vision store: the pictures are of the documents shown, with their grid."""

import numpy as np
import pandas as pd
import torch
from PIL import Image

import saes
from interp.data import read
from interp.store import ActivationStore


def seen(images, lengths):
    """Features of coordinates over images whose positions are rows of a store."""
    rng = np.random.default_rng(0)
    document = np.repeat(np.arange(len(lengths)), lengths)
    position = np.concatenate([np.arange(n) for n in lengths])
    x = torch.as_tensor(rng.normal(size=(len(document), 3)), dtype=torch.float32)
    rows = pd.DataFrame({"document": document, "position": position})
    sae = saes.TopKSAE(saes.TopKConfig(n_latents=3, k=3), 3)
    with torch.no_grad():
        sae.encoder.copy_(torch.eye(3))
    return saes.features(sae, ActivationStore.from_tensors({"h": x}, rows), images, "h", top=2)


def test_pictures_of_tensors_are_of_the_examples_and_keep_dark_and_light():
    images = torch.zeros(6, 1, 8, 8)
    images[:, :, :, 4:] = 1
    found = seen(images, [4] * 6)
    assert found.images["grid"].tolist() == [2, 2]
    shown = {int(d) for t in (found.top, found.bands) for d in t["document"].flat if d >= 0}
    assert set(found.images["document"].tolist()) == shown
    pixels = found.images["pixels"]
    assert pixels.shape[1:] == (48, 48, 3) and pixels.dtype == np.uint8
    assert (pixels[:, :, :24] == 0).all() and (pixels[:, :, 24:] == 255).all()


def test_pictures_of_files_have_one_shape(tmp_path):
    for i in range(6):
        Image.new("RGB", (60, 30 + 10 * i), (200, 10 * i, 0)).save(tmp_path / f"{i}.png")
    found = seen(read(tmp_path), [9] * 6)
    pixels = found.images["pixels"]
    assert pixels.shape[1:] == (48, 48, 3) and found.images["grid"].tolist() == [3, 3]
    for document, picture in zip(found.images["document"], pixels, strict=True):
        np.testing.assert_allclose(picture[24, 24], [200, 10 * document, 0], atol=2)


def test_positions_that_fill_no_square_have_no_picture_and_the_reason():
    found = seen(torch.zeros(6, 1, 8, 8), [5] * 6)
    assert found.images is None and "no square grid" in found.reasons["images"]
