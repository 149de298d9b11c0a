"""Compares a stored model with two other implementations and writes the logits that tests compare with."""

import argparse
import json
import pathlib
import tempfile

import torch
from safetensors.torch import save_file

from quantize import load, stored_weights

PROMPT = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "What is 2+2?"},
    {"role": "assistant", "content": "2 + 2 equals 4."},
    {"role": "user", "content": "My name is Anna. What is the capital of France?"},
    {"role": "assistant", "content": "The capital of France is Paris."},
    {"role": "user", "content": "Tell me a short story about a fox named Felix who finds a golden key in the forest, "
        "meets an old owl called Grace, and goes home with bread, cheese and honey."},
    {"role": "assistant", "content": "Once upon a time there was a clever fox named Felix. One morning Felix went to the "
        "forest and found a golden key. On the way home he met Grace the owl. \"Is this your key?\" asked Felix."},
    {"role": "user", "content": "Write a short story about a cat."},
]
POSITIONS, GENERATED = 16, 32


def transformers_model(folder: pathlib.Path):
    """The reference implementation on the f32 weights that the stored model stands for."""
    from transformers import AutoModelForCausalLM

    config = json.loads((folder / "config.json").read_text())
    del config["quantization"], config["quantization_config"]
    config["torch_dtype"] = "float32"
    weights = {}
    for name, weight in stored_weights(folder).items():
        if ".switch_mlp." in name:
            for expert, part in enumerate(weight):
                weights[name.replace("switch_mlp", f"experts.{expert}")] = part.contiguous()
        else:
            weights[name] = weight.contiguous()
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        (scratch / "config.json").write_text(json.dumps(config))
        save_file(weights, scratch / "model.safetensors", metadata={"format": "pt"})
        return AutoModelForCausalLM.from_pretrained(scratch, dtype=torch.float32, attn_implementation="eager").eval()


def mlx_logits(folder: pathlib.Path, ids: list):
    import mlx.core as mx
    from mlx.utils import tree_map
    from mlx_lm import load as mlx_load

    model, _ = mlx_load(str(folder))
    # Scales included, as otherwise its sums would be rounded to bf16.
    model.update(tree_map(lambda a: a.astype(mx.float32) if a.dtype == mx.bfloat16 else a, model.parameters()))
    return torch.tensor(model(mx.array([ids])).tolist())[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path)
    options = parser.parse_args()
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(options.folder)
    ids = tokenizer.apply_chat_template(PROMPT, add_generation_prompt=True, return_dict=False)
    model = transformers_model(options.folder)
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0]
        greedy = model.generate(torch.tensor([ids]), max_new_tokens=GENERATED, min_new_tokens=GENERATED, do_sample=False,
                                pad_token_id=0)[0, len(ids):]
        own = load(options.folder)
        ours = own.logits(own(torch.tensor([ids]))[0])
    print(f"{len(ids)} tokens; greatest logit {logits.abs().max():.2f}")
    print(f"own model against transformers: {(ours - logits).abs().max():.2e}")
    print(f"mlx-lm against transformers: {(mlx_logits(options.folder, ids) - logits).abs().max():.2e}")
    print(repr(tokenizer.decode(greedy)))
    if options.out:
        save_file({
            "ids": torch.tensor(ids, dtype=torch.int32), "logits": logits[-POSITIONS:].contiguous(),
            "greedy": greedy.to(torch.int32).contiguous(),
        }, options.out)


if __name__ == "__main__":
    main()
