"""Learn: sparse autoencoders, which write an activation as a sum of few directions out of many.

`ARCHITECTURES` lists the variants; each is a config and a class, such as `TopKConfig` and
`TopKSAE`. `SAE.from_pretrained` gives a saved one back as the class that it is.
"""

from saes.ablation import Ablation, ablate_latents, ablation_effect
from saes.base import ARCHITECTURES, SAE, Loss, SAEConfig, SAEOutput
from saes.codes import Codes
from saes.latents import features
from saes.records import Feature, Features
from saes.topk import BatchTopKConfig, BatchTopKSAE, TopKConfig, TopKSAE

ARCHITECTURES.update(
    topk=(TopKConfig, TopKSAE),
    batch_topk=(BatchTopKConfig, BatchTopKSAE),
)

__all__ = [
    "ARCHITECTURES",
    "Ablation",
    "BatchTopKConfig",
    "BatchTopKSAE",
    "Codes",
    "Feature",
    "Features",
    "Loss",
    "SAE",
    "SAEConfig",
    "SAEOutput",
    "TopKConfig",
    "TopKSAE",
    "ablate_latents",
    "ablation_effect",
    "features",
]
