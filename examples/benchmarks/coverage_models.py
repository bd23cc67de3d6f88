"""The networks of the coverage table: small, with random weights, built without a download.

`CASES` names them. Those of transformers are built from their configurations as these come, but for sizes,
and without a cache of keys and values among their outputs (one row has it). Those of the assets are trained,
and missing where their folder is.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from phnnify.inputs import InputSpec
from phnnify.references import build_network
from phnnify.weights import load_weights

VOCABULARY = 65  # that of the trained character transformer
ASSETS = Path(os.environ.get("PHNNIFY_ASSETS") or Path(__file__).parents[3] / "shared" / "assets")


@dataclass(frozen=True)
class Case:
    """A network of the table.

    Attributes:
        name: What it is called.
        build: Makes it with fresh weights.
        inputs: What it takes (`InputSpec.parse`); integers are drawn from the vocabulary.
        file: The weights it was trained to; None where it was not.
        library: What must be installed to build it.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: tuple[str, ...]
    file: Path | None = None
    library: str = "torch"

    @property
    def specs(self) -> tuple[InputSpec, ...]:
        """What it takes."""
        read = map(InputSpec.parse, self.inputs)
        return tuple(s if s.dtype.is_floating_point else replace(s, high=VOCABULARY) for s in read)

    @property
    def missing(self) -> str | None:
        """Why there can be no such network here; None where there can."""
        if importlib.util.find_spec(self.library) is None:
            return f"skipped: {self.library} is not installed"
        return f"skipped: there is no {self.file.name}" if self.file and not self.file.exists() else None

    def original(self, seed: int) -> nn.Module:
        """The network to convert, in eval mode: trained, or with all of its weights and biases random."""
        torch.manual_seed(seed)
        model = self.build().eval()
        if self.file:
            load_weights(model, load_file(self.file), self.file.name)
        else:
            _scatter_(model)
        return model


def _scatter_(model: nn.Module) -> None:
    """Move all parameters, so that none keeps a value at which a lost one would not be noticed."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1 if parameter.dim() < 2 else 0.05)


def _transformers(name: str, **config: Any) -> nn.Module:
    library = importlib.import_module("transformers")
    library.logging.set_verbosity_error()
    network = getattr(library, name)
    model: nn.Module = network(network.config_class(**config))
    return model


def _case(name: str, network: str, inputs: tuple[str, ...], **config: Any) -> Case:
    return Case(name, partial(_transformers, network, **config), inputs, library="transformers")


def _generator(name: str, network: str, inputs: tuple[str, ...], **config: Any) -> Case:
    return _case(name, network, inputs, **config, use_cache=False)


TOKENS = ("input_ids=int64:2x12",)
PAIRS = (*TOKENS, "decoder_input_ids=int64:2x8")
IMAGES = ("pixel_values=2x3x32x32",)
SPEECH = ("input_values=2x3000",)

WORDS = {"vocab_size": VOCABULARY}
TEXT = {
    **WORDS,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
GROUPED = {**TEXT, "num_key_value_heads": 2, "head_dim": 8}
SEQUENCES = {
    **WORDS,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 64,
}
VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
SOUND = {
    **WORDS,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "conv_dim": (32, 32, 32),
    "conv_kernel": (10, 3, 3),
    "conv_stride": (5, 2, 2),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
PYRAMID = {"embedding_size": 32, "hidden_sizes": [32, 64], "depths": [2, 2]}


def _detr() -> nn.Module:
    library = importlib.import_module("transformers")
    backbone = library.ResNetConfig(**PYRAMID, layer_type="basic", out_features=["stage2"])
    sizes = {name: value for name, value in SEQUENCES.items() if name not in WORDS}
    sizes = {**sizes, "num_queries": 6, "use_timm_backbone": False, "use_pretrained_backbone": False}
    return _transformers("DetrForObjectDetection", backbone_config=backbone, backbone=None, **sizes)


TRANSFORMERS = (
    _case("bert", "BertForSequenceClassification", TOKENS, **TEXT),
    _case("roberta", "RobertaForMaskedLM", TOKENS, **TEXT),
    _case(
        "distilbert",
        "DistilBertForSequenceClassification",
        TOKENS,
        **WORDS,
        dim=32,
        hidden_dim=64,
        n_layers=2,
        n_heads=4,
    ),
    _case("albert", "AlbertForSequenceClassification", TOKENS, **TEXT, embedding_size=16),
    _case("modernbert", "ModernBertForSequenceClassification", TOKENS, **TEXT, pad_token_id=0),
    _case("longformer", "LongformerForSequenceClassification", TOKENS, **TEXT, attention_window=4),
    _case("electra", "ElectraForPreTraining", TOKENS, **TEXT, embedding_size=16),
    _case(
        "deberta-v2",
        "DebertaV2ForSequenceClassification",
        TOKENS,
        **TEXT,
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        position_buckets=16,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        position_biased_input=False,
    ),
    _case(
        "mobilebert",
        "MobileBertForSequenceClassification",
        TOKENS,
        **TEXT,
        embedding_size=16,
        intra_bottleneck_size=16,
    ),
    _case(
        "xlnet",
        "XLNetForSequenceClassification",
        TOKENS,
        **WORDS,
        d_model=32,
        n_layer=2,
        n_head=4,
        d_inner=64,
    ),
    _generator("gpt2", "GPT2LMHeadModel", TOKENS, **WORDS, n_embd=32, n_layer=2, n_head=4, n_positions=64),
    _generator("gpt-neox", "GPTNeoXForCausalLM", TOKENS, **TEXT),
    _generator("llama", "LlamaForCausalLM", TOKENS, **GROUPED),
    _case("llama with cache", "LlamaForCausalLM", TOKENS, **GROUPED),
    _generator("mistral", "MistralForCausalLM", TOKENS, **GROUPED),
    _generator("qwen2", "Qwen2ForCausalLM", TOKENS, **TEXT, num_key_value_heads=2),
    _generator("qwen3", "Qwen3ForCausalLM", TOKENS, **GROUPED),
    _generator("gemma", "GemmaForCausalLM", TOKENS, **GROUPED),
    _generator("phi", "PhiForCausalLM", TOKENS, **TEXT),
    _generator("phi3", "Phi3ForCausalLM", TOKENS, **TEXT, pad_token_id=0),
    _generator(
        "opt",
        "OPTForCausalLM",
        TOKENS,
        **WORDS,
        hidden_size=32,
        word_embed_proj_dim=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        ffn_dim=64,
        max_position_embeddings=64,
    ),
    _generator(
        "gpt-neo",
        "GPTNeoForCausalLM",
        TOKENS,
        **WORDS,
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        attention_types=[[["global", "local"], 1]],
        max_position_embeddings=64,
    ),
    _generator("bloom", "BloomForCausalLM", TOKENS, **WORDS, hidden_size=32, n_layer=2, n_head=4),
    _generator(
        "falcon",
        "FalconForCausalLM",
        TOKENS,
        **WORDS,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
    ),
    _generator("mixtral", "MixtralForCausalLM", TOKENS, **GROUPED, num_local_experts=4),
    _generator(
        "qwen3-moe",
        "Qwen3MoeForCausalLM",
        TOKENS,
        **GROUPED,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
    ),
    _generator("gpt-oss", "GptOssForCausalLM", TOKENS, **GROUPED, num_local_experts=4),
    _generator(
        "mamba", "MambaForCausalLM", TOKENS, **WORDS, hidden_size=32, num_hidden_layers=2, state_size=8
    ),
    _generator(
        "mamba2",
        "Mamba2ForCausalLM",
        TOKENS,
        **WORDS,
        hidden_size=32,
        num_hidden_layers=2,
        state_size=8,
        head_dim=16,
        num_heads=4,
        n_groups=1,
    ),
    _generator(
        "t5",
        "T5ForConditionalGeneration",
        PAIRS,
        **WORDS,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
    ),
    _generator("bart", "BartForConditionalGeneration", PAIRS, **SEQUENCES),
    _generator("marian", "MarianMTModel", PAIRS, **SEQUENCES, pad_token_id=0, decoder_start_token_id=0),
    _generator(
        "whisper",
        "WhisperForConditionalGeneration",
        ("input_features=2x16x40", "decoder_input_ids=int64:2x8"),
        **{name: value for name, value in SEQUENCES.items() if name != "max_position_embeddings"},
        num_mel_bins=16,
        max_source_positions=20,
        max_target_positions=20,
        pad_token_id=0,
    ),
    _case("wav2vec2", "Wav2Vec2ForCTC", SPEECH, **SOUND),
    _case("hubert", "HubertForCTC", SPEECH, **SOUND),
    _case(
        "hifigan",
        "SpeechT5HifiGan",
        ("spectrogram=2x20x16",),
        model_in_dim=16,
        upsample_initial_channel=32,
        upsample_rates=[4, 4],
        upsample_kernel_sizes=[8, 8],
    ),
    _case(
        "patchtst",
        "PatchTSTForPrediction",
        ("past_values=2x64x3",),
        num_input_channels=3,
        context_length=64,
        patch_length=8,
        patch_stride=8,
        d_model=32,
        num_attention_heads=4,
        ffn_dim=64,
        num_hidden_layers=2,
        prediction_length=8,
    ),
    _case(
        "videomae",
        "VideoMAEForVideoClassification",
        ("pixel_values=2x4x3x32x32",),
        **VISION,
        num_frames=4,
        tubelet_size=2,
    ),
    _case(
        "dpt",
        "DPTForSemanticSegmentation",
        IMAGES,
        **{**VISION, "num_hidden_layers": 4},
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[16, 16, 32, 32],
        fusion_hidden_size=16,
    ),
    _case("regnet", "RegNetForImageClassification", IMAGES, **PYRAMID, groups_width=8),
    _case(
        "efficientnet",
        "EfficientNetForImageClassification",
        IMAGES,
        image_size=32,
        width_coefficient=0.5,
        depth_coefficient=0.3,
        hidden_dim=640,
    ),
    _case("vit", "ViTForImageClassification", IMAGES, **VISION),
    _case("deit", "DeiTForImageClassification", IMAGES, **VISION),
    _case("dinov2", "Dinov2ForImageClassification", IMAGES, **VISION),
    _case(
        "swin",
        "SwinForImageClassification",
        IMAGES,
        image_size=32,
        patch_size=4,
        window_size=2,
        embed_dim=32,
        depths=[2, 2],
        num_heads=[2, 4],
    ),
    _case(
        "convnext",
        "ConvNextForImageClassification",
        IMAGES,
        hidden_sizes=[32, 64],
        depths=[2, 2],
        num_stages=2,
    ),
    _case("resnet", "ResNetForImageClassification", IMAGES, **PYRAMID),
    _case("mobilenet-v2", "MobileNetV2ForImageClassification", IMAGES, depth_multiplier=0.35, image_size=32),
    _case(
        "segformer",
        "SegformerForSemanticSegmentation",
        IMAGES,
        hidden_sizes=[32, 64],
        depths=[2, 2],
        num_encoder_blocks=2,
        num_attention_heads=[1, 2],
        sr_ratios=[2, 1],
        decoder_hidden_size=32,
    ),
    _case(
        "clip",
        "CLIPModel",
        (*TOKENS, *IMAGES),
        text_config={**TEXT, "eos_token_id": 2},
        vision_config=VISION,
        projection_dim=32,
    ),
    Case("detr", _detr, ("pixel_values=2x3x64x64",), library="transformers"),
)


class Recurrent(nn.Module):
    """Embedding, recurrent layers, and a head for the last state."""

    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 32)
        self.body = kind(32, 48, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(96, 8)

    def forward(self, ids: Tensor) -> Tensor:
        """(batch, length) → (batch, 8)."""
        x: Tensor = self.head(self.body(self.embedding(ids))[0][:, -1])
        return x


class UNet(nn.Module):
    """Two levels down by strided, and up by transposed convolutions, joined across."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, 16, 3, padding=1)
        self.down = nn.ModuleList([nn.Conv2d(16, 32, 3, 2, 1), nn.Conv2d(32, 64, 3, 2, 1)])
        self.up = nn.ModuleList(
            [nn.ConvTranspose2d(64, 32, 2, 2), nn.ConvTranspose2d(64, 16, 3, 2, 1, output_padding=1)]
        )
        self.norms = nn.ModuleList([nn.BatchNorm2d(32), nn.BatchNorm2d(64)])
        self.leave = nn.Conv2d(32, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 3, height, width) → (batch, 4, height, width)."""
        first = self.enter(x).relu()
        second = self.norms[0](self.down[0](first)).relu()
        third = self.norms[1](self.down[1](second)).relu()
        x = torch.cat([self.up[0](third).relu(), second], 1)
        out: Tensor = self.leave(torch.cat([self.up[1](x).relu(), first], 1))
        return out


class ResNeXtBlock(nn.Module):
    """A bottleneck with a grouped convolution between two enlargements (Xie et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 3, padding=1)
        self.body = nn.Sequential(
            nn.Conv2d(64, 32, 1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1, groups=4, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 64, 1, bias=False),
            nn.BatchNorm2d(64),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 3, height, width) → (batch, 64)."""
        x = self.stem(x)
        out: Tensor = (x + self.body(x)).relu().mean((2, 3))
        return out


class Branching(nn.Module):
    """Takes one of two ways, as the data has it."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(16, 32)
        self.ways = nn.ModuleList([nn.Linear(32, 32), nn.Linear(32, 32)])
        self.leave = nn.Linear(32, 8)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 16) → (batch, 8)."""
        x = self.enter(x)
        way = self.ways[0] if x.mean() > 0 else self.ways[1]
        out: Tensor = self.leave(way(x).relu())
        return out


class Functional(nn.Module):
    """A weight without a layer, between two that have one."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(16, 32)
        self.weight = nn.Parameter(torch.randn(32, 32) / 6)
        self.leave = nn.Linear(32, 8)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 16) → (batch, 8)."""
        out: Tensor = self.leave(F.linear(self.enter(x).relu(), self.weight).relu())
        return out


class Einsum(nn.Module):
    """Weights in products, sums over several axes and a convolution, all without layers."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Parameter(torch.randn(16, 32) / 4)
        self.heads = nn.Parameter(torch.randn(32, 4, 8) / 6)
        self.join = nn.Parameter(torch.randn(32, 4, 8) / 6)
        self.filters = nn.Parameter(torch.randn(16, 8, 3, 3) / 8)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 16) → (batch, 16)."""
        x = torch.einsum("bi,ihd->bhd", (x @ self.enter).relu(), self.heads)
        x = torch.einsum("bhd,ohd->bo", x.relu(), self.join)
        return F.conv2d(x.view(-1, 8, 2, 2), self.filters, padding=1).mean((2, 3))


def _normed() -> nn.Module:
    return nn.Sequential(
        weight_norm(nn.Conv1d(8, 32, 5, padding=2)),
        nn.ReLU(),
        nn.Conv1d(32, 32, 5, padding=2),
        nn.ReLU(),
        weight_norm(nn.Conv1d(32, 8, 5, padding=2)),
    )


def _transformer() -> nn.Module:
    return nn.Transformer(32, 4, 2, 2, 64, batch_first=True)


TORCH = (
    Case("nn.Transformer", _transformer, ("2x10x32", "2x8x32")),
    Case("nn.LSTM", partial(Recurrent, nn.LSTM), ("int64:2x12",)),
    Case("nn.GRU", partial(Recurrent, nn.GRU), ("int64:2x12",)),
    Case("u-net", UNet, ("2x3x32x32",)),
    Case("resnext-block", ResNeXtBlock, ("2x3x16x16",)),
    Case("branch on data", Branching, ("2x16",)),
    Case("weight norm", _normed, ("2x8x32",)),
    Case("F.linear", Functional, ("2x16",)),
    Case("einsum, F.conv2d", Einsum, ("2x16",)),
)


def _asset(name: str, file: str, spec: str) -> Case:
    build = partial(build_network, f"{ASSETS / 'nets.py'}:{name}")
    return Case(name, build, (spec,), ASSETS / f"{file}.safetensors")


TRAINED = (
    _asset("resnet20", "resnet20-cifar10", "2x3x32x32"),
    _asset("resnet56", "resnet56-cifar10", "2x3x32x32"),
    _asset("mnist_mlp_6_200", "mnist_mlp_6_200", "2x1x28x28"),
    _asset("charlm", "charlm-shakespeare", "int64:2x32"),
)

CASES = (*TRANSFORMERS, *TRAINED, *TORCH)
