"""Learn: sparse autoencoders, which write an activation as a sum of few directions out of many.

`ARCHITECTURES` lists the variants; each is a config and a class, such as `TopKConfig` and
`TopKSAE`. `train` learns one from activations; `SAE.from_pretrained` gives a saved one back as the
class that it is. `evaluate`, `loss_recovered`, `sparse_probing`, `feature_absorption` and
`seed_stability` judge one.
"""

from saes.ablation import Ablation, ablate_latents, ablation_effect
from saes.absorption import Absorption, feature_absorption, first_letters
from saes.auxiliary import AuxiliaryAE, AuxiliaryConfig, info_nce
from saes.base import ARCHITECTURES, SAE, Loss, SAEOutput
from saes.classification import ZeroShot, zero_shot, zero_shot_cosines
from saes.codebook.layer import Codebook, CodebookConfig
from saes.codes import Codes
from saes.concept_records import Concept, Concepts
from saes.configs import SAEConfig
from saes.crosscoder import Crosscoder, CrosscoderConfig
from saes.evaluation import Evaluation, evaluate
from saes.exemplars import concepts
from saes.explaining import Explanation, explain
from saes.gated import GatedConfig, GatedSAE
from saes.hallucination import ConceptGuidance, mixed_logits, moved_text_mean
from saes.interchange import export_checkpoint, import_checkpoint
from saes.jumprelu import JumpReLUConfig, JumpReLUSAE
from saes.k_sparse import SparseProbing, sparse_probing
from saes.latents import features
from saes.matching import LatentMatch, match_latents
from saes.matryoshka import MatryoshkaConfig, MatryoshkaSAE
from saes.model_rows import ModelRows
from saes.neuronpedia import export_neuronpedia
from saes.neurons import neuron_features
from saes.pairs import PairEvaluation, evaluate_pairs
from saes.records import Feature, Features
from saes.recovery import LossRecovered, loss_recovered
from saes.relu import ReLUConfig, ReLUSAE
from saes.rows import MatrixRows
from saes.sharded import ShardedSAE
from saes.similarity import Stability, max_cosine, mean_max_cosine, seed_stability
from saes.topk import BatchTopKConfig, BatchTopKSAE, TopKConfig, TopKSAE
from saes.trainer import train
from saes.training import Training
from saes.transcoder import Transcoder, TranscoderConfig
from saes.vl import VLSAE, VLConfig
from saes.vl_modes import released_vl

ARCHITECTURES.update(
    relu=(ReLUConfig, ReLUSAE),
    gated=(GatedConfig, GatedSAE),
    topk=(TopKConfig, TopKSAE),
    batch_topk=(BatchTopKConfig, BatchTopKSAE),
    jumprelu=(JumpReLUConfig, JumpReLUSAE),
    matryoshka=(MatryoshkaConfig, MatryoshkaSAE),
    transcoder=(TranscoderConfig, Transcoder),
    crosscoder=(CrosscoderConfig, Crosscoder),
    codebook=(CodebookConfig, Codebook),
    vl=(VLConfig, VLSAE),
)

__all__ = [
    "ARCHITECTURES",
    "Ablation",
    "Absorption",
    "AuxiliaryAE",
    "AuxiliaryConfig",
    "BatchTopKConfig",
    "BatchTopKSAE",
    "Codebook",
    "CodebookConfig",
    "Codes",
    "Concept",
    "ConceptGuidance",
    "Concepts",
    "Crosscoder",
    "CrosscoderConfig",
    "Evaluation",
    "Explanation",
    "Feature",
    "Features",
    "GatedConfig",
    "GatedSAE",
    "JumpReLUConfig",
    "JumpReLUSAE",
    "LatentMatch",
    "Loss",
    "LossRecovered",
    "MatrixRows",
    "MatryoshkaConfig",
    "MatryoshkaSAE",
    "ModelRows",
    "PairEvaluation",
    "ReLUConfig",
    "ReLUSAE",
    "SAE",
    "SAEConfig",
    "SAEOutput",
    "ShardedSAE",
    "SparseProbing",
    "Stability",
    "TopKConfig",
    "TopKSAE",
    "Training",
    "Transcoder",
    "TranscoderConfig",
    "VLConfig",
    "VLSAE",
    "ZeroShot",
    "ablate_latents",
    "ablation_effect",
    "concepts",
    "evaluate",
    "evaluate_pairs",
    "explain",
    "export_checkpoint",
    "export_neuronpedia",
    "feature_absorption",
    "features",
    "first_letters",
    "import_checkpoint",
    "info_nce",
    "loss_recovered",
    "match_latents",
    "max_cosine",
    "mean_max_cosine",
    "mixed_logits",
    "moved_text_mean",
    "neuron_features",
    "released_vl",
    "seed_stability",
    "sparse_probing",
    "train",
    "zero_shot",
    "zero_shot_cosines",
]
