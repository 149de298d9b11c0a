"""The transformers side: float32, eager attention, no cache."""

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM


class Reference:
    """A loaded checkpoint as `forward(ids) -> logits`, watching how close the router comes to a tie."""

    def __init__(self, folder):
        self.model, info = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
        )
        wrong = {key: value for key, value in info.items() if value}
        assert not wrong, f"every tensor is used and none is missing: {wrong}"
        self.model.eval()
        self.router_gap = None
        for module in self.model.modules():
            if type(module).__name__.endswith("TopKRouter"):
                module.register_forward_pre_hook(self._watch)

    def _watch(self, router, arguments):
        hidden = arguments[0].reshape(-1, router.weight.shape[-1])
        top = F.linear(hidden, router.weight).sort(dim=-1, descending=True).values
        gap = float((top[:, router.top_k - 1] - top[:, router.top_k]).min())
        self.router_gap = gap if self.router_gap is None else min(gap, self.router_gap)

    def __call__(self, ids):
        with torch.no_grad():
            return self.model(torch.from_numpy(ids.astype("int64"))[None], use_cache=False).logits[0].numpy()

