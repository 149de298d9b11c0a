"""MXFP4 of the OCP Microscaling specification 1.0 as gpt-oss publishes it: blocks of 32 columns to 16 bytes, low nibble
first, and a power of two for each."""

import torch

MAGNITUDES = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
BLOCK = 32


def encode(matrices):
    """float32 [experts, inputs, outputs] -> (blocks [experts, outputs, inputs / 32, 16], scales [.., inputs / 32]), uint8.

    A scale is the least under which the largest number of a block is at most 6; numbers go to the nearest code.
    """
    blocks = matrices.transpose(1, 2).unflatten(-1, (-1, BLOCK))
    exponents = torch.ceil(torch.log2(blocks.abs().amax(-1) / 6.0)).clamp(-127, 127)
    scaled = blocks / torch.exp2(exponents)[..., None]
    codes = (scaled.abs()[..., None] - MAGNITUDES).abs().argmin(-1) + 8 * (scaled < 0)
    packed = codes[..., ::2] + 16 * codes[..., 1::2]
    return packed.to(torch.uint8), (exponents + 127).to(torch.uint8)


def published(tensors):
    """Tensors with the matrices of all experts as blocks and scales."""
    stored = {}
    for name, tensor in tensors.items():
        if name.endswith((".experts.gate_up_proj", ".experts.down_proj")):
            blocks, scales = encode(tensor.float())
            stored |= {f"{name}_blocks": blocks.contiguous(), f"{name}_scales": scales.contiguous()}
        else:
            stored[name] = tensor
    return stored
