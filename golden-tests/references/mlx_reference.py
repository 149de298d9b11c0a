"""The mlx-lm side: quantised files in MLX's layout, run in float32 on the CPU."""

import re
from pathlib import Path

import mlx.core as mx
import numpy as np
import torch
from mlx.utils import tree_flatten
from mlx_lm.utils import _get_classes, load_model, quantize_model

mx.set_default_device(mx.cpu)

DTYPES = {"f32": mx.float32, "bf16": mx.bfloat16, "f16": mx.float16}


def quantised(config, row, tensors):
    """Hub tensors -> (MLX tensors as saved, config with its quantization entry)."""
    model_class, args_class = _get_classes(config)
    model = model_class(args_class.from_dict(config))
    weights = {name: mx.array(tensor.numpy()) for name, tensor in tensors.items()}
    model.load_weights(list(model.sanitize(weights).items()))
    model.set_dtype(DTYPES[row["storage"]])
    model, config = quantize_model(model, config, row["group"], row["bits"], quant_predicate=row.get("predicate"))
    for path in row.get("explicit_false", []):
        config["quantization"][path] = False
    return dict(tree_flatten(model.parameters())), config


def requantised(folder, row):
    """A folder in the Hub's layout, some of it quantised -> (MLX tensors as saved with the rest quantised, config)."""
    model, config = load_model(Path(folder))
    model.set_dtype(DTYPES[row["storage"]])
    model, config = quantize_model(model, config, row["group"], row["bits"], quant_predicate=row.get("predicate"))
    return dict(tree_flatten(model.parameters())), config


class Reference:
    """A folder loaded by mlx-lm with all floating parameters, scales included, in float32."""

    def __init__(self, folder):
        self.model, self.config = load_model(Path(folder))
        self.model.set_dtype(mx.float32)

    def __call__(self, ids):
        logits = self.model(mx.array(ids)[None])[0]
        assert logits.dtype == mx.float32, "mlx-lm runs in float32"
        return np.array(logits)

    def dequantised(self, zero_centred=None):
        """Float32 tensors as the Hub has them but for their names: experts one by one again, the kernel of a convolution
        last, and norm weights whose names match `zero_centred` less 1."""
        parameters = dict(tree_flatten(self.model.parameters()))
        modules = dict(self.model.named_modules())
        state = {}
        for name, value in parameters.items():
            path, _, leaf = name.rpartition(".")
            if f"{path}.scales" in parameters:
                if leaf != "weight":
                    if leaf == "bias":
                        state[name] = value
                    continue
                module = modules[path]
                value = mx.dequantize(
                    value, parameters[f"{path}.scales"], parameters[f"{path}.biases"], module.group_size, module.bits
                )
            if name.endswith(".conv1d.weight"):
                value = value.moveaxis(2, 1)
            if zero_centred and re.search(zero_centred, name):
                value = value - 1.0
            stacked = re.fullmatch(r"(.*)\.switch_mlp\.(\w+)\.weight", name)
            if stacked:
                for expert in range(value.shape[0]):
                    state[f"{stacked[1]}.experts.{expert}.{stacked[2]}.weight"] = value[expert]
            else:
                state[name] = value
        for name in [name for name in state if name.endswith(".embed_q.weight")]:
            attention = name.removesuffix(".embed_q.weight")
            keys, values = state.pop(name).swapaxes(-1, -2), state.pop(f"{attention}.unembed_out.weight")
            heads = mx.concatenate([keys, values], axis=1)
            state[f"{attention}.kv_b_proj.weight"] = heads.reshape(-1, heads.shape[-1])
        return {name: torch.from_numpy(np.array(value)) for name, value in state.items()}
