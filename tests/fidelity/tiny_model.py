"""A tiny model file of random weights for llama.cpp: a real engine can serve it on any CPU."""

from pathlib import Path

import numpy as np

from replay.fidelity.prompts import WORDS as SPACED

LAYERS, WIDTH, HEADS, CONTEXT = 2, 64, 4, 32768
SPECIAL = ("<unk>", "<s>", "</s>")
WORDS = [word.strip() for word in SPACED]


def write_model(path: Path, width: int = WIDTH, layers: int = LAYERS, seed: int = 7) -> Path:
    """Write a llama model whose vocabulary has single bytes and some words.

    width : of its hidden states; the time of an iteration grows with its square
    """
    import gguf

    tokens = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", *(f"\u2581{word}" for word in WORDS)]
    kinds = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
    kinds += [gguf.TokenType.BYTE] * 256 + [gguf.TokenType.NORMAL] * (1 + len(WORDS))
    scores = [0.0] * 259 + [-1e3] + [-float(rank) for rank in range(len(WORDS))]
    tokens, kinds, scores = _with_pieces(tokens, kinds, scores, gguf.TokenType.NORMAL)
    draw = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(2 * width)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_file_type(0)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    for name, shape in _shapes(len(tokens), width, layers).items():
        values = np.ones(shape) if name.endswith("norm.weight") else draw.normal(0.0, width**-0.5, shape)
        if name == "output.weight":
            values[: len(SPECIAL) + 256] = 0.0  # some word always wins: an answer has no end and no half characters
        writer.add_tensor(name, values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _with_pieces(tokens: list, kinds: list, scores: list, normal: int) -> tuple[list, list, list]:
    """Add every beginning of a word, or its tokenizer could not merge letters into it."""
    known = set(tokens)
    parts = [part for word in WORDS for part in (*word, *(f"\u2581{word[:n]}" for n in range(1, len(word))))]
    for piece in dict.fromkeys(parts):
        if piece not in known:
            tokens, kinds, scores = [*tokens, piece], [*kinds, normal], [*scores, -2e3 + len(piece)]
    return tokens, kinds, scores


def _shapes(vocabulary: int, width: int, layers: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (vocabulary, width), "output_norm.weight": (width,),
                                          "output.weight": (vocabulary, width)}
    for layer in range(layers):
        part = f"blk.{layer}"
        shapes |= {f"{part}.attn_norm.weight": (width,), f"{part}.ffn_norm.weight": (width,)}
        shapes |= {f"{part}.attn_{one}.weight": (width, width) for one in ("q", "k", "v", "output")}
        shapes |= {f"{part}.ffn_gate.weight": (2 * width, width), f"{part}.ffn_up.weight": (2 * width, width),
                   f"{part}.ffn_down.weight": (width, 2 * width)}
    return shapes
