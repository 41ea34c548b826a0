"""The list of transformers architectures that bench/zoo.py prunes: fixed before its first run, and all of it counts.

Each entry is a model class of ``transformers``, the fields of its configuration that make it tiny (weights are random), and
the kind of input that it takes. Proportions are the usual ones: feed-forward layers of four times the hidden size, several
heads, two layers or stages at the least.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lissom.network import Network

HIDDEN, HEADS, LAYERS, WIDE, WORDS, LENGTH = 64, 4, 2, 256, 96, 12

# Configuration fields by the names that most text models share.
BERT = {
    "hidden_size": HIDDEN, "num_attention_heads": HEADS, "num_hidden_layers": LAYERS, "intermediate_size": WIDE,
    "vocab_size": WORDS, "max_position_embeddings": 64,
}  # fmt: skip
LLAMA = BERT | {"num_key_value_heads": 2, "use_cache": False, "pad_token_id": 0}
VIT = {
    "hidden_size": HIDDEN, "num_attention_heads": HEADS, "num_hidden_layers": LAYERS, "intermediate_size": WIDE,
    "image_size": 32, "patch_size": 8,
}  # fmt: skip
BART = {
    "d_model": HIDDEN, "encoder_layers": LAYERS, "decoder_layers": LAYERS, "encoder_attention_heads": HEADS,
    "decoder_attention_heads": HEADS, "encoder_ffn_dim": WIDE, "decoder_ffn_dim": WIDE, "vocab_size": WORDS,
    "max_position_embeddings": 64, "use_cache": False, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
    "decoder_start_token_id": 2, "forced_eos_token_id": 2,
}  # fmt: skip
T5 = {
    "d_model": HIDDEN, "d_kv": 16, "d_ff": WIDE, "num_layers": LAYERS, "num_heads": HEADS, "vocab_size": WORDS,
    "use_cache": False, "decoder_start_token_id": 0,
}  # fmt: skip
WAV2VEC2 = {
    "hidden_size": HIDDEN, "num_attention_heads": HEADS, "num_hidden_layers": LAYERS, "intermediate_size": WIDE,
    "conv_dim": (32, 32, 32), "conv_kernel": (10, 3, 3), "conv_stride": (5, 2, 2), "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "vocab_size": 32,
}  # fmt: skip
STAGES = {"hidden_sizes": [32, 64, 96, 128], "depths": [1, 1, 2, 1]}


@dataclass(frozen=True)
class Entry:
    """One architecture: its model class, its configuration, and its input."""

    family: str
    model: str
    config: dict[str, Any]
    inputs: str
    call: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The model class, which is unique in the list."""
        return self.model


ZOO: tuple[Entry, ...] = (
    # Vision: convolutional
    Entry("resnet", "ResNetModel", {"embedding_size": 32, **STAGES, "layer_type": "bottleneck"}, "image"),
    Entry("regnet", "RegNetModel", {"embedding_size": 32, **STAGES, "groups_width": 16}, "image"),
    Entry("bit", "BitModel", {"embedding_size": 32, **STAGES, "num_groups": 8}, "image"),
    Entry("convnext", "ConvNextModel", STAGES, "image"),
    Entry("convnextv2", "ConvNextV2Model", STAGES, "image"),
    Entry("mobilenet_v1", "MobileNetV1Model", {"depth_multiplier": 0.25, "min_depth": 8}, "image"),
    Entry("mobilenet_v2", "MobileNetV2Model", {"depth_multiplier": 0.35, "output_stride": 32}, "image"),
    Entry("efficientnet", "EfficientNetModel", {"width_coefficient": 0.25, "depth_coefficient": 0.3, "hidden_dim": 320}, "image"),
    Entry("poolformer", "PoolFormerModel", {**STAGES, "num_encoder_blocks": 4}, "image"),
    Entry(
        "focalnet",
        "FocalNetModel",
        {"embed_dim": 32, "hidden_sizes": [32, 64, 128, 256], "depths": [1, 1, 2, 1], "image_size": 64, "patch_size": 4},
        "image",
    ),
    Entry("textnet", "TextNetModel", {}, "image"),
    # Vision: transformers
    Entry("vit", "ViTModel", VIT, "image32"),
    Entry("deit", "DeiTModel", VIT, "image32"),
    Entry("beit", "BeitModel", VIT, "image32"),
    Entry("dinov2", "Dinov2Model", VIT, "image32"),
    Entry("vit_msn", "ViTMSNModel", VIT, "image32"),
    Entry("yolos", "YolosModel", VIT | {"image_size": [32, 32], "num_detection_tokens": 5}, "image32"),
    Entry(
        "swin",
        "SwinModel",
        {"embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4, "image_size": 32, "patch_size": 2},
        "image32",
    ),
    Entry(
        "swinv2",
        "Swinv2Model",
        {"embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4, "image_size": 32, "patch_size": 2},
        "image32",
    ),
    Entry(
        "segformer",
        "SegformerModel",
        {"hidden_sizes": [32, 64, 96, 128], "depths": [1, 1, 1, 1], "num_attention_heads": [2, 2, 4, 4]},
        "image",
    ),
    Entry(
        "pvt",
        "PvtModel",
        {"hidden_sizes": [32, 64, 96, 128], "depths": [1, 1, 1, 1], "num_attention_heads": [2, 2, 4, 4], "image_size": 64},
        "image",
    ),
    Entry(
        "mobilevit",
        "MobileViTModel",
        {
            "hidden_sizes": [32, 48, 64],
            "neck_hidden_sizes": [16, 32, 32, 48, 64, 80, 96],
            "num_attention_heads": 4,
            "mlp_ratio": 4.0,
            "image_size": 64,
        },
        "image",
    ),
    Entry(
        "levit",
        "LevitModel",
        {
            "hidden_sizes": [64, 96, 128],
            "num_attention_heads": [4, 6, 8],
            "depths": [1, 1, 1],
            "key_dim": [16, 16, 16],
            "image_size": 64,
        },
        "image",
    ),
    Entry("dpt", "DPTModel", VIT, "image32"),
    Entry(
        "detr",
        "DetrModel",
        {
            "d_model": HIDDEN,
            "encoder_layers": LAYERS,
            "decoder_layers": LAYERS,
            "encoder_attention_heads": HEADS,
            "decoder_attention_heads": HEADS,
            "encoder_ffn_dim": WIDE,
            "decoder_ffn_dim": WIDE,
            "num_queries": 6,
            "use_timm_backbone": False,
            "use_pretrained_backbone": False,
            "backbone": None,
            "backbone_config": ("ResNetConfig", {"embedding_size": 32, **STAGES, "out_features": ["stage4"]}),
        },
        "image",
    ),
    # Text: encoders
    Entry("bert", "BertModel", BERT, "text"),
    Entry("roberta", "RobertaModel", BERT, "text"),
    Entry("xlm_roberta", "XLMRobertaModel", BERT, "text"),
    Entry("camembert", "CamembertModel", BERT, "text"),
    Entry("electra", "ElectraModel", BERT | {"embedding_size": HIDDEN}, "text"),
    Entry("albert", "AlbertModel", BERT | {"embedding_size": 32}, "text"),
    Entry(
        "distilbert",
        "DistilBertModel",
        {
            "dim": HIDDEN,
            "n_heads": HEADS,
            "n_layers": LAYERS,
            "hidden_dim": WIDE,
            "vocab_size": WORDS,
            "max_position_embeddings": 64,
        },
        "text",
    ),
    Entry("mpnet", "MPNetModel", BERT, "text"),
    Entry("deberta", "DebertaModel", BERT, "text"),
    Entry("deberta_v2", "DebertaV2Model", BERT, "text"),
    Entry(
        "modernbert",
        "ModernBertModel",
        BERT | {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2},
        "text",
    ),
    Entry("convbert", "ConvBertModel", BERT | {"embedding_size": HIDDEN}, "text"),
    Entry(
        "fnet",
        "FNetModel",
        {
            "hidden_size": HIDDEN,
            "num_hidden_layers": LAYERS,
            "intermediate_size": WIDE,
            "vocab_size": WORDS,
            "max_position_embeddings": 64,
        },
        "text",
    ),
    Entry("squeezebert", "SqueezeBertModel", BERT | {"embedding_size": HIDDEN}, "text"),
    Entry("roformer", "RoFormerModel", BERT | {"embedding_size": HIDDEN}, "text"),
    Entry(
        "xlnet",
        "XLNetModel",
        {"d_model": HIDDEN, "n_head": HEADS, "n_layer": LAYERS, "d_inner": WIDE, "vocab_size": WORDS},
        "text",
    ),
    # Text: decoders
    Entry(
        "gpt2",
        "GPT2Model",
        {"n_embd": HIDDEN, "n_head": HEADS, "n_layer": LAYERS, "vocab_size": WORDS, "n_positions": 64, "use_cache": False},
        "text",
    ),
    Entry(
        "gpt_neo",
        "GPTNeoModel",
        {
            "hidden_size": HIDDEN,
            "num_heads": HEADS,
            "num_layers": 2,
            "vocab_size": WORDS,
            "attention_types": [[["global", "local"], 1]],
            "max_position_embeddings": 64,
            "use_cache": False,
        },
        "text",
    ),
    Entry("gpt_neox", "GPTNeoXModel", BERT | {"use_cache": False}, "text"),
    Entry(
        "gptj",
        "GPTJModel",
        {
            "n_embd": HIDDEN,
            "n_head": HEADS,
            "n_layer": LAYERS,
            "vocab_size": WORDS,
            "n_positions": 64,
            "rotary_dim": 8,
            "use_cache": False,
        },
        "text",
    ),
    Entry(
        "opt",
        "OPTModel",
        {
            "hidden_size": HIDDEN,
            "num_attention_heads": HEADS,
            "num_hidden_layers": LAYERS,
            "ffn_dim": WIDE,
            "vocab_size": WORDS,
            "max_position_embeddings": 64,
            "word_embed_proj_dim": HIDDEN,
            "use_cache": False,
        },
        "text",
    ),
    Entry(
        "bloom",
        "BloomModel",
        {"hidden_size": HIDDEN, "n_head": HEADS, "n_layer": LAYERS, "vocab_size": WORDS, "use_cache": False},
        "text",
    ),
    Entry(
        "falcon",
        "FalconModel",
        {
            "hidden_size": HIDDEN,
            "num_attention_heads": HEADS,
            "num_hidden_layers": LAYERS,
            "vocab_size": WORDS,
            "use_cache": False,
        },
        "text",
    ),
    Entry("llama", "LlamaModel", LLAMA, "text"),
    Entry("mistral", "MistralModel", LLAMA, "text"),
    Entry("gemma", "GemmaModel", LLAMA | {"head_dim": 16}, "text"),
    Entry("gemma2", "Gemma2Model", LLAMA | {"head_dim": 16}, "text"),
    Entry("qwen2", "Qwen2Model", LLAMA, "text"),
    Entry("qwen3", "Qwen3Model", LLAMA | {"head_dim": 16}, "text"),
    Entry("phi", "PhiModel", LLAMA, "text"),
    Entry("phi3", "Phi3Model", LLAMA | {"bos_token_id": 1, "eos_token_id": 2}, "text"),
    Entry("stablelm", "StableLmModel", LLAMA, "text"),
    Entry("starcoder2", "Starcoder2Model", LLAMA, "text"),
    Entry("olmo", "OlmoModel", LLAMA, "text"),
    # Encoder and decoder
    Entry("t5", "T5Model", T5, "text2text", {"use_cache": False}),
    Entry("mt5", "MT5Model", T5, "text2text", {"use_cache": False}),
    Entry("bart", "BartModel", BART, "text2text", {"use_cache": False}),
    Entry("mbart", "MBartModel", BART, "text2text", {"use_cache": False}),
    Entry("pegasus", "PegasusModel", BART, "text2text", {"use_cache": False}),
    Entry("marian", "MarianModel", BART, "text2text", {"use_cache": False}),
    # Speech and audio
    Entry(
        "whisper",
        "WhisperModel",
        BART | {"num_mel_bins": 20, "max_source_positions": 16, "max_target_positions": 32},
        "mel2text",
        {"use_cache": False},
    ),
    Entry("wav2vec2", "Wav2Vec2Model", WAV2VEC2, "wave"),
    Entry("hubert", "HubertModel", WAV2VEC2, "wave"),
    Entry("wavlm", "WavLMModel", WAV2VEC2, "wave"),
    Entry(
        "audio_spectrogram_transformer",
        "ASTModel",
        {
            "hidden_size": HIDDEN,
            "num_attention_heads": HEADS,
            "num_hidden_layers": LAYERS,
            "intermediate_size": WIDE,
            "patch_size": 8,
            "max_length": 32,
            "num_mel_bins": 16,
            "frequency_stride": 8,
            "time_stride": 8,
        },
        "spectrogram",
    ),
    # Several kinds of input
    Entry(
        "clip",
        "CLIPModel",
        {
            "text_config": BERT | {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
            "vision_config": VIT,
            "projection_dim": 32,
        },
        "image_and_text",
    ),
    Entry("siglip", "SiglipModel", {"text_config": BERT | {"projection_size": HIDDEN}, "vision_config": VIT}, "image_and_text"),
)


def _words(length: int = LENGTH) -> Tensor:
    return torch.randint(3, WORDS - 4, (2, length))


INPUTS = {
    "image": lambda: {"pixel_values": torch.randn(2, 3, 64, 64)},
    "image32": lambda: {"pixel_values": torch.randn(2, 3, 32, 32)},
    "text": lambda: {"input_ids": _words()},
    "text2text": lambda: {"input_ids": _words(), "decoder_input_ids": _words(7)},
    "mel2text": lambda: {"input_features": torch.randn(2, 20, 32), "decoder_input_ids": _words(7)},
    "wave": lambda: {"input_values": torch.randn(2, 1600)},
    "spectrogram": lambda: {"input_values": torch.randn(2, 32, 16)},
    "image_and_text": lambda: {"input_ids": _words(), "pixel_values": torch.randn(2, 3, 32, 32)},
}


class Positional(nn.Module):
    """A transformers model that takes its inputs by position and answers with tensors only."""

    def __init__(self, model: nn.Module, names: tuple[str, ...], call: dict[str, Any]) -> None:
        super().__init__()
        self.model, self.names, self.call = model, names, call

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The model's own outputs of floating numbers, in its order."""
        answer = self.model(**dict(zip(self.names, inputs, strict=True)), **self.call)
        return tuple(value for value in answer.to_tuple() if isinstance(value, Tensor))


def build(entry: Entry) -> Network:
    """The network of an entry, with random weights that depend on nothing but the entry."""
    import transformers

    torch.manual_seed(0)
    package = importlib.import_module(f"transformers.models.{entry.family}")
    model_class = getattr(package, entry.model)
    fields = dict(entry.config)
    for name, value in fields.items():
        if isinstance(value, tuple) and value and isinstance(value[0], str):
            fields[name] = getattr(transformers, value[0])(**value[1])
    model = model_class(model_class.config_class(**fields)).eval()
    _spread(model)
    inputs = INPUTS[entry.inputs]()
    return Network(Positional(model, tuple(inputs), entry.call), tuple(inputs.values()))


def _spread(model: nn.Module) -> None:
    """Give every constant parameter (biases at 0, scales at 1) values of its own, so that a wrong slice shows."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point() and parameter.numel() > 1 and float(parameter.std()) == 0:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.add_(torch.randn(buffer.shape, generator=generator) * 0.1)
