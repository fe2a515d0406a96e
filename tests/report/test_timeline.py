"""The timeline, read back with the protobuf classes: slices nest, pair up, and are those of the run."""

from collections import Counter, defaultdict

import polars as pl
import pytest

from replay import cli
from replay.report.folders import read
from replay.report.spells import log, phases, running, spells, utilisation
from replay.report.timeline import timeline
from replay.report.windows import length_ps, windows

pytest.importorskip("perfetto", reason="perfetto is not installed: pip install 'kvreplay[test]'")
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace, TrackEvent  # noqa: E402


def read_back(content: bytes):
    """Return tracks by number, slices as (track, name, start, end, depth), instants, and counters; checks pairs."""
    trace = Trace()
    trace.ParseFromString(content)
    tracks = {packet.track_descriptor.uuid: packet.track_descriptor for packet in trace.packet
              if packet.HasField("track_descriptor")}  # fmt: skip
    open_, slices, instants, counters, last = defaultdict(list), [], [], defaultdict(list), 0
    for packet in trace.packet:
        if not packet.HasField("track_event"):
            continue
        event, time = packet.track_event, packet.timestamp
        assert time >= last and event.track_uuid in tracks
        last = time
        if event.type == TrackEvent.TYPE_SLICE_BEGIN:
            open_[event.track_uuid].append((event.name, time))
        elif event.type == TrackEvent.TYPE_SLICE_END:
            name, start = open_[event.track_uuid].pop()
            slices.append((event.track_uuid, name, start, time, len(open_[event.track_uuid])))
        elif event.type == TrackEvent.TYPE_COUNTER:
            counters[event.track_uuid].append((time, event.counter_value))
        else:
            instants.append((event.track_uuid, event.name))
    assert not any(open_.values())
    return tracks, slices, instants, counters


def run_of(folder):
    return read([folder], 1)[0]


def test_slices_are_those_of_a_split_run(runs):
    run = run_of(runs / "split")
    content, counted = timeline(run, None)
    tracks, slices, instants, _ = read_back(content)
    names = Counter(name.split(" ")[0] for _, name, *_ in slices)
    finished = run.requests.filter(pl.col("status") == "finished")
    many = finished.filter(pl.col("output_tokens") > 1).height
    assert names["prefill"] == finished.height == 250 and names["decode"] == names["handoff"] == many
    assert names["request"] == finished.height + many and not instants
    assert counted["prefill"] == 250 and counted["handoff"] == many
    processes = [track.process.process_name for track in tracks.values() if track.HasField("process")]
    assert processes == ["cluster", "instance 0 (prefill)", "instance 1 (decode)"]
    by_name = {name: (start, end) for _, name, start, end, depth in slices if depth == 0}
    for r, row in enumerate(finished.head(20).to_dicts()):
        assert by_name[f"request {r}"][1] == row["finish_ps"] // 1000


def test_slices_and_instants_of_a_run_with_preemptions_and_refusals(runs):
    run = run_of(runs / "tight")
    content, counted = timeline(run, None)
    tracks, slices, instants, counters = read_back(content)
    preempted, rejected = run.requests["preemptions"].sum(), (run.requests["status"] == "rejected").sum()
    assert preempted > 3 and rejected > 3
    names = Counter(name.split(" ")[0] for _, name in instants)
    assert names == {"preempted": preempted, "rejected": rejected} == {k: counted[k] for k in names}
    batch = [one for one in slices if tracks[one[0]].name == "batch"]
    assert sum(depth == 0 for *_, depth in batch) == (run.requests["status"] == "finished").sum() + preempted
    assert {name for _, name, _, _, depth in batch if depth == 1} == {"prefill", "decode", "resumed"}
    assert all(values[-1][1] == 0 and min(value for _, value in values) >= 0 for values in counters.values())
    most = {track: max(value for _, value in values) for track, values in counters.items()}
    for track, value in most.items():
        if tracks[track].name == "running":  # as many lanes as requests that run at once, or more at one instant
            lanes = {one[0] for one in batch if tracks[one[0]].parent_uuid == tracks[track].parent_uuid}
            assert value <= len(lanes)


def test_a_window_cuts_slices_and_keeps_the_rest_of_the_run_out(runs):
    run = run_of(runs / "tight")
    _, slices, _, _ = read_back(timeline(run, (5.0, 8.0))[0])
    assert slices and min(start for _, _, start, _, _ in slices) == 5 * 10**9
    assert max(end for _, _, _, end, _ in slices) == 8 * 10**9
    rows = spells(log(run.events)).filter(pl.col("what") == "running")
    inside = rows.filter((pl.col("end_ps") > 5 * 10**12) & (pl.col("start_ps") < 8 * 10**12))
    assert sum(name.startswith("request") for _, name, *_ in slices) == inside.height


@pytest.mark.parametrize("name", ["split", "tight"])
def test_running_from_requests_agrees_with_the_log_where_it_can(runs, name):
    run = run_of(runs / name)
    cut = windows(run.requests, length_ps([run.requests], 20))
    exact, near = (utilisation(running(run.requests, path), cut) for path in (run.events, None))
    prefill = slice(0, 1) if name == "split" else slice(0, 4)
    assert (near.running[prefill] - exact.running[prefill] > -1e-9).all() and near.running.shape == exact.running.shape
    assert exact.table["busy_share"].max() <= 1.0 and (exact.busy <= exact.running + 1e-9).all()
    if name == "split":
        assert exact.running[0] == pytest.approx(near.running[0])


def test_phases_cover_the_time_that_requests_run(runs):
    rows = spells(log(runs / "tight" / "events.arrow")).filter(pl.col("what") == "running")
    parts = phases(rows)
    span = (pl.col("end_ps") - pl.col("start_ps")).sum()
    assert parts.select(span).item() == rows.select(span).item() > 0


@pytest.mark.parametrize(
    ("where", "more", "words"),
    [
        ("split", ["report.window_s=[900,901]"], "must hold events"),
        ("many/0", [], "Replay it with events=true"),
        ("many", [], "draws one run directory"),
        ("split", ["report.window_s=[3,1]"], "two times in seconds"),
    ],
)
def test_what_cannot_be_drawn_is_one_sentence_and_writes_nothing(runs, tmp_path, capsys, where, more, words):
    out = [f"report.out={tmp_path / 'page.html'}", f"report.timeline={tmp_path / 'x.perfetto-trace'}"]
    assert cli.main(["report", str(runs / where), *out, *more]) == 1
    told = capsys.readouterr()
    assert words in told.err and told.err.count("\n") == 1 and not list(tmp_path.iterdir())


def test_too_many_events_are_refused_with_a_window_that_fits(runs, monkeypatch):
    from replay.errors import ConfigError

    monkeypatch.setattr("replay.report.timeline.MOST", 100)
    with pytest.raises(ConfigError, match=r"at most 100 events.*report\.window_s=\["):
        timeline(run_of(runs / "split"), None)
