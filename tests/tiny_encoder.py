"""A transformer of a few thousand weights, in a folder of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

from imrnn_vdb.encoders import resolve_model


def save_tiny(folder: Path, seed: int, dim: int = 16) -> None:
    """Write a model with random weights and minilm's tokenizer; another seed is a model trained anew."""
    import torch
    from transformers import BertConfig, BertModel

    source = Path(resolve_model("minilm")[0])
    folder.mkdir(exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copy(source / name, folder / name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = BertConfig(hidden_size=dim, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
        BertModel(config).save_pretrained(folder)
