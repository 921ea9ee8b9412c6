"""saes: learn what activations are made of. The room is empty in this version.

Sparse autoencoders, VL-SAE and codebook features come here; nothing is exported yet.
"""

__all__: list[str] = []
