"""Codebook features: parts of a model's activations replaced by few codes out of many.

`insert` puts codebooks into a model, `train_codebooks` trains both.

Source: Tamkin, Taufeeque, Goodman 2023, "Codebook Features" (arXiv 2310.17230).
"""

from saes.codebook.data import FSMBatches, TextBatches
from saes.codebook.layer import Codebook, CodebookConfig
from saes.codebook.log import CodebookTraining
from saes.codebook.model import Codebooks, insert
from saes.codebook.tokfsm import FSM
from saes.codebook.training import train_codebooks

__all__ = [
    "Codebook",
    "CodebookConfig",
    "CodebookTraining",
    "Codebooks",
    "FSM",
    "FSMBatches",
    "TextBatches",
    "insert",
    "train_codebooks",
]
