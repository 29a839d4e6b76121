"""What lies on a volume that several machines share: checkpoints that were fetched, and engines under a key.

It knows exit codes, locks and downloads; what engines are it leaves to `build_engine.build`.
"""

from __future__ import annotations

from typing import Final

FINE: Final = 0
FAILED: Final = 1
"""Another try may help: the network, the disk, a build that was killed."""
WRONG_USE: Final = 2
ABSENT: Final = 3
"""Another try does not help: it is not there, or does not fit."""


class FailedError(Exception):
    """What went wrong and what to do; the command ends with `FAILED`."""


class AbsentError(Exception):
    """What is not there or does not fit, and what to do; the command ends with `ABSENT`."""
