"""Codebook features: parts of a model's activations replaced by few codes out of many.

`insert` puts codebooks into a model, `train_codebooks` trains both; `read_patterns`,
`code_features`, `code_concepts` and `codes_on` say what codes stand for; `forced`, `blocked`,
`patched` and `steer_codes` make use of it. `FSM` is a language whose best possible model is known.

Source: Tamkin, Taufeeque, Goodman 2023, "Codebook Features" (arXiv 2310.17230).
"""

from saes.codebook.control import blocked, forced, interchange, jensen_shannon, patched, wilson
from saes.codebook.data import FSMBatches, TextBatches
from saes.codebook.layer import Codebook, CodebookConfig
from saes.codebook.log import CodebookTraining
from saes.codebook.model import Codebooks, insert
from saes.codebook.reading import (
    CodePatterns,
    code_concepts,
    code_features,
    codes_on,
    read_patterns,
)
from saes.codebook.steering import CodeSteering, steer_codes
from saes.codebook.tokfsm import FSM
from saes.codebook.tokfsm_scores import TokFSMScores, evaluate_tokfsm
from saes.codebook.training import train_codebooks

__all__ = [
    "CodePatterns",
    "CodeSteering",
    "Codebook",
    "CodebookConfig",
    "CodebookTraining",
    "Codebooks",
    "FSM",
    "FSMBatches",
    "TextBatches",
    "TokFSMScores",
    "blocked",
    "code_concepts",
    "code_features",
    "codes_on",
    "evaluate_tokfsm",
    "forced",
    "insert",
    "interchange",
    "jensen_shannon",
    "patched",
    "read_patterns",
    "steer_codes",
    "train_codebooks",
    "wilson",
]
