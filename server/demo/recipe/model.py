"""The decoder in PyTorch, dense (`qwen3`) or with experts (`qwen3_moe`); parameters bear the names of the stored model."""

import torch
import torch.nn.functional as F
from torch import nn

CONFIGS = {
    "model": dict(
        model_type="qwen3_moe", architectures=["Qwen3MoeForCausalLM"], hidden_size=256, num_hidden_layers=6,
        intermediate_size=512, num_attention_heads=8, num_key_value_heads=2, num_experts=8, num_experts_per_tok=2,
        moe_intermediate_size=192, norm_topk_prob=True, decoder_sparse_step=1, mlp_only_layers=[],
        router_aux_loss_coef=0.003,
    ),
    "draft": dict(
        model_type="qwen3", architectures=["Qwen3ForCausalLM"], hidden_size=192, num_hidden_layers=4,
        intermediate_size=512, num_attention_heads=4, num_key_value_heads=1,
    ),
}
COMMON = dict(
    head_dim=64, vocab_size=2048, tie_word_embeddings=True, rope_theta=1000000.0, rms_norm_eps=1e-6,
    max_position_embeddings=16384, hidden_act="silu", attention_bias=False, attention_dropout=0.0,
    initializer_range=0.02, use_sliding_window=False, rope_scaling=None,
)
for _config in CONFIGS.values():
    _config.update(COMMON)


def rms_norm(x, weight, eps):
    return F.rms_norm(x.float(), (x.shape[-1],), weight, eps)


def rotate(x, cos, sin):
    """Rotary positions on [tokens, heads, size], the halves of a head forming the pairs."""
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def wanted_shares(layer: int, experts: int, device):
    """Shares of the experts that fall as 1/rank, in an order of its own per layer.

    Evenly used experts would leave nothing to win for a cache that holds only some of them.
    """
    shares = 1 / torch.arange(1, experts + 1, device=device)
    return (shares / shares.sum()).roll(3 * layer)


def linear(x, weight, dtype):
    return F.linear(x.to(dtype), weight.to(dtype))


def project(x, norm, q, k, v, q_norm, k_norm, cos, sin, head_dim: int, eps: float, dtype):
    x = rms_norm(x, norm, eps)
    q, k, v = (linear(x, w, dtype).unflatten(-1, (-1, head_dim)) for w in (q, k, v))
    q = rotate(rms_norm(q, q_norm, eps), cos, sin)
    k = rotate(rms_norm(k, k_norm, eps), cos, sin)
    return q.to(dtype), k.to(dtype), v


def dense(x, attended, o, norm, gate, up, down, eps: float, dtype):
    x = x + linear(attended, o, dtype)
    h = rms_norm(x, norm, eps)
    return x + linear(F.silu(linear(h, gate, dtype)) * linear(h, up, dtype), down, dtype)


def sparse(x, attended, o, norm, router, gate, up, down, shares, top: int, eps: float, dtype):
    """All experts are computed and those not chosen weighted by zero: with few, small experts that is the fastest."""
    x = x + linear(attended, o, dtype)
    h = rms_norm(x, norm, eps)
    probabilities = F.linear(h, router).softmax(-1)
    chosen, ids = probabilities.topk(top, -1)
    chosen = chosen / chosen.sum(-1, keepdim=True)
    weights = torch.zeros_like(probabilities).scatter(-1, ids, chosen)
    gate, up, down = gate.flatten(0, 1), up.flatten(0, 1), down.transpose(0, 1).flatten(1)
    inner = F.silu(linear(h, gate, dtype)) * linear(h, up, dtype)
    inner = inner.unflatten(-1, (weights.shape[-1], -1)) * weights[..., None].to(dtype)
    load = (weights > 0).float().mean(0)
    # Smallest where loads and probabilities are as the wanted shares.
    balance = (load / top * probabilities.mean(0) / shares).sum()
    return x + linear(inner.flatten(-2), down, dtype), balance, load


class Weight(nn.Module):
    """One stored tensor, so that its name ends in `.weight`."""

    def __init__(self, *shape, ones=False, std=0.02):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape) if ones else torch.randn(shape) * std)


class Block(nn.Module):
    def __init__(self, config: dict):
        super().__init__()
        hidden, head = config["hidden_size"], config["head_dim"]
        queries, pairs = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
        # What a block adds to the stream starts small, the more blocks the smaller.
        out = 0.02 / (2 * config["num_hidden_layers"]) ** 0.5
        self.self_attn = nn.ModuleDict(dict(
            q_proj=Weight(queries, hidden), k_proj=Weight(pairs, hidden), v_proj=Weight(pairs, hidden),
            o_proj=Weight(hidden, queries, std=out), q_norm=Weight(head, ones=True), k_norm=Weight(head, ones=True),
        ))
        experts, inner = config.get("num_experts"), config["intermediate_size"]
        lead = ()
        if experts:
            lead, inner = (experts,), config["moe_intermediate_size"]
        parts = dict(
            gate_proj=Weight(*lead, inner, hidden), up_proj=Weight(*lead, inner, hidden),
            down_proj=Weight(*lead, hidden, inner, std=out),
        )
        if experts:
            parts = dict(gate=Weight(experts, hidden), switch_mlp=nn.ModuleDict(parts))
        self.mlp = nn.ModuleDict(parts)
        self.input_layernorm = Weight(hidden, ones=True)
        self.post_attention_layernorm = Weight(hidden, ones=True)


class Decoder(nn.Module):
    """Takes token ids of [rows, length]; returns the last hidden states, the balance of the experts and their loads."""

    def __init__(self, config: dict, dtype=torch.float32, compiled: bool = False):
        super().__init__()
        self.config, self.dtype = config, dtype
        self.model = nn.ModuleDict(dict(
            embed_tokens=Weight(config["vocab_size"], config["hidden_size"]),
            layers=nn.ModuleList(Block(config) for _ in range(config["num_hidden_layers"])),
            norm=Weight(config["hidden_size"], ones=True),
        ))
        # Attention stays outside, so that these see one shape only, whatever the length of the rows.
        wrap = torch.compile if compiled else (lambda f: f)
        self.project, self.dense, self.sparse = wrap(project), wrap(dense), wrap(sparse)

    def positions(self, rows: int, length: int, device):
        half = self.config["head_dim"] // 2
        rates = self.config["rope_theta"] ** (-torch.arange(half, dtype=torch.float64, device=device) / half)
        angles = (torch.arange(length, device=device)[:, None] * rates).repeat(rows, 1)[:, None]
        return angles.cos().float(), angles.sin().float()

    def forward(self, ids):
        config, eps, dtype = self.config, self.config["rms_norm_eps"], self.dtype
        rows, length = ids.shape
        cos, sin = self.positions(rows, length, ids.device)
        x = F.embedding(ids.flatten(), self.model.embed_tokens.weight)
        balance, loads = x.new_zeros(()), []
        for index, layer in enumerate(self.model.layers):
            attn, mlp = layer.self_attn, layer.mlp
            q, k, v = self.project(
                x, layer.input_layernorm.weight, attn.q_proj.weight, attn.k_proj.weight, attn.v_proj.weight,
                attn.q_norm.weight, attn.k_norm.weight, cos, sin, config["head_dim"], eps, dtype,
            )
            q, k, v = (t.unflatten(0, (rows, length)).transpose(1, 2) for t in (q, k, v))
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            out = out.transpose(1, 2).reshape(rows * length, -1)
            common = (x, out, attn.o_proj.weight, layer.post_attention_layernorm.weight)
            if "gate" in mlp:
                experts = mlp.switch_mlp
                x, one, load = self.sparse(
                    *common, mlp.gate.weight, experts.gate_proj.weight, experts.up_proj.weight, experts.down_proj.weight,
                    wanted_shares(index, config["num_experts"], ids.device), config["num_experts_per_tok"], eps, dtype,
                )
                balance = balance + one / len(self.model.layers)
                loads.append(load)
            else:
                x = self.dense(*common, mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight, eps, dtype)
        return rms_norm(x, self.model.norm.weight, eps), balance, loads

    def logits(self, hidden):
        return linear(hidden, self.model.embed_tokens.weight, self.dtype)
