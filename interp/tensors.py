"""A safetensors file as pieces to write one after the other, without a copy of its tensors."""

import json
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

__all__ = ["pieces"]

PIECE = 16 * 2**20
"""Bytes of a piece."""
DTYPES: dict[torch.dtype, str] = {
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""In the order that the format gives them in a file: the widest first, so that all are aligned."""


def pieces(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> Iterator[bytes | memoryview]:
    """The bytes of a safetensors file, those that ``safetensors.torch.save`` gives, in order.

    A piece is a view of a tensor's own memory, so that writing a file takes no memory of its size;
    a tensor on another device, or one that is not contiguous, is copied when its turn comes.
    """
    kinds = list(DTYPES)
    order = sorted(tensors, key=lambda name: (kinds.index(tensors[name].dtype), name))
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in order:
        tensor = tensors[name]
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in order:
        flat = tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        for part in flat.split(PIECE):
            yield memoryview(part.numpy())
