"""The recordings of a daemon: at most one is under way, and whoever began it fetches what it holds."""

from __future__ import annotations

from collections.abc import Sequence

from symbiosis_core.errors import BusyError, RefusalCode, RefusedError
from symbiosis_core.wire import TakeTrace, TraceTaken
from symbiosis_scheduler.decisions.events import Event, Instruction
from symbiosis_scheduler.decisions.state import SchedulerState
from symbiosis_scheduler.simulation.recorder import Recorder

__all__ = ["Recordings"]


class Recordings:
    """Begins, feeds and ends them. Lives in the data plane's thread."""

    def __init__(self, state: SchedulerState) -> None:
        self._state = state
        self._recorder: Recorder | None = None
        self._begun = 0

    def __repr__(self) -> str:
        return f"<Recordings, {self._begun} so far{', one under way' if self.under_way else ''}>"

    @property
    def under_way(self) -> bool:
        """Whether what happens is to be noted."""
        return self._recorder is not None

    def note(self, event: Event, instructions: Sequence[Instruction], now_us: int) -> None:
        """Writes down what the state was told just now, and what it answered, if anybody wants to know."""
        if self._recorder is not None:
            self._recorder.note(event, instructions, now_us)

    def take(self, wanted: TakeTrace, model: str, now_us: int) -> TraceTaken:
        """Returns what was recorded since the last time; begins and ends recordings.

        Raises:
            BusyError: somebody else is recording.
            RefusedError: the recording has ended.
        """
        recorder = self._recorder
        if not wanted.recording:
            if recorder is not None and not recorder.forgotten(now_us):
                raise BusyError(
                    RefusalCode.QUOTA, "somebody is recording already", "try again later", retry_after_s=10
                )
            self._begun += 1
            recorder = self._recorder = Recorder(self._state, model, now_us)
        elif recorder is None or wanted.recording != self._begun:
            raise RefusedError(RefusalCode.ORDER, "this recording has ended", "begin another")
        if wanted.stop:
            self._recorder = None
        return TraceTaken(self._begun, recorder.take(now_us, last=wanted.stop), recorder.dropped)
