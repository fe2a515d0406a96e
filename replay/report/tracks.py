"""Tracks of a timeline in the protobuf format of the Perfetto viewer: slices, counters and instants."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from replay.errors import ConfigError

PS_PER_NS = 1000
SEQUENCE = 1


def perfetto() -> tuple[Any, Any]:
    """Return the builder's module and the protobuf classes of the package `perfetto`.

    raises : ConfigError if it is not installed
    """
    try:
        from perfetto.protos.perfetto.trace import perfetto_trace_pb2
        from perfetto.trace_builder import proto_builder
    except ImportError:
        raise ConfigError(
            "a timeline needs the package perfetto, which is not installed. Get it with: pip install "
            "'kvreplay[report]'."
        ) from None
    return proto_builder, perfetto_trace_pb2


class Tracks:
    """Collects tracks and what happens on them, and writes them down in the order of time."""

    def __init__(self) -> None:
        """Begin an empty trace.

        raises : ConfigError if the package `perfetto` is not installed
        """
        self._builder_of, self._proto = perfetto()
        self._described: list[dict[str, Any]] = []
        self._events: list[tuple[int, int, int, str, Mapping[str, Any]]] = []

    def process(self, name: str, pid: int, rank: int) -> int:
        """Add a process, under which tracks stand in the order of their ranks; returns its track."""
        return self._describe(name=name, pid=pid, rank=rank)

    def track(self, name: str, parent: int, rank: int, counter: bool = False) -> int:
        """Add a track below another; tracks of slices with one name are drawn as one."""
        return self._describe(name=name, parent=parent, rank=rank, counter=counter)

    def _describe(self, **given: Any) -> int:
        self._described.append(given)
        return len(self._described)

    def begin(self, track: int, time_ps: int, name: str, notes: Mapping[str, Any] | None = None) -> None:
        """Begin a slice; those of one track must nest, and come in the order of time."""
        self._add(track, time_ps, self._proto.TrackEvent.TYPE_SLICE_BEGIN, name, notes or {})

    def end(self, track: int, time_ps: int) -> None:
        """End the slice of a track that was begun last."""
        self._add(track, time_ps, self._proto.TrackEvent.TYPE_SLICE_END, "", {})

    def instant(self, track: int, time_ps: int, name: str, notes: Mapping[str, Any] | None = None) -> None:
        """Add an instant."""
        self._add(track, time_ps, self._proto.TrackEvent.TYPE_INSTANT, name, notes or {})

    def count(self, track: int, levels: Sequence[tuple[int, int]]) -> None:
        """Add the values of a counter: times [ps] and counts."""
        for time_ps, value in levels:
            self._add(track, time_ps, self._proto.TrackEvent.TYPE_COUNTER, "", {"counter": value})

    def _add(self, track: int, time_ps: int, kind: int, name: str, notes: Mapping[str, Any]) -> None:
        self._events.append((time_ps // PS_PER_NS, track, kind, name, notes))

    def bytes(self) -> bytes:
        """Return the trace; times are whole nanoseconds, rounded down.

        notes : `flow` links slices of one number by arrows, the last one with `flow_ends`; others are shown as they are
        """
        builder = self._builder_of.TraceProtoBuilder()
        for uuid, given in enumerate(self._described, 1):
            self._descriptor(builder.add_packet(), uuid, given)
        for time_ns, track, kind, name, notes in self._in_order():
            packet = builder.add_packet()
            packet.timestamp = time_ns
            packet.trusted_packet_sequence_id = SEQUENCE
            event = packet.track_event
            event.track_uuid, event.type = track, kind
            if name:
                event.name = name
            for key, value in notes.items():
                self._note(event, key, value)
        return bytes(builder.serialize())

    def _in_order(self) -> Iterator[tuple[int, int, int, str, Mapping[str, Any]]]:
        # Stable: what happens on one track at one time stays as it was added, a slice's begin before its end.
        yield from sorted(self._events, key=lambda event: event[0])

    def _descriptor(self, packet: Any, uuid: int, given: Mapping[str, Any]) -> None:
        packet.trusted_packet_sequence_id = SEQUENCE
        found = packet.track_descriptor
        found.uuid, found.name, found.sibling_order_rank = uuid, given["name"], given["rank"]
        found.child_ordering = self._proto.TrackDescriptor.EXPLICIT
        if "pid" in given:
            found.process.pid, found.process.process_name = given["pid"], given["name"]
        else:
            found.parent_uuid = given["parent"]
        if given.get("counter"):
            found.counter.unit = self._proto.CounterDescriptor.UNIT_COUNT

    @staticmethod
    def _note(event: Any, key: str, value: Any) -> None:
        if key == "counter":
            event.counter_value = value
        elif key == "flow":
            event.flow_ids.append(value)
        elif key == "flow_ends":
            event.terminating_flow_ids.append(value)
        elif value is not None:
            note = event.debug_annotations.add()
            note.name = key
            if isinstance(value, bool):
                note.bool_value = value
            elif isinstance(value, int):
                note.int_value = value
            elif isinstance(value, float):
                note.double_value = value
            else:
                note.string_value = str(value)
