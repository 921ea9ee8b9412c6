"""Learn: sparse autoencoders, which write an activation as a sum of few directions out of many.

`ARCHITECTURES` lists the variants; each is a config and a class, such as `TopKConfig` and
`TopKSAE`. `SAE.from_pretrained` gives a saved one back as the class that it is.
"""

from saes.base import ARCHITECTURES, SAE, Loss, SAEOutput
from saes.codes import Codes
from saes.configs import SAEConfig
from saes.crosscoder import Crosscoder, CrosscoderConfig
from saes.gated import GatedConfig, GatedSAE
from saes.interchange import export_checkpoint, import_checkpoint
from saes.jumprelu import JumpReLUConfig, JumpReLUSAE
from saes.matryoshka import MatryoshkaConfig, MatryoshkaSAE
from saes.relu import ReLUConfig, ReLUSAE
from saes.topk import BatchTopKConfig, BatchTopKSAE, TopKConfig, TopKSAE
from saes.transcoder import Transcoder, TranscoderConfig

ARCHITECTURES.update(
    relu=(ReLUConfig, ReLUSAE),
    gated=(GatedConfig, GatedSAE),
    topk=(TopKConfig, TopKSAE),
    batch_topk=(BatchTopKConfig, BatchTopKSAE),
    jumprelu=(JumpReLUConfig, JumpReLUSAE),
    matryoshka=(MatryoshkaConfig, MatryoshkaSAE),
    transcoder=(TranscoderConfig, Transcoder),
    crosscoder=(CrosscoderConfig, Crosscoder),
)

__all__ = [
    "ARCHITECTURES",
    "BatchTopKConfig",
    "BatchTopKSAE",
    "Codes",
    "Crosscoder",
    "CrosscoderConfig",
    "GatedConfig",
    "GatedSAE",
    "JumpReLUConfig",
    "JumpReLUSAE",
    "Loss",
    "MatryoshkaConfig",
    "MatryoshkaSAE",
    "ReLUConfig",
    "ReLUSAE",
    "SAE",
    "SAEConfig",
    "SAEOutput",
    "TopKConfig",
    "TopKSAE",
    "Transcoder",
    "TranscoderConfig",
    "export_checkpoint",
    "import_checkpoint",
]
