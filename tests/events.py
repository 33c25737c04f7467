"""Reads TensorBoard's event files, without TensorBoard."""

import struct
from collections.abc import Iterator
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event


def read_events(folder: Path) -> Iterator[Event]:
    """Every event with values, of the one file in the folder. A record is its length, a checksum of
    that, itself, and a checksum of itself."""
    (file,) = folder.iterdir()
    data = file.read_bytes()
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        event = Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]
        if event.HasField("summary"):
            yield event


def told(folder: Path) -> list[tuple[int, dict[str, float]]]:
    """Step and values of each event."""
    return [
        (event.step, {value.tag: value.simple_value for value in event.summary.value})
        for event in read_events(folder)
    ]
