"""Which messages of each partition are done. It knows numbers; what it gives may be committed.

Messages are finished in any order, but a commit says "everything before this". So it waits for the slowest.
"""

from __future__ import annotations

from dataclasses import dataclass, field

Partition = tuple[str, int]


@dataclass
class _Line:
    open: set[int] = field(default_factory=set)
    next: int = 0
    committed: int = -1


class Offsets:
    """Of the partitions that this consumer has."""

    def __init__(self) -> None:
        self._lines: dict[Partition, _Line] = {}

    def take(self, partition: Partition, offset: int) -> None:
        """A message is being worked on."""
        line = self._lines.setdefault(partition, _Line())
        line.open.add(offset)
        line.next = max(line.next, offset + 1)

    def done(self, partition: Partition, offset: int) -> None:
        """It is finished. Of a partition that was taken away meanwhile, nothing is kept."""
        if partition in self._lines:
            self._lines[partition].open.discard(offset)

    def drop(self, partition: Partition) -> None:
        """Another consumer has it now."""
        self._lines.pop(partition, None)

    def ripe(self) -> dict[Partition, int]:
        """Where the next reader of each partition should begin, for those where that has moved."""
        found = {}
        for partition, line in self._lines.items():
            position = min(line.open, default=line.next)
            if position > line.committed and (line.committed >= 0 or position > 0):
                found[partition] = position
        return found

    def committed(self, partition: Partition, position: int) -> None:
        """The broker knows."""
        if partition in self._lines:
            self._lines[partition].committed = position
