"""Kinds of decoders outside of the table that everybody's names for sizes do not make small, or not at all.

Data only, as `families` is. What such a kind has beside attention (state spaces, convolutions, encoders of
pictures and sound, tables of n-grams) is as small as its configuration allows, and each kind of layer is there.
"""

from __future__ import annotations

from typing import Any, Final

__all__ = ["ALONE", "BESIDE", "COMPOSED"]

_STATES: Final = {"mamba_n_heads": 8, "n_mamba_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8}
_LINEAR: Final = {
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 4,
    "linear_num_value_heads": 4,
}
_BOTH: Final = {"layer_types": ["linear_attention", "full_attention"]}
_SLIDING: Final = {"layer_types": ["sliding_attention", "full_attention"]}
_GEMMA4: Final = {
    **_SLIDING,
    "num_kv_shared_layers": 0,
    "vocab_size_per_layer_input": 96,
    "hidden_size_per_layer_input": 8,
    "global_head_dim": 8,
}
_ROPE: Final = {"rope_type": "default", "rope_theta": 1e4}
_QWEN4: Final = {
    **_LINEAR,
    "layer_types": ["linear_attention", "indexed_attention"],
    "indexer_n_heads": 4,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 8,
    "indexer_budget": 16,
    "indexer_compress_ratio": 4,
    "ple_embed_dim": 32,
    "ngram_vocab_size_base": 100,
    "split_ngram_parts": 1,
    "make_ngram_vocab_size_divisible_by": 4,
    "hc_lowrank": 8,
}

BESIDE: Final[dict[str, dict[str, Any]]] = {
    "bailing_hybrid": {"layer_group_size": 2},
    "bamba": {**_STATES, "attn_layer_indices": [1]},
    "cohere_compass_text": {
        **_SLIDING,
        "rope_parameters": {"full_attention": _ROPE, "sliding_attention": _ROPE},
    },
    "falcon_h1": {**_STATES, "mamba_d_ssm": 64},
    "falcon_mamba": {"state_size": 8},
    "gemma3n_text": {
        **_SLIDING,
        "num_kv_shared_layers": 0,
        "vocab_size_per_layer_input": 96,
        "hidden_size_per_layer_input": 8,
        "laurel_rank": 4,
        "altup_num_inputs": 2,
        "activation_sparsity_pattern": [0.0, 0.0],
    },
    "gemma4_text": _GEMMA4,
    "granitemoehybrid": {**_STATES, "layer_types": ["mamba", "attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 8},
    "kimi_linear": {**_BOTH, "linear_head_dim": 8, "linear_num_heads": 4},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "lfm3": {"layer_types": ["conv", "full_attention"]},
    "mamba": {"state_size": 8},
    "mamba2": {"num_heads": 8, "head_dim": 8, "state_size": 8},
    "mimo_v2_flash": {"layer_types": ["full_attention", "full_attention"]},
    "nemotron_h": {
        "mamba_num_heads": 8,
        "mamba_head_dim": 8,
        "ssm_state_size": 8,
        "layers_block_type": ["mamba", "attention"],
    },
    "qwen3_5_moe_text": {**_LINEAR, **_BOTH},
    "qwen3_5_text": {**_LINEAR, **_BOTH},
    "qwen3_next": {**_LINEAR, **_BOTH},
    "qwen4_exp_text": _QWEN4,
    "recurrent_gemma": {"num_hidden_layers": 3},
    "roc_bert": {
        "pronunciation_vocab_size": 50,
        "shape_vocab_size": 50,
        "pronunciation_embed_dim": 8,
        "shape_embed_dim": 8,
    },
    "xmod": {"default_language": "en_XX", "languages": ["en_XX"]},
    "zamba": {
        "num_hidden_layers": 3,
        "layers_block_type": ["mamba", "hybrid", "hybrid"],
        "n_mamba_heads": 2,
        "mamba_d_state": 8,
    },
    "zamba2": {**_STATES, "layers_block_type": ["mamba", "hybrid"], "mamba_headdim": 8},
    "zaya": {"num_experts_per_tok": 1, "num_key_value_heads": 2, "router_hidden_size": 8},
}
"""What a kind says beside everybody's names, or in their place."""

ALONE: Final[dict[str, dict[str, Any]]] = {
    "dbrx": {
        "d_model": 32,
        "n_heads": 4,
        "n_layers": 2,
        "max_seq_len": 64,
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": 1e4},
        "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "prophetnet": {
        "hidden_size": 32,
        "num_encoder_layers": 2,
        "num_decoder_layers": 2,
        "num_encoder_attention_heads": 4,
        "num_decoder_attention_heads": 4,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64,
        "max_position_embeddings": 64,
        "is_decoder": True,
        "is_encoder_decoder": False,
        "add_cross_attention": False,
    },
    "reformer": {
        "hidden_size": 32,
        "num_attention_heads": 4,
        "attention_head_size": 8,
        "feed_forward_size": 64,
        "attn_layers": ["local", "local"],
        "local_attn_chunk_length": 4,
        "local_num_chunks_after": 0,
        "local_attention_probs_dropout_prob": 0.0,  # it draws by the clock: torch.seed()
        "hidden_dropout_prob": 0.0,
        "axial_pos_embds": False,
        "max_position_embeddings": 64,
        "is_decoder": True,
    },
    "xlnet": {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 32},
}
"""What a kind says that does not take everybody's names."""

_SEES: Final = {
    "depth": 1,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_heads": 4,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
    "out_hidden_size": 32,
    "num_position_embeddings": 16,
    "deepstack_visual_indexes": [0],
}
_HEARS: Final = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_blocks": 1,
    "num_attention_heads": 4,
    "nemo_conv_channels": 8,
    "ext_pw_out_channel": 32,
    "input_size": 8,
}
_COARSE: Final = {
    "embed_dim": 8,
    "base_channels": 8,
    "num_res_blocks": 1,
    "latent_channels": 8,
    "codebook_size": 8,
    "hidden_size": 32,
    "attn_resolutions": [1],
    "channel_multiplier": [1, 1],
}

COMPOSED: Final[dict[str, dict[str, Any]]] = {
    "emu3": {"text_config": {}, "vq_config": _COARSE},
    "gemma3": {"text_config": {}, "vision_config": _SEES},
    "gemma4": {"text_config": _GEMMA4, "vision_config": _SEES},
    "gemma4_unified": {
        "text_config": _SLIDING,
        "vision_config": {"mm_embed_dim": 32, "output_proj_dims": 32, "mm_posemb_size": 8},
        "audio_config": {"audio_embed_dim": 32},
    },
    "got_ocr2": {"text_config": {}, "vision_config": _SEES},
    "llama4": {"text_config": {}, "vision_config": _SEES},
    "mllama": {"text_config": {"cross_attention_layers": [1]}, "vision_config": _SEES},
    "moss_transcribe_diarize": {"text_config": {}, "audio_config": _SEES},
    "phi4_multimodal": {"vision_config": {**_SEES, "crop_size": 32}, "audio_config": _HEARS},
    "qwen3_5": {"text_config": {**_LINEAR, **_BOTH}, "vision_config": _SEES},
    "qwen3_5_moe": {"text_config": {**_LINEAR, **_BOTH}, "vision_config": _SEES},
    "qwen4_exp": {"text_config": _QWEN4, "vision_config": _SEES},
}
"""What kinds say that read more than text: their `text_config` has everybody's names besides."""
