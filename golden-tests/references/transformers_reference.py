"""The transformers side: float32, eager attention, no cache."""

import torch
import torch.nn.functional as F
from transformers import AutoConfig, AutoModelForCausalLM, Mxfp4Config


class Reference:
    """A loaded checkpoint as `forward(ids) -> logits`, watching how close the router comes to a tie."""

    def __init__(self, folder):
        stored = getattr(AutoConfig.from_pretrained(folder), "quantization_config", None)
        dense = {} if stored is None else {"quantization_config": Mxfp4Config(dequantize=True)}
        self.model, info = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True, **dense
        )
        # Small floats times powers of two are exact in what they are decoded to.
        self.model.float()
        wrong = {key: value for key, value in info.items() if value}
        assert not wrong, f"every tensor is used and none is missing: {wrong}"
        self.model.eval()
        self.router_gap = None
        for module in self.model.modules():
            if type(module).__name__.lower().endswith("topkrouter"):
                module.register_forward_pre_hook(self._watch)

    def _watch(self, router, arguments):
        hidden = arguments[0].reshape(-1, router.weight.shape[-1])
        scores = F.linear(hidden, router.weight, getattr(router, "bias", None))
        if hasattr(router, "e_score_correction_bias"):
            scores = scores.sigmoid() + router.e_score_correction_bias
            groups = scores.unflatten(-1, (router.num_group, -1))
            sums = groups.topk(2).values.sum(-1)
            self._near(sums, router.topk_group)
            kept = sums >= sums.topk(router.topk_group).values[:, -1:]
            scores = groups.masked_fill(~kept[..., None], float("-inf")).flatten(1)
        self._near(scores, router.top_k)

    def _near(self, scores, count):
        top = scores.sort(dim=-1, descending=True).values
        gap = float((top[:, count - 1] - top[:, count]).min())
        self.router_gap = gap if self.router_gap is None else min(gap, self.router_gap)

    def __call__(self, ids):
        with torch.no_grad():
            return self.model(torch.from_numpy(ids.astype("int64"))[None], use_cache=False).logits[0].numpy()

