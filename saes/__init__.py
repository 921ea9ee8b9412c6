"""Learn: sparse autoencoders, which write an activation as a sum of few directions out of many.

`ARCHITECTURES` lists the variants; each is a config and a class, such as `TopKConfig` and
`TopKSAE`. `SAE.from_pretrained` gives a saved one back as the class that it is.
"""

from saes.absorption import Absorption, feature_absorption, first_letters
from saes.base import ARCHITECTURES, SAE, Loss, SAEConfig, SAEOutput
from saes.codes import Codes
from saes.evaluation import Evaluation, evaluate
from saes.k_sparse import SparseProbing, sparse_probing
from saes.recovery import LossRecovered, loss_recovered
from saes.similarity import Stability, max_cosine, mean_max_cosine, seed_stability
from saes.topk import BatchTopKConfig, BatchTopKSAE, TopKConfig, TopKSAE

ARCHITECTURES.update(
    topk=(TopKConfig, TopKSAE),
    batch_topk=(BatchTopKConfig, BatchTopKSAE),
)

__all__ = [
    "ARCHITECTURES",
    "Absorption",
    "BatchTopKConfig",
    "BatchTopKSAE",
    "Codes",
    "Evaluation",
    "Loss",
    "LossRecovered",
    "SAE",
    "SAEConfig",
    "SAEOutput",
    "SparseProbing",
    "Stability",
    "TopKConfig",
    "TopKSAE",
    "evaluate",
    "feature_absorption",
    "first_letters",
    "loss_recovered",
    "max_cosine",
    "mean_max_cosine",
    "seed_stability",
    "sparse_probing",
]
