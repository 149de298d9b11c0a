"""MLX's affine quantisation of weights in groups, as a tensor function: exact in storage, straight-through in training."""

import torch

GROUP = 64


def quantize(weight: torch.Tensor, bits: int):
    """Values of 0..2^bits, scales and biases in bf16, from a weight that is first rounded to bf16.

    The edge of a group that lies farther from zero is met exactly and zero is a value, as `mlx.core.quantize` has it.
    """
    groups = weight.detach().to(torch.bfloat16).float().unflatten(-1, (-1, GROUP))
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    levels = 2**bits - 1
    negative = low.abs() > high.abs()
    scale = ((high - low) / levels).clamp(min=1e-7)
    scale = torch.where(negative, scale, -scale)
    edge = torch.where(negative, low, high)
    steps = torch.round(edge / scale)
    scale = torch.where(steps != 0, edge / steps, scale)
    bias = torch.where(steps != 0, edge, torch.zeros_like(edge))
    values = torch.round((groups - bias) / scale).clamp(0, levels)
    return values.flatten(-2), scale.squeeze(-1).to(torch.bfloat16), bias.squeeze(-1).to(torch.bfloat16)


def dequantize(values: torch.Tensor, scales: torch.Tensor, biases: torch.Tensor) -> torch.Tensor:
    """The f32 weight that the stored form stands for."""
    groups = values.float().unflatten(-1, (-1, GROUP))
    return (groups * scales.float()[..., None] + biases.float()[..., None]).flatten(-2)


def pack(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Values into 32-bit words, the first in the lowest bits."""
    per_word = 32 // bits
    words = values.to(torch.int64).unflatten(-1, (-1, per_word))
    return (words << (torch.arange(per_word, device=values.device) * bits)).sum(-1).to(torch.uint32)


def unpack(words: torch.Tensor, bits: int) -> torch.Tensor:
    shifts = torch.arange(32 // bits, device=words.device) * bits
    return ((words.to(torch.int64)[..., None] >> shifts) & (2**bits - 1)).flatten(-2)


def bits_of(name: str) -> int | None:
    """What a parameter is stored in: norms are not quantised, the router is kept finer as its choices are discrete."""
    if name.endswith("norm.weight"):
        return None
    return 8 if name.endswith("mlp.gate.weight") else 4


def fake_quantize(parameters: dict) -> dict:
    """The parameters as they will be after storage; gradients pass as if nothing had happened."""
    out = {}
    for bits in (4, 8):
        names = [name for name in parameters if bits_of(name) == bits]
        if not names:
            continue
        # One call over all weights, as hundreds of small kernels would cost more than the model itself.
        flat = torch.cat([parameters[name].reshape(-1, GROUP) for name in names])
        rounded = dequantize(*quantize(flat, bits))
        flat = flat + (rounded - flat).detach()
        sizes = [parameters[name].numel() // GROUP for name in names]
        for name, part in zip(names, flat.split(sizes)):
            out[name] = part.view(parameters[name].shape)
    for name, value in parameters.items():
        if bits_of(name) is None:
            out[name] = value + (value.to(torch.bfloat16).float() - value).detach()
    return out
