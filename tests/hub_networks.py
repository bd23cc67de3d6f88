"""Tiny networks of transformers, saved as Hugging Face folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

SMALL = {"vocab_size": 48, "bos_token_id": 0, "eos_token_id": 1}


def bert() -> Any:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, num_labels=3,
        max_position_embeddings=16, **SMALL,
    )  # fmt: skip
    return made(BertForSequenceClassification, config)


def gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    return made(GPT2LMHeadModel, GPT2Config(n_embd=32, n_layer=1, n_head=2, n_positions=32, **SMALL))


def llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=32, **SMALL,
    )  # fmt: skip
    return made(LlamaForCausalLM, config)


def made(kind: Any, config: Any) -> Any:
    """The same network each time."""
    torch.manual_seed(0)
    return kind(config).eval()


def folder_of(model: Any, place: Path, **options: Any) -> Path:
    """Save it as its own library does, with a tokenizer's file beside, which here is only text."""
    model.save_pretrained(place, **options)
    (place / "tokenizer.json").write_text('{"model": {}}')
    return place


def described(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return document


def describe(folder: Path, **changes: Any) -> None:
    """Change entries of config.json; None removes one."""
    document = {**described(folder), **changes}
    kept = {key: value for key, value in document.items() if value is not None or key not in changes}
    (folder / "config.json").write_text(json.dumps(kept))
