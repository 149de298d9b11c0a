"""The table of checkpoints: one entry per folder under families/, nothing computed here."""

VOCAB = 256
PROMPT = 150
GREEDY = 32
MIN_MARGIN = 0.005


def config(model_type, architecture, **changes):
    """A tiny config.json in the form that published checkpoints have."""
    base = {
        "architectures": [architecture],
        "model_type": model_type,
        "vocab_size": VOCAB,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "hidden_act": "silu",
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "use_cache": True,
    }
    return {key: value for key, value in (base | changes).items() if value is not None}


def llama(**changes):
    flags = {"attention_bias": False, "mlp_bias": False, "pretraining_tp": 1}
    return config("llama", "LlamaForCausalLM", **(flags | changes))


def qwen2(**changes):
    # The window is switched off, as in published files: whoever applies it is wrong after 64 tokens.
    flags = {"use_sliding_window": False, "sliding_window": 64, "max_window_layers": 2, "rms_norm_eps": 1e-6}
    return config("qwen2", "Qwen2ForCausalLM", **(flags | changes))


def qwen3(**changes):
    flags = {
        "head_dim": 32,
        "attention_bias": False,
        "use_sliding_window": False,
        "sliding_window": None,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000,
    }
    return config("qwen3", "Qwen3ForCausalLM", **(flags | changes))


def qwen3_moe(**changes):
    flags = {
        "head_dim": 32,
        "attention_bias": False,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }
    return config("qwen3_moe", "Qwen3MoeForCausalLM", **(flags | changes))


def qwen2_moe(**changes):
    flags = {
        "rms_norm_eps": 1e-6,
        "use_sliding_window": False,
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 64,
        "norm_topk_prob": False,
        "decoder_sparse_step": 1,
    }
    return config("qwen2_moe", "Qwen2MoeForCausalLM", **(flags | changes))


def mixtral(**changes):
    flags = {"num_local_experts": 6, "num_experts_per_tok": 2, "sliding_window": None, "rope_theta": 1000000.0}
    return config("mixtral", "MixtralForCausalLM", **(flags | changes))


def qwen3_5(**changes):
    """As published: a text half whose defaults are left out, beside a vision tower; the table runs the text half."""
    flags = {
        "num_hidden_layers": 4,
        "full_attention_interval": 4,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "rms_norm_eps": 1e-6,
        "rope_theta": None,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.25,
            "mrope_section": [2, 1, 1],
            "mrope_interleaved": True,
        },
        "attention_bias": False,
        "attn_output_gate": True,
        "linear_conv_kernel_dim": 4,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
    }
    text = config("qwen3_5_text", "Qwen3_5ForCausalLM", **(flags | changes))
    left_out = ("architectures", "bos_token_id", "eos_token_id", "use_cache")
    vision = {"model_type": "qwen3_5", "depth": 1, "hidden_size": 8, "intermediate_size": 8, "num_heads": 1}
    return {
        "architectures": ["Qwen3_5ForConditionalGeneration"],
        "model_type": "qwen3_5",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": text["tie_word_embeddings"],
        "text_config": {key: value for key, value in text.items() if key not in left_out},
        "vision_config": vision | {"out_hidden_size": text["hidden_size"]},
    }


def qwen3_5_text(**changes):
    """The text half in a checkpoint of its own; which layers are which is told one by one."""
    text = qwen3_5()["text_config"] | {"linear_num_key_heads": 2, "linear_num_value_heads": 2, "layer_types": None}
    kinds = ["linear_attention", "full_attention"]
    both = {"num_hidden_layers": 2, "layer_types": kinds, "full_attention_interval": None, "hidden_size": 32}
    ids = {"bos_token_id": 1, "eos_token_id": 2, "architectures": ["Qwen3_5ForCausalLM"]}
    return {key: value for key, value in (text | both | ids | changes).items() if value is not None}


# From mlx-lm's names to those of transformers, and from there to published ones.
QWEN3_5_PUBLISHED = {
    r"^language_model\.lm_head\.": "lm_head.",
    r"^language_model\.model\.": "model.",
    r"^model\.": "model.language_model.",
}


# transformers has other names for a mixture than published files, and mlx-lm for experts once they are stacked.
MIXTRAL_PUBLISHED = {
    r"\.mlp\.": ".block_sparse_moe.",
    r"\.gate_proj\.": ".w1.",
    r"\.up_proj\.": ".w3.",
    r"\.down_proj\.": ".w2.",
}


def olmoe(**changes):
    flags = {
        "attention_bias": False,
        "clip_qkv": None,
        "num_experts": 8,
        "num_experts_per_tok": 3,
        "norm_topk_prob": False,
    }
    return config("olmoe", "OlmoeForCausalLM", **(flags | changes))


def deepseek_v3(**changes):
    # Every size of a head is another, and the norms of latents have an eps of their own.
    flags = {
        "num_hidden_layers": 3,
        "num_key_value_heads": 4,
        "q_lora_rank": 24,
        "kv_lora_rank": 32,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 8,
        "v_head_dim": 20,
        "attention_bias": False,
        "n_routed_experts": 8,
        "n_shared_experts": 1,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 24,
        "first_k_dense_replace": 1,
        "moe_layer_freq": 1,
        "n_group": 4,
        "topk_group": 2,
        "topk_method": "noaux_tc",
        "scoring_func": "sigmoid",
        "norm_topk_prob": True,
        "routed_scaling_factor": 1.8,
        "rope_scaling": {
            "type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 64,
            "beta_fast": 8,
            "beta_slow": 1,
            "mscale": 0.7,
            "mscale_all_dim": 1.0,
        },
        "ep_size": 1,
        "num_nextn_predict_layers": 1,
    }
    names = (changes.pop("model_type", "deepseek_v3"), changes.pop("architecture", "DeepseekV3ForCausalLM"))
    made = config(*names, **(flags | changes))
    # Published files say so with `null`; without the field, the references take a rank of their own.
    return made | ({} if "q_lora_rank" in made else {"q_lora_rank": None})


def deepseek_v2(**changes):
    # As the Lite model: one matrix for queries, no groups, two shared experts; the weights of experts as they are.
    flags = {
        "q_lora_rank": None,
        "n_group": 1,
        "topk_group": 1,
        "topk_method": "greedy",
        "scoring_func": "softmax",
        "norm_topk_prob": False,
        "n_shared_experts": 2,
        "n_routed_experts": 6,
        "routed_scaling_factor": 1.0,
        "num_hidden_layers": 2,
        "num_nextn_predict_layers": None,
    }
    names = {"model_type": "deepseek_v2", "architecture": "DeepseekV2ForCausalLM"}
    return deepseek_v3(**(names | flags | changes))


def granite(**changes):
    # Multipliers far from 1, so that each one forgotten shows.
    flags = {
        "attention_bias": False,
        "mlp_bias": False,
        "embedding_multiplier": 3.0,
        "attention_multiplier": 0.25,
        "residual_multiplier": 0.4,
        "logits_scaling": 2.0,
    }
    return config("granite", "GraniteForCausalLM", **(flags | changes))


def gpt_oss(**changes):
    # A window shorter than a page, a limit that many numbers reach, and a range of frequencies that is not whole numbers.
    flags = {
        "head_dim": 16,
        "num_hidden_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"],
        "sliding_window": 20,
        "attention_bias": True,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "intermediate_size": 32,
        "swiglu_limit": 1.5,
        "rope_theta": 150000.0,
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 8.0,
            "original_max_position_embeddings": 64,
            "beta_fast": 8.0,
            "beta_slow": 1.0,
            "truncate": False,
        },
    }
    return config("gpt_oss", "GptOssForCausalLM", **(flags | changes))


# What published files leave in floats.
GPT_OSS_FLOATS = [
    "model.layers.*.self_attn",
    "model.layers.*.mlp.router",
    "model.embed_tokens",
    "lm_head",
]


def gemma(model_type, architecture, **changes):
    # Windows shorter than a page and far shorter than the prompt; a scale that is not the head's. The width has a root
    # that is exact in every float, since mlx-lm rounds it to bfloat16 and transformers to the computation's type.
    flags = {
        "head_dim": 32,
        "hidden_act": None,
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        "rms_norm_eps": 1e-6,
        "query_pre_attn_scalar": 24,
        "sliding_window": 20,
        "num_hidden_layers": 4,
        "tie_word_embeddings": None,
        "intermediate_size": 96,
    }
    return config(model_type, architecture, **(flags | changes))


def gemma3(**changes):
    flags = {
        "sliding_window_pattern": 3,
        "rope_theta": 1000000.0,
        "rope_local_base_freq": 10000.0,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    }
    return gemma("gemma3_text", "Gemma3ForCausalLM", **(flags | changes))


def gemma3_vision(**changes):
    """As published: a text half whose defaults are left out, beside a vision tower; the table runs the text half."""
    text = gemma3(**changes)
    left_out = ("architectures", "bos_token_id", "eos_token_id", "use_cache", "hidden_activation")
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "image_size": 16,
        "patch_size": 8,
    }
    return {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "vocab_size": VOCAB,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "mm_tokens_per_image": 4,
        "image_token_index": 0,
        "boi_token_index": 0,
        "eoi_token_index": 0,
        "text_config": {key: value for key, value in text.items() if key not in left_out},
        "vision_config": vision,
    }


GEMMA3_PUBLISHED = {
    r"^model\.language_model\.": "language_model.model.",
    r"^model\.(vision_tower|multi_modal_projector)\.": r"\1.",
}


def gemma2(**changes):
    # Caps low enough that scores and logits come near them.
    flags = {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 4.0}
    return gemma("gemma2", "Gemma2ForCausalLM", **(flags | changes))


def mistral(**changes):
    flags = {"head_dim": 32, "sliding_window": 50, "hidden_size": 64}
    return config("mistral", "MistralForCausalLM", **(flags | changes))


def falcon_h1(**changes):
    """Multipliers as far from 1 as in published files; six heads of x in two groups, three query heads to one of keys."""
    flags = {
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "head_dim": 24,
        "intermediate_size": 80,
        "attention_bias": False,
        "mlp_bias": False,
        "projectors_bias": False,
        "mamba_d_ssm": 72,
        "mamba_n_heads": 6,
        "mamba_d_head": 12,
        "mamba_n_groups": 2,
        "mamba_d_state": 20,
        "mamba_d_conv": 4,
        "mamba_expand": 2,
        "mamba_chunk_size": 64,
        "mamba_conv_bias": True,
        "mamba_proj_bias": False,
        "mamba_rms_norm": False,
        "mamba_norm_before_gate": False,
        "embedding_multiplier": 5.5,
        "lm_head_multiplier": 0.6,
        "key_multiplier": 0.4,
        "attention_in_multiplier": 1.1,
        "attention_out_multiplier": 0.9,
        "ssm_in_multiplier": 1.25,
        "ssm_out_multiplier": 0.7,
        "ssm_multipliers": [0.8, 1.5, 0.7, 1.2, 0.6],
        "mlp_multipliers": [0.88, 0.59],
    }
    return config("falcon_h1", "FalconH1ForCausalLM", **(flags | changes))


# What sanitize of mlx-lm leaves out, as if it were 1.
FALCON_H1_FORGOTTEN = {"key_multiplier": 1.0, "attention_in_multiplier": 1.0}


def without_multipliers(config):
    """The configuration of weights that mlx-lm has multiplied by all of them."""
    tied = config["tie_word_embeddings"]
    ones = {key: 1.0 for key in config if key.endswith("_multiplier")}
    ones |= {key: [1.0] * len(config[key]) for key in ("ssm_multipliers", "mlp_multipliers")}
    head = config["lm_head_multiplier"] / config["embedding_multiplier"] if tied else 1.0
    return config | ones | {"lm_head_multiplier": head}


LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}

TRANSFORMERS = {
    "llama": {
        "config": llama(intermediate_size=80),
        "storage": "f32",
        "notes": "plain rope, untied; head_dim is not in the config",
    },
    "llama-rope3": {
        "config": llama(
            head_dim=32, num_hidden_layers=3, tie_word_embeddings=True, rope_theta=500000.0, rope_scaling=LLAMA3_ROPE
        ),
        "storage": "bf16",
        "notes": "llama3 rope scaling with frequencies in all three bands; tied embeddings",
    },
    "deepseek_v2": {
        "config": deepseek_v2(),
        "storage": "bf16",
        "calm": 3e-5,
        "notes": "queries made of hidden values; a dense layer, then top 3 of 6 by softmax, not renormalised, and two shared",
    },
    "deepseek_v3": {
        "config": deepseek_v3(),
        "storage": "bf16",
        "notes": "latent attention with yarn in both places; a dense layer, then experts of the best 2 of 4 groups, top 3",
    },
    "falcon_h1": {
        "config": falcon_h1(),
        "storage": "f32",
        "alone": "mlx-lm leaves key_multiplier out, and attention_in_multiplier out of values",
        "notes": "attention and Mamba-2 side by side; 6 heads of 12 in 2 groups, states of 20; every multiplier",
    },
    "falcon_h1-norm": {
        "config": falcon_h1(
            mamba_rms_norm=True,
            mamba_d_head="auto",
            mamba_d_conv=3,
            mamba_conv_bias=False,
            time_step_limit=[0.4, 1.1],
            tie_word_embeddings=True,
            embedding_multiplier=0.4,
        ),
        "storage": "bf16",
        "alone": "mlx-lm leaves key_multiplier out, and normalises groups as one",
        "notes": "a norm of each of 2 groups behind the gate; 3 taps without a bias; bounds of time steps; tied",
    },
    "falcon_h1-gated": {
        "config": falcon_h1(
            mamba_rms_norm=True,
            mamba_norm_before_gate=True,
            mamba_n_groups=1,
            mamba_d_state=16,
            mamba_n_heads=4,
            mamba_d_head=18,
            **FALCON_H1_FORGOTTEN,
        ),
        "storage": "f32",
        "notes": "a norm of all of a row before the gate; one group",
    },
    "gpt_oss": {
        "config": gpt_oss(),
        "storage": "bf16",
        "alone": "mlx-lm rounds the range of yarn and has a limit of 7",
        "notes": "sinks; a window of 20 in layer 0; experts with biases in one tensor, gate and up in turns, rows are inputs",
    },
    "gpt_oss-mxfp4": {
        "config": gpt_oss(
            num_local_experts=6,
            num_experts_per_tok=3,
            quantization_config={"modules_to_not_convert": GPT_OSS_FLOATS, "quant_method": "mxfp4"},
        ),
        "storage": "bf16",
        "mxfp4": True,
        "gap": 3e-3,
        "alone": "mlx-lm rounds the range of yarn and has a limit of 7",
        "notes": "as published: experts in mxfp4 blocks and scales; 6 experts, top 3",
    },
    "granite": {
        "config": granite(),
        "storage": "bf16",
        "notes": "embedding, attention and residual multipliers, logits divided by logits_scaling",
    },
    "gemma2": {
        "config": gemma2(),
        "storage": "bf16",
        "embedding": 0.05,
        "alone": "mlx-lm ignores sliding_window",
        "notes": "scores and logits capped; norms before and behind; windows of 20 in layers 0 and 2",
    },
    "gemma3_text": {
        "config": gemma3(),
        "storage": "bf16",
        "norm": 0.0,
        "embedding": 0.06,
        "notes": "q/k norm; norms before and behind; windows of 20 with a rope base of their own in layers 0, 1 and 3",
    },
    "gemma3": {
        "config": gemma3_vision(num_hidden_layers=3, intermediate_size=64),
        "storage": "bf16",
        "norm": 0.15,
        "embedding": 0.05,
        "published": GEMMA3_PUBLISHED,
        "notes": "text half of a checkpoint that sees images, under the names of published files",
    },
    "mistral": {
        "config": mistral(),
        "storage": "bf16",
        "alone": "mlx-lm ignores sliding_window",
        "notes": "a window of 50 in every layer; heads * head_dim = 128 != hidden 64",
    },
    "mixtral": {
        "config": mixtral(intermediate_size=48),
        "storage": "bf16",
        "published": MIXTRAL_PUBLISHED,
        "notes": "6 experts, top 2, renormalised; each expert's matrices are w1, w3 and w2; no window",
    },
    "olmoe": {
        "config": olmoe(intermediate_size=24),
        "storage": "f32",
        "notes": "q/k norm over all heads together; 8 experts, top 3, not renormalised",
    },
    "qwen2": {
        "config": qwen2(),
        "storage": "f16",
        "generation": {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05},
        "notes": "bias on q, k, v only; sliding_window present but switched off",
    },
    "qwen2_moe": {
        "config": qwen2_moe(moe_intermediate_size=24, shared_expert_intermediate_size=40),
        "storage": "bf16",
        "notes": "bias on q, k, v; 6 experts, top 2, not renormalised, beside a shared one with a gate of its own",
    },
    "qwen3": {
        "config": qwen3(intermediate_size=80),
        "storage": "f32",
        "shards": 2,
        "generation": {"do_sample": True, "temperature": 0.6, "top_p": 0.95, "top_k": 20},
        "notes": "q/k norm; heads * head_dim = 128 != hidden 64; two shards with an index",
    },
    "qwen3-tied": {
        "config": qwen3(
            tie_word_embeddings=True,
            num_key_value_heads=1,
            rms_norm_eps=1e-5,
            rope_theta=None,
            rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
        ),
        "storage": "bf16",
        "notes": "tied embeddings; one kv head; rope given as rope_parameters, the newer form",
    },
    "qwen3_5": {
        "config": qwen3_5(hidden_size=32, intermediate_size=64),
        "storage": "f32",
        "norm": 0.0,
        "embedding": 1.0,
        "published": QWEN3_5_PUBLISHED,
        "unread": {"model.visual.pos_embed.weight": (4, 8), "mtp.fc.weight": (4, 8)},
        "notes": "three layers of gated delta net and one of gated attention; tensors of a vision tower and of a drafter",
    },
    "qwen3_5_text": {
        "config": qwen3_5_text(intermediate_size=64, tie_word_embeddings=True, linear_value_head_dim=24),
        "storage": "bf16",
        "norm": 0.0,
        "embedding": 0.5,
        "alone": "mlx-lm knows the text half by another name and rounds 1 + w to bfloat16",
        "notes": "text half on its own; layer_types; tied embeddings; values of another size than keys",
    },
    "qwen3_moe": {
        "config": qwen3_moe(head_dim=16, moe_intermediate_size=24),
        "storage": "f32",
        "notes": "8 experts, top 2, renormalised; every layer is MoE",
    },
    "qwen3_moe-mixed": {
        "config": qwen3_moe(
            norm_topk_prob=False,
            num_hidden_layers=4,
            decoder_sparse_step=2,
            mlp_only_layers=[3],
            num_key_value_heads=1,
            head_dim=16,
            intermediate_size=96,
        ),
        "storage": "bf16",
        "notes": "top-k not renormalised; dense layers 0 and 2 (decoder_sparse_step 2) and 3 (mlp_only_layers), MoE layer 1",
    },
}


def mixed_predicate(path, _module):
    """Some modules at the default 4 bits, some at 8, some left alone."""
    if path in ("model.layers.0.self_attn.k_proj", "model.layers.1.mlp.gate_proj"):
        return False
    if path.endswith(("v_proj", "down_proj")) or path == "lm_head":
        return {"group_size": 64, "bits": 8}
    return True


MLX = {
    "llama-mlx4": {"config": llama(), "bits": 4, "group": 64, "storage": "bf16"},
    "qwen3-mlx8": {"config": qwen3(tie_word_embeddings=True, rms_norm_eps=1e-5), "bits": 8, "group": 32, "storage": "bf16"},
    "qwen2-mlx-mixed": {
        "config": qwen2(),
        "bits": 4,
        "group": 64,
        "storage": "f16",
        "predicate": mixed_predicate,
        # Files made elsewhere name the skipped modules; mlx-lm itself only leaves their scales out.
        "explicit_false": ["model.layers.0.self_attn.k_proj"],
        "notes": "4 bits by default, v/down/lm_head at 8 bits, two modules not quantised (one by `false`, one only by missing scales)",
    },
    "gemma3_text-mlx4": {
        "config": gemma3(intermediate_size=128),
        "bits": 4,
        "group": 32,
        "storage": "bf16",
        "norm": 0.0,
        "embedding": 0.06,
    },
    "gemma3-mlx4": {
        "config": gemma3_vision(num_hidden_layers=3, intermediate_size=64),
        "bits": 4,
        "group": 32,
        "storage": "bf16",
        "norm": 0.15,
        "embedding": 0.05,
        "published": GEMMA3_PUBLISHED,
        "alone": "transformers wants the vision tower, which mlx-lm drops",
    },
    "deepseek_v2-mlx4": {
        "config": deepseek_v2(moe_intermediate_size=32, v_head_dim=24),
        "bits": 4,
        "group": 32,
        "storage": "bf16",
        "calm": 3e-5,
        # Scores of this router are near one another: latents in f16 would send a token to another expert.
        "gap": 6e-3,
        "notes": "keys' and values' matrices stay one, quantised along latents; router at 4 bits, too",
    },
    "deepseek_v3-mlx4": {
        "config": deepseek_v3(
            q_lora_rank=None,
            qk_nope_head_dim=32,
            v_head_dim=24,
            moe_intermediate_size=32,
            num_hidden_layers=2,
            n_group=2,
            topk_group=1,
            norm_topk_prob=False,
        ),
        "bits": 4,
        "group": 32,
        "storage": "bf16",
        # mlx-lm adds the rotated part of scores after the rest, transformers in one sum.
        "calm": 3e-5,
        "notes": "queries made of hidden values; embed_q and unembed_out by head, quantised; 1 of 2 groups, top 3",
    },
    "falcon_h1-mlx4": {
        "config": falcon_h1(
            mamba_d_ssm=96,
            mamba_d_head=16,
            intermediate_size=96,
            head_dim=32,
            tie_word_embeddings=True,
            embedding_multiplier=0.4,
            **FALCON_H1_FORGOTTEN,
        ),
        "bits": 4,
        "group": 32,
        "storage": "bf16",
        "dense": without_multipliers,
        "notes": "multipliers are in the weights; conv1d is [channels, kernel, 1]",
    },
    "llama-mlx3": {"config": llama(), "bits": 3, "group": 32, "storage": "f32"},
    "llama-mlx2": {"config": llama(num_key_value_heads=1), "bits": 2, "group": 64, "storage": "f16"},
    "llama-mlx5": {"config": llama(tie_word_embeddings=True), "bits": 5, "group": 32, "storage": "bf16"},
    "llama-mlx6": {"config": llama(hidden_size=128), "bits": 6, "group": 128, "storage": "bf16"},
    "mixtral-mlx4": {
        "config": mixtral(intermediate_size=64),
        "bits": 4,
        "group": 32,
        "storage": "bf16",
        "published": MIXTRAL_PUBLISHED,
        "notes": "experts stacked as switch_mlp under their usual names; router at 4 bits, too",
    },
    "gpt_oss-mlx": {
        # Where the two round alike: a range of yarn that is rounded, and the only limit that mlx-lm knows.
        "config": gpt_oss(
            swiglu_limit=7.0,
            rope_scaling={
                "rope_type": "yarn",
                "factor": 8.0,
                "original_max_position_embeddings": 64,
                "beta_fast": 8.0,
                "beta_slow": 1.0,
            },
        ),
        "bits": 8,
        "group": 32,
        "mxfp4": True,
        "storage": "bf16",
        "alone": "transformers has other names for the experts of such a file",
        "notes": "experts stay in mxfp4, gate and up apart; the rest at 8 bits, told module by module, the router's without a mode",
    },
    "olmoe-mlx4": {
        "config": olmoe(intermediate_size=64),
        "bits": 4,
        "group": 64,
        "storage": "bf16",
        "notes": "experts stacked as switch_mlp; router at 4 bits, too",
    },
    "qwen2_moe-mlx4": {
        "config": qwen2_moe(moe_intermediate_size=64),
        "bits": 4,
        "group": 32,
        "storage": "bf16",
        "notes": "experts stacked as switch_mlp; router and the shared expert's gate at 4 bits, too",
    },
    "qwen3_5-mlx4": {
        "config": qwen3_5(),
        "bits": 4,
        "group": 32,
        "storage": "bf16",
        "norm": 0.0,
        "embedding": 1.0,
        "zero_centred": r"(layernorm|model\.norm|[qk]_norm)\.weight$",
        "published": QWEN3_5_PUBLISHED,
        "notes": "norms stored as 1 + w; conv1d is [channels, kernel, 1]",
    },
    "qwen3_moe-mlx4": {
        "config": qwen3_moe(moe_intermediate_size=64),
        "bits": 4,
        "group": 64,
        "storage": "bf16",
        "notes": "experts stacked as switch_mlp; routers at 8 bits by override",
    },
}
