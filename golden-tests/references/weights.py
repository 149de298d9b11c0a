"""Random weights for a config: names and shapes come from the reference, values from a seeded generator."""

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


def hub_shapes(folder):
    """Name -> shape in the layout of published files: experts one by one, a tied head left out."""
    config = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    shapes = {}
    for name, tensor in model.state_dict().items():
        shape = tuple(tensor.shape)
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        if config.model_type == "gpt_oss":
            # Published as transformers has it: gate and up of all experts in turns, rows are inputs.
            shapes[name] = shape
        elif name.endswith(".experts.gate_up_proj"):
            experts, both, hidden = shape
            for expert in range(experts):
                for part in ("gate_proj", "up_proj"):
                    shapes[f"{name.removesuffix('gate_up_proj')}{expert}.{part}.weight"] = (both // 2, hidden)
        elif name.endswith(".experts.down_proj"):
            for expert in range(shape[0]):
                shapes[f"{name.removesuffix('down_proj')}{expert}.down_proj.weight"] = shape[1:]
        else:
            shapes[name] = shape
    return shapes


def scale(name, shape, embedding):
    """Standard deviation of a matrix; large enough that rope, eps and every bias show in the logits."""
    if name.endswith("embed_tokens.weight"):
        return embedding
    if name.endswith((".experts.gate_up_proj", ".experts.down_proj")):
        return 1.2 / shape[-2] ** 0.5
    gain = 2.4 if name.endswith(("lm_head.weight", "mlp.gate.weight", "mlp.router.weight")) else 1.2
    return gain / shape[-1] ** 0.5


def random_weights(shapes, seed, embedding, norm):
    """Float32 tensors; drawn in name order so that a file's order does not change them.

    `embedding` is the standard deviation of embeddings; norm weights lie around `norm`.
    """
    generator = np.random.default_rng(seed)
    tensors = {}
    for name in sorted(shapes):
        draw = generator.standard_normal(shapes[name], dtype=np.float32)
        if name.endswith("linear_attn.norm.weight"):
            value = 1.0 + 0.2 * draw
        elif name.endswith("norm.weight"):
            value = norm + 0.2 * draw
        elif name.endswith("A_log"):
            # Some heads forget within a few tokens, others keep most of a prompt.
            value = 1.5 * draw - 3.0
        elif name.endswith("sinks"):
            # About as large as the scores of a few tokens together.
            value = 1.0 + draw
        elif name.endswith("correction_bias"):
            # No sum with the sigmoid of a score is below 0, where mlx-lm puts experts of groups that are left out.
            value = 0.4 + 0.1 * draw
        elif name.endswith("bias"):
            value = 0.3 * draw
        else:
            value = np.float32(scale(name, shapes[name], embedding)) * draw
        tensors[name] = torch.from_numpy(np.ascontiguousarray(value, dtype=np.float32))
    return tensors
