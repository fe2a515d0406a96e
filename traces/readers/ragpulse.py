"""RAGPulse: a week of a university RAG service, prompts given as chunks."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from traces.errors import TraceError
from traces.readers.chain import chain_ids, pair_ids, split_lists
from traces.readers.json_lines import json_keys, read_json_lines
from traces.readers.source import unchecked
from traces.schema import Trace

# Prompt order, as the key order of the published records; the values name the file and its id field.
PARTS = {
    "sys_prompt": ("1_sys_prompt", "sys_prompt_id"),
    "passages_ids": ("2_passages", "passage_id"),
    "history": ("3_history", "history_id"),
    "web_search": ("5_web_search", "web_search_id"),
    "user_input": ("4_user_input", "user_input_id"),
}
IDS = pa.list_(pa.int64())
FIELDS = {
    "timestamp": pa.string(),
    "input_length": pa.int64(),
    "output_length": pa.int64(),
    "hash_ids": pa.struct([(part, IDS) for part in PARTS]),
    "session_id": pa.string(),
}
TRACE_FILES = ("0_trace.jsonl", "0_trace.jsonl.gz", "0_trace.jsonl.zst")
SORT = True


def sniff(head: bytes, path: Path) -> bool:
    if path.is_dir():
        return any((path / name).exists() for name in TRACE_FILES)
    return json_keys(head) >= set(FIELDS) and b'"sys_prompt"' in head


def read(path: Path, block_tokens: int = 16) -> Trace:
    """Read RAGPulse with its chunk lengths, sorted by time.

    Chunk ids name content, so the same passage at another place is no prefix hit. A prompt is cut into blocks of
    `block_tokens` over its chunks' tokens; two prompts share a block if all chunks up to the block's end are the same.
    The 6 to 12 tokens by which the chunks fall short of input_length, and a last partial block, have no id.

    path         : 0_trace.jsonl (plain or compressed) with the chunk length files beside it, or their folder
    block_tokens : tokens a block
    source       : flashserve/RAGPulse
    """
    file = next((path / name for name in TRACE_FILES if (path / name).exists()), path) if path.is_dir() else path
    table = read_json_lines(file, FIELDS)
    if block_tokens < 1:
        raise TraceError(f"block_tokens must be at least 1, but got {block_tokens}.")
    try:
        arrivals = table["timestamp"].cast(pa.float64())
    except pa.ArrowException as error:
        raise TraceError(f"timestamp must hold seconds, but {file.name} does not: {error}.") from None
    offsets, chunks, tokens = _chunks(table["hash_ids"].combine_chunks(), file)
    columns = {
        "arrival_s": arrivals,
        "prompt_tokens": table["input_length"],
        "output_tokens": table["output_length"],
        "prefix_blocks": blocks_of_chunks(offsets, chunks, tokens, block_tokens),
        "session": table["session_id"],
    }
    return unchecked(file, columns, block_tokens, {"format": "ragpulse"})


def blocks_of_chunks(
    offsets: np.ndarray, chunks: np.ndarray, tokens: np.ndarray, block_tokens: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cut prompts made of chunks into full prefix blocks.

    offsets : (requests + 1,) int64;  chunks, tokens : (chunks,) int64 content ids and lengths
    returns : block offsets (requests + 1,) int64 and chained ids (blocks,) int64
    """
    ends = np.cumsum(tokens)
    edges = np.concatenate(([0], ends))[offsets]
    counts = np.diff(edges) // block_tokens
    block_offsets = np.concatenate(([0], np.cumsum(counts)))
    position = np.arange(block_offsets[-1]) - np.repeat(block_offsets[:-1], counts)
    last_token = np.repeat(edges[:-1], counts) + (position + 1) * block_tokens
    last_chunk = np.searchsorted(ends, last_token)
    return block_offsets, pair_ids(chain_ids(offsets, chunks)[last_chunk], position)


def _chunks(records: pa.StructArray, file: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the chunks of all prompts in prompt order: offsets, content ids over all parts, token lengths."""
    parts = [split_lists(records.field(part)) for part in PARTS]
    counts = np.stack([np.diff(offsets) for offsets, _ in parts])
    offsets = np.concatenate(([0], np.cumsum(counts.sum(axis=0))))
    places_before = np.cumsum(counts, axis=0) - counts
    chunks, tokens = np.empty((2, offsets[-1]), np.int64)
    for index, (part, (part_offsets, ids)) in enumerate(zip(PARTS, parts, strict=True)):
        shift = offsets[:-1] + places_before[index] - part_offsets[:-1]
        places = np.arange(len(ids)) + np.repeat(shift, counts[index])
        chunks[places] = ids * len(PARTS) + index
        tokens[places] = _lengths(file, part, ids)
    return offsets, chunks, tokens


def _lengths(file: Path, part: str, ids: np.ndarray) -> np.ndarray:
    if len(ids) == 0:
        return ids
    name, key = PARTS[part]
    beside = [file.with_name(f"{name}.jsonl{ending}") for ending in ("", ".gz", ".zst")]
    found = next((path for path in beside if path.exists()), None)
    if found is None:
        raise TraceError(f"{file.name} needs its chunk lengths beside it, but {beside[0].name} is not there. Fetch it.")
    table = read_json_lines(found, {key: pa.int64(), "token_length": pa.int64()})
    known, first = np.unique(table[key].to_numpy(), return_index=True)
    lengths = table["token_length"].to_numpy()[first]
    place = np.minimum(np.searchsorted(known, ids), len(known) - 1)
    bad = (known[place] != ids) | (lengths[place] < 0)
    if bad.any():
        chunk = ids[np.argmax(bad)]
        raise TraceError(f"every chunk needs a length of at least 0, but {part} {chunk} has none in {found.name}.")
    return lengths[place]
