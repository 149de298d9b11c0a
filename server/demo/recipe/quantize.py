"""Writes a trained decoder as an MLX 4-bit model folder, and reads one back as f32 weights."""

import json
import pathlib

import torch
from safetensors.torch import load_file, save_file

from affine import GROUP, bits_of, dequantize, pack, quantize, unpack
from model import Decoder


def export(decoder: Decoder, folder: pathlib.Path):
    tensors, overrides = {}, {}
    for name, weight in decoder.state_dict().items():
        bits = bits_of(name)
        if bits is None:
            tensors[name] = weight.to(torch.bfloat16).cpu()
            continue
        module = name.removesuffix(".weight")
        values, scales, biases = quantize(weight, bits)
        tensors[name] = pack(values, bits).cpu()
        tensors[module + ".scales"], tensors[module + ".biases"] = scales.cpu(), biases.cpu()
        if bits != 4:
            overrides[module] = {"group_size": GROUP, "bits": bits}
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous() for name, tensor in sorted(tensors.items())}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "mlx"})
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    ids = {token["content"]: token["id"] for token in vocabulary}
    quantization = {"group_size": GROUP, "bits": 4, "mode": "affine", **overrides}
    config = dict(
        decoder.config, eos_token_id=ids["<|im_end|>"], pad_token_id=ids["<|endoftext|>"], bos_token_id=None,
        torch_dtype="bfloat16", use_cache=True, quantization=quantization, quantization_config=quantization,
    )
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    generation = {
        "do_sample": False, "temperature": 0.0, "eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]],
        "pad_token_id": ids["<|endoftext|>"],
    }
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")


def stored_weights(folder: pathlib.Path) -> dict:
    """The f32 weights that the stored model stands for, under the stored names."""
    config = json.loads((folder / "config.json").read_text())["quantization"]
    tensors = load_file(folder / "model.safetensors")
    weights = {}
    for name, tensor in tensors.items():
        module = name.removesuffix(".weight")
        if module + ".scales" in tensors and name.endswith(".weight"):
            values = unpack(tensor, config.get(module, config)["bits"])
            weights[name] = dequantize(values, tensors[module + ".scales"], tensors[module + ".biases"])
        elif name.endswith(".weight"):
            weights[name] = tensor.float()
    return weights


def load(folder: pathlib.Path, dtype=torch.float32) -> Decoder:
    config = json.loads((folder / "config.json").read_text())
    decoder = Decoder(config, dtype)
    decoder.load_state_dict(stored_weights(folder))
    return decoder.eval()
