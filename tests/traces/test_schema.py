"""The schema: what a trace gives, and a sentence for each rule that one can break."""

import numpy as np
import pyarrow as pa
import pytest

from traces import TraceError, build, check
from traces.schema import Trace, assemble


def columns(**changes):
    """Three valid requests of two sessions, with some columns changed or (None) removed."""
    whole = {
        "arrival_s": [0.0, 0.5, 0.5],
        "prompt_tokens": [10, 4, 12],
        "output_tokens": [1, 2, 3],
        "prefix_blocks": [[0, 1, 2], [0], [0, 1, 3]],
        "tier": ["gold", "silver", "gold"],
        "session": ["a", "b", "a"],
        "parent": [-1, -1, 0],
        "think_s": [0.0, 0.0, 2.5],
        **changes,
    }
    return {name: values for name, values in whole.items() if values is not None}


def test_a_trace_gives_its_columns_back():
    trace = build("three", columns(), 4)
    assert len(trace) == 3 and trace.block_tokens == 4 and "tenant" not in trace
    assert trace.column("prompt_tokens").tolist() == [10, 4, 12]
    assert trace.column("prompt_tokens").dtype == np.int32
    assert trace.column("tier").tolist() == ["gold", "silver", "gold"]
    offsets, ids = trace.prefix()
    assert offsets.tolist() == [0, 3, 4, 7] and ids.tolist() == [0, 1, 2, 0, 0, 1, 3]
    assert trace.table.schema.metadata[b"block_tokens"] == b"4"


def test_number_columns_are_not_copied():
    trace = build("three", columns(), 4)
    buffer = trace.table.column("arrival_s").chunk(0).buffers()[1]
    assert trace.column("arrival_s").__array_interface__["data"][0] == buffer.address


def test_prefix_of_a_slice_starts_at_zero():
    trace = build("three", columns(), 4)
    offsets, ids = Trace(trace.table.slice(1), "tail", 4).prefix()
    assert offsets.tolist() == [0, 1, 4] and ids.tolist() == [0, 0, 1, 3]


def test_digest_depends_on_content_only():
    trace = build("three", columns(), 4)
    recoded = pa.DictionaryArray.from_arrays(pa.array([2, 0, 2], pa.int32()), pa.array(["silver", "unused", "gold"]))
    assert build("other name", columns(tier=recoded), 4).digest() == trace.digest()
    chunked = pa.concat_tables([trace.table.slice(0, 1), trace.table.slice(1)])
    assert Trace(chunked, "chunked", 4).digest() == trace.digest()
    changes = [{"output_tokens": [1, 2, 4]}, {"tier": ["gold", "gold", "silver"]}, {"think_s": [0.0, 0.0, 2.0]}]
    digests = {build("three", columns(**change), 4).digest() for change in changes}
    assert len(digests | {trace.digest()}) == 4
    assert build("three", columns(), 3).digest() != trace.digest()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"arrival_s": [0.0, 0.6, 0.5]}, r"sorted: request 2 arrives at 0.5 s, before request 1 at 0.6 s"),
        ({"arrival_s": [0.0, float("nan"), 0.5]}, r"finite seconds, but request 1 has arrival_s nan"),
        ({"arrival_s": [0.0, 0.5, float("inf")]}, r"finite seconds, but request 2 has arrival_s inf"),
        ({"arrival_s": [-1.0, 0.5, 0.5]}, r"at or after 0 s, but request 0 has arrival_s -1.0"),
        ({"arrival_s": [0.0, 0.5, 107 * 86400.0]}, r"within 106 days .* request 2 arrives at 9244800 s"),
        ({"arrival_s": [0.0, None, 0.5]}, r"no null values, but request 1 has none in 'arrival_s'"),
        ({"arrival_s": None}, r"has no 'arrival_s'"),
        ({"prompt_tokens": [10, 0, 12]}, r"prompt_tokens must be at least 1, but request 1 has prompt_tokens 0"),
        ({"output_tokens": [1, 2, -3]}, r"output_tokens must be at least 1, but request 2 has output_tokens -3"),
        ({"output_tokens": [1, 2**31, 3]}, r"whole number of at most 2147483647, but request 1 has 2147483648"),
        ({"prompt_tokens": [10, 4.5, 12]}, r"whole number .* request 1 has 4.5"),
        ({"prompt_tokens": [10, float("nan"), 12]}, r"whole number .* request 1 has nan"),
        ({"prompt_tokens": ["x", "y", "z"]}, r"column 'prompt_tokens' must hold int32 values"),
        ({"output_tokens": [1, 2]}, r"all columns must have one length"),
        ({"speed": [1, 2, 3]}, r"only the columns .* got 'speed'"),
        ({"prefix_blocks": [[0, 1, 2], [0, 9], [0, 1, 3]]}, r"at most ceil\(n / 4\) .* request 1 has 2 for 4 tokens"),
        ({"prefix_blocks": [[0, 1, 2], [1], [0, 1, 3]]}, r"id 1 comes first in request 1 and follows 0 in request 0"),
        ({"prefix_blocks": [[0, 1, 2], [0], [0, 1, 1]]}, r"chained .* id 1 follows 1 in request 2"),
        ({"prefix_blocks": [[0, 1, 2], [0], [0, 5, 2]]}, r"id 2 follows 5 in request 2 and follows 1 in request 0"),
        ({"prefix_blocks": [[0, 1, 2], [-4], [0, 1]]}, r"at least 0, but request 1 has -4"),
        ({"prefix_blocks": [[0, 1, 2], [None], [0, 1]]}, r"no null values, but an entry inside a list"),
        ({"prefix_blocks": [[0, 1, 2], None, [0, 1]]}, r"no null values, but request 1 has none in 'prefix_blocks'"),
        ({"parent": [-1, 1, 0]}, r"parent must be an earlier row, .* request 1 has parent 1"),
        ({"parent": [-1, -2, 0]}, r"parent must be an earlier row, .* request 1 has parent -2"),
        ({"parent": None}, r"has 'think_s' and no 'parent'"),
        ({"think_s": [0.0, 0.0, -1.0]}, r"think_s must be finite.* request 2 has think_s -1.0"),
        ({"think_s": [0.0, float("nan"), 1.0]}, r"think_s must be finite.* request 1 has think_s nan"),
        ({"ttft_s": [0.1, -0.1, 0.2]}, r"ttft_s must be at least 0, .* request 1 has ttft_s -0.1"),
        ({"tier": ["gold", None, "gold"]}, r"no null values, but request 1 has none in 'tier'"),
    ],
)
def test_a_broken_rule_is_one_sentence(changes, sentence):
    with pytest.raises(TraceError, match=sentence) as caught:
        build("three.csv", columns(**changes), 4)
    assert "\n" not in str(caught.value) and str(caught.value).endswith((".", ")", "..."))
    assert "three.csv" in str(caught.value)


def test_an_empty_trace_is_refused():
    with pytest.raises(TraceError, match="at least one request, but empty has none"):
        build("empty", {"arrival_s": [], "prompt_tokens": [], "output_tokens": []})


def test_block_size_and_blocks_go_together():
    with pytest.raises(TraceError, match="block_tokens of at least 1, but three has None"):
        build("three", columns())
    with pytest.raises(TraceError, match="has block_tokens 4 and no prefix_blocks"):
        build("three", columns(prefix_blocks=None), 4)


def test_a_wrong_type_is_refused():
    table = pa.table({"arrival_s": [0.0], "prompt_tokens": [1], "output_tokens": pa.array([1], pa.int32())})
    with pytest.raises(TraceError, match="'prompt_tokens' must be int32, but raw holds int64"):
        check(Trace(table, "raw"))


def test_ids_far_apart_are_checked_alike():
    far = [[2**40, 2**50, 7], [2**40], [2**40, 2**50, 2**60]]
    assert len(build("far", columns(prefix_blocks=far), 4)) == 3
    with pytest.raises(TraceError, match=f"id 7 follows {2**40} in request 2 and follows {2**50} in request 0"):
        build("far", columns(prefix_blocks=[*far[:2], [2**40, 7, 2**50]]), 4)


def test_chain_check_agrees_with_a_walk():
    """The vectorised rule against the plain definition: one predecessor per id."""
    draw = np.random.default_rng(5)
    verdicts = set()
    for _ in range(300):
        lists = [draw.integers(0, 6, draw.integers(0, 4)).tolist() for _ in range(4)]
        before: dict[int, int] = {}
        chained = all(before.setdefault(i, p) == p for ids in lists for p, i in zip([-1, *ids], ids, strict=False))
        trace = assemble(
            "r", {"arrival_s": [0.0] * 4, "prompt_tokens": [9] * 4, "output_tokens": [1] * 4, "prefix_blocks": lists}, 2
        )
        try:
            check(trace)
            passed = True
        except TraceError:
            passed = False
        assert passed == chained, lists
        verdicts.add(passed)
    assert verdicts == {True, False}
