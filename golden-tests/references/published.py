"""Makes ../published: configurations of published models with the names and shapes of their tensors, no weights.

`python published.py [name ...]`. Dimensions are the model cards' and technical reports'; fields that those leave out
are the reference's defaults. Names and shapes come from the reference on its meta device.
"""

import json
import os
import re
import sys
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ["HF_HUB_OFFLINE"] = "1"

from transformers import AutoConfig

from rows import GPT_OSS_FLOATS, MIXTRAL_PUBLISHED
from weights import hub_shapes

PUBLISHED = Path(__file__).resolve().parent.parent / "published"


def decoder(kind, architecture, width, inner, layers, heads, kv, vocabulary, theta, **more):
    return {
        "architectures": [architecture],
        "model_type": kind,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "vocab_size": vocabulary,
        "rope_theta": theta,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "max_position_embeddings": 32768,
        "torch_dtype": "bfloat16",
    } | more


def llama(*dims, **more):
    return decoder("llama", "LlamaForCausalLM", *dims, **({"rms_norm_eps": 1e-5} | more))


def llama3(*dims, factor, **more):
    scaling = {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    return llama(*dims, 128256, 500000.0, rope_scaling=scaling, max_position_embeddings=131072, **more)


def mistral(*dims, **more):
    flags = {"rms_norm_eps": 1e-5, "sliding_window": None, "head_dim": 128}
    return decoder("mistral", "MistralForCausalLM", *dims, **(flags | more))


def mixtral(*dims, **more):
    experts = {"num_local_experts": 8, "num_experts_per_tok": 2, "rms_norm_eps": 1e-5, "sliding_window": None}
    return decoder("mixtral", "MixtralForCausalLM", *dims, **(experts | more))


def qwen2(*dims, **more):
    return decoder("qwen2", "Qwen2ForCausalLM", *dims, 1000000.0, use_sliding_window=False, **more)


def qwen3(*dims, **more):
    flags = {"head_dim": 128, "max_position_embeddings": 40960}
    return decoder("qwen3", "Qwen3ForCausalLM", *dims, 151936, 1000000.0, **(flags | more))


def qwen2_moe(*dims, experts, top_k, inner, shared, **more):
    mixture = {
        "num_experts": experts,
        "num_experts_per_tok": top_k,
        "moe_intermediate_size": inner,
        "shared_expert_intermediate_size": shared,
        "norm_topk_prob": False,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }
    return decoder("qwen2_moe", "Qwen2MoeForCausalLM", *dims, 151936, 1000000.0, **mixture, **more)


def qwen3_moe(*dims, inner, **more):
    mixture = {
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": inner,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "head_dim": 128,
        "max_position_embeddings": 40960,
    }
    return decoder("qwen3_moe", "Qwen3MoeForCausalLM", *dims, 151936, 1000000.0, **mixture, **more)


def gemma2(*dims, head, query, **more):
    flags = {
        "head_dim": head,
        "query_pre_attn_scalar": query,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "sliding_window": 4096,
        "hidden_activation": "gelu_pytorch_tanh",
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
    }
    return decoder("gemma2", "Gemma2ForCausalLM", *dims, 256000, 10000.0, **flags, **more)


def gemma3(*dims, vocabulary=262144, window, head=256, query=256, **more):
    flags = {
        "head_dim": head,
        "query_pre_attn_scalar": query,
        "sliding_window": window,
        "sliding_window_pattern": 6,
        "rope_local_base_freq": 10000.0,
        "hidden_activation": "gelu_pytorch_tanh",
        "tie_word_embeddings": True,
    }
    return decoder("gemma3_text", "Gemma3ForCausalLM", *dims, vocabulary, 1000000.0, **flags, **more)


def granite(*dims, **more):
    multipliers = {"embedding_multiplier": 12.0, "residual_multiplier": 0.22, "rms_norm_eps": 1e-5}
    flags = {"tie_word_embeddings": True, "max_position_embeddings": 131072}
    return decoder("granite", "GraniteForCausalLM", *dims, 49159, 10000000.0, **multipliers, **flags, **more)


def falcon_h1(*dims, mixer, **more):
    """Sizes are the table's of transformers' page on the family; which have groups and norms, and vocabularies, are from
    secondary sources, and the width of feed-forward layers makes up the number of parameters in a model's name: nobody here
    has seen the published files. Multipliers are the reference's defaults but for 0.5b. `mixer` is heads, their size and
    that of states."""
    heads, head, state = mixer
    flags = {
        "head_dim": 128,
        "rms_norm_eps": 1e-5,
        "mamba_d_ssm": heads * head,
        "mamba_n_heads": heads,
        "mamba_d_head": head,
        "mamba_d_state": state,
        "mamba_n_groups": 1,
        "mamba_d_conv": 4,
        "mamba_rms_norm": False,
        "mamba_norm_before_gate": False,
        "max_position_embeddings": 262144,
    }
    return decoder("falcon_h1", "FalconH1ForCausalLM", *dims, 100000000000.0, **(flags | more))


def gpt_oss(*dims, experts):
    scaling = {
        "rope_type": "yarn",
        "factor": 32.0,
        "original_max_position_embeddings": 4096,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "truncate": False,
    }
    flags = {
        "head_dim": 64,
        "sliding_window": 128,
        "attention_bias": True,
        "num_local_experts": experts,
        "num_experts_per_tok": 4,
        "swiglu_limit": 7.0,
        "rope_scaling": scaling,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 131072,
        "layer_types": ["sliding_attention", "full_attention"] * (dims[2] // 2),
        "quantization_config": {"modules_to_not_convert": GPT_OSS_FLOATS, "quant_method": "mxfp4"},
    }
    return decoder("gpt_oss", "GptOssForCausalLM", *dims, 201088, 150000.0, **flags)


def deepseek(kind, architecture, *dims, vocabulary, mscale, **more):
    scaling = {
        "type": "yarn",
        "factor": 40,
        "original_max_position_embeddings": 4096,
        "beta_fast": 32,
        "beta_slow": 1,
        "mscale": mscale,
        "mscale_all_dim": mscale,
    }
    latent = {
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "attention_bias": False,
        "moe_layer_freq": 1,
        "max_position_embeddings": 163840,
        "rope_scaling": scaling,
    }
    return decoder(kind, architecture, *dims, vocabulary, 10000.0, **latent, **more)


def defaults(kind, architecture):
    """What the reference takes where a file says nothing."""
    text = AutoConfig.for_model(kind).to_dict()
    left_out = ("transformers_version", "_name_or_path", "dtype", "id2label", "label2id")
    kept = {key: value for key, value in text.items() if value is not None and key not in left_out}
    return {"architectures": [architecture], "model_type": kind} | kept


TIED = {"tie_word_embeddings": True}

MODELS = {
    "llama-3.2-1b": llama3(2048, 8192, 16, 32, 8, factor=32.0, head_dim=64, **TIED),
    "llama-3.2-3b": llama3(3072, 8192, 28, 24, 8, factor=32.0, head_dim=128, **TIED),
    "llama-3.1-8b": llama3(4096, 14336, 32, 32, 8, factor=8.0),
    "llama-3.1-70b": llama3(8192, 28672, 80, 64, 8, factor=8.0),
    "tinyllama-1.1b": llama(2048, 5632, 22, 32, 4, 32000, 10000.0, max_position_embeddings=2048),
    "smollm2-135m": llama(576, 1536, 30, 9, 3, 49152, 100000.0, max_position_embeddings=8192, **TIED),
    "smollm2-1.7b": llama(2048, 8192, 24, 32, 32, 49152, 130000.0, max_position_embeddings=8192, **TIED),
    "mistral-7b-v0.3": mistral(4096, 14336, 32, 32, 8, 32768, 1000000.0),
    "mistral-nemo-12b": mistral(5120, 14336, 40, 32, 8, 131072, 1000000.0, max_position_embeddings=131072),
    "mistral-small-24b": mistral(5120, 32768, 40, 32, 8, 131072, 100000000.0),
    "mixtral-8x7b": mixtral(4096, 14336, 32, 32, 8, 32000, 1000000.0),
    "mixtral-8x22b": mixtral(6144, 16384, 56, 48, 8, 32768, 1000000.0, max_position_embeddings=65536),
    "qwen2.5-0.5b": qwen2(896, 4864, 24, 14, 2, 151936, **TIED),
    "qwen2.5-1.5b": qwen2(1536, 8960, 28, 12, 2, 151936, **TIED),
    "qwen2.5-7b": qwen2(3584, 18944, 28, 28, 4, 152064),
    "qwen2.5-32b": qwen2(5120, 27648, 64, 40, 8, 152064, rms_norm_eps=1e-5),
    "qwen2.5-72b": qwen2(8192, 29568, 80, 64, 8, 152064),
    "qwen1.5-moe-a2.7b": qwen2_moe(2048, 5632, 24, 16, 16, experts=60, top_k=4, inner=1408, shared=5632),
    "qwen2-57b-a14b": qwen2_moe(3584, 18944, 28, 28, 4, experts=64, top_k=8, inner=2560, shared=20480),
    "qwen3-0.6b": qwen3(1024, 3072, 28, 16, 8, **TIED),
    "qwen3-4b": qwen3(2560, 9728, 36, 32, 8, **TIED),
    "qwen3-8b": qwen3(4096, 12288, 36, 32, 8),
    "qwen3-32b": qwen3(5120, 25600, 64, 64, 8),
    "qwen3-30b-a3b": qwen3_moe(2048, 6144, 48, 32, 4, inner=768),
    "qwen3-235b-a22b": qwen3_moe(4096, 12288, 94, 64, 4, inner=1536),
    "olmoe-1b-7b": decoder(
        "olmoe", "OlmoeForCausalLM", 2048, 1024, 16, 16, 16, 50304, 10000.0,
        num_experts=64, num_experts_per_tok=8, norm_topk_prob=False, rms_norm_eps=1e-5, max_position_embeddings=4096,
    ),
    "deepseek-v2-lite": deepseek(
        "deepseek_v2", "DeepseekV2ForCausalLM", 2048, 10944, 27, 16, 16, vocabulary=102400, mscale=0.707,
        q_lora_rank=None, n_routed_experts=64, n_shared_experts=2, num_experts_per_tok=6, moe_intermediate_size=1408,
        first_k_dense_replace=1, n_group=1, topk_group=1, topk_method="greedy", scoring_func="softmax",
        norm_topk_prob=False, routed_scaling_factor=1.0,
    ),
    "deepseek-v3": deepseek(
        "deepseek_v3", "DeepseekV3ForCausalLM", 7168, 18432, 61, 128, 128, vocabulary=129280, mscale=1.0,
        q_lora_rank=1536, n_routed_experts=256, n_shared_experts=1, num_experts_per_tok=8, moe_intermediate_size=2048,
        first_k_dense_replace=3, n_group=8, topk_group=4, topk_method="noaux_tc", scoring_func="sigmoid",
        norm_topk_prob=True, routed_scaling_factor=2.5,
    ),
    "falcon-h1-0.5b": falcon_h1(
        1024, 2048, 36, 8, 2, 32784, mixer=(24, 64, 128), head_dim=64, max_position_embeddings=16384,
        # The one whose multipliers are known.
        embedding_multiplier=5.656854249492381, lm_head_multiplier=0.0390625, key_multiplier=0.390625,
        attention_in_multiplier=1.0, attention_out_multiplier=0.9375, mlp_multipliers=[0.8838834764831844, 0.5859375],
        ssm_multipliers=[0.3535533905932738, 0.25, 0.3535533905932738, 0.5, 0.3535533905932738],
        ssm_in_multiplier=1.25, ssm_out_multiplier=0.23570226039551587,
    ),
    "falcon-h1-1.5b": falcon_h1(2048, 4608, 24, 8, 2, 65536, mixer=(48, 64, 256), max_position_embeddings=131072),
    "falcon-h1-7b": falcon_h1(3072, 12288, 44, 12, 2, 130048, mixer=(24, 128, 256), mamba_rms_norm=True),
    "falcon-h1-34b": falcon_h1(
        5120, 21504, 72, 20, 4, 261120, mixer=(32, 128, 256), mamba_rms_norm=True, mamba_n_groups=2
    ),
    "gpt-oss-20b": gpt_oss(2880, 2880, 24, 64, 8, experts=32),
    "gpt-oss-120b": gpt_oss(2880, 2880, 36, 64, 8, experts=128),
    "qwen3.5-defaults": defaults("qwen3_5_text", "Qwen3_5ForCausalLM"),
    "gemma-2-2b": gemma2(2304, 9216, 26, 8, 4, head=256, query=256),
    "gemma-2-9b": gemma2(3584, 14336, 42, 16, 8, head=256, query=256),
    "gemma-2-27b": gemma2(4608, 36864, 46, 32, 16, head=128, query=144),
    "gemma-3-270m": gemma3(640, 2048, 18, 4, 1, window=512),
    "gemma-3-1b": gemma3(1152, 6912, 26, 4, 1, window=512),
    "gemma-3-27b-text": gemma3(
        5376, 21504, 62, 32, 16, vocabulary=262208, window=1024, head=128, query=168,
        rope_scaling={"rope_type": "linear", "factor": 8.0}, max_position_embeddings=131072,
    ),
    "granite-3.3-2b": granite(2048, 8192, 40, 32, 8, attention_multiplier=0.015625, logits_scaling=8.0),
    "granite-3.3-8b": granite(4096, 12800, 40, 32, 8, attention_multiplier=0.0078125, logits_scaling=16.0),
}


def folded(shapes):
    """`[name, shape]` with `{a..b}` for the numbers a to b - 1 of layers and experts, where all of them are alike."""
    numbered = re.compile(r"(?<=\.)\d+(?=\.)")
    alike = {}
    for name, shape in shapes.items():
        pattern = numbered.sub("#", name)
        alike.setdefault((pattern, tuple(shape)), []).append([int(n) for n in numbered.findall(name)])
    lines = []
    for (pattern, shape), numbers in alike.items():
        spans = [runs(sorted(set(column))) for column in zip(*numbers)]
        count = 0
        for choice in product(*spans):
            span = iter(choice)
            lines.append([re.sub("#", lambda _: "{%d..%d}" % next(span), pattern), list(shape)])
            size = 1
            for first, end in choice:
                size *= end - first
            count += size
        assert count == len(numbers), pattern
    return lines


def runs(numbers):
    """Spans `(first, end)` of consecutive numbers."""
    spans = []
    for n in numbers:
        if spans and spans[-1][1] == n:
            spans[-1] = (spans[-1][0], n + 1)
        else:
            spans.append((n, n + 1))
    return spans


def stored_in_blocks(shapes):
    """Shapes with the matrices of experts as blocks and scales."""
    stored = {}
    for name, shape in shapes.items():
        if name.endswith((".experts.gate_up_proj", ".experts.down_proj")):
            experts, inputs, outputs = shape
            in_row = inputs // 32
            stored |= {f"{name}_blocks": (experts, outputs, in_row, 16), f"{name}_scales": (experts, outputs, in_row)}
        else:
            stored[name] = shape
    return stored


def write(name, config):
    with TemporaryDirectory() as folder:
        dense = {key: value for key, value in config.items() if key != "quantization_config"}
        (Path(folder) / "config.json").write_text(json.dumps(dense))
        shapes = hub_shapes(folder)
    if "quantization_config" in config:
        shapes = stored_in_blocks(shapes)
    if config["model_type"] == "mixtral":
        for pattern, replacement in MIXTRAL_PUBLISHED.items():
            shapes = {re.sub(pattern, replacement, name): shape for name, shape in shapes.items()}
    tensors = folded(shapes)
    tensors = [[name, shape, *(["U8"] if name.endswith(("_blocks", "_scales")) else [])] for name, shape in tensors]
    lines = ",\n".join("    " + json.dumps(tensor) for tensor in tensors)
    text = json.dumps({"config": config}, indent=2).removesuffix("\n}")
    (PUBLISHED / f"{name}.json").write_text(f'{text},\n  "tensors": [\n{lines}\n  ]\n}}\n')


if __name__ == "__main__":
    PUBLISHED.mkdir(exist_ok=True)
    for name in sys.argv[1:] or MODELS:
        write(name, MODELS[name])
        print(name)
