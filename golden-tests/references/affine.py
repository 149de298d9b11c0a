"""Tables of MLX's affine quantisation: packed words and what they decode to."""

import mlx.core as mx
import numpy as np

BITS = (2, 3, 4, 5, 6, 8)
GROUPS = (32, 64, 128)


def make(folder):
    generator = np.random.default_rng(7)
    matrix = generator.standard_normal((8, 256), dtype=np.float32)
    # One row of a constant, one of zeros and one all negative: the edges of choosing scale and bias.
    matrix[5], matrix[6], matrix[7] = 0.75, 0.0, -np.abs(matrix[7])
    arrays = {}
    for bits in BITS:
        for group in GROUPS:
            words, scales, biases = mx.quantize(mx.array(matrix), group, bits)
            key = f"{bits}_{group}"
            arrays |= {
                f"w_{key}": words,
                f"scales_{key}": scales,
                f"biases_{key}": biases,
                f"dense_{key}": mx.dequantize(words, scales, biases, group, bits),
            }
    mx.save_safetensors(str(folder / "affine.safetensors"), arrays)
