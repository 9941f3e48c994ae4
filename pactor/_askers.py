"""The replies' way back: from an actor to those who asked it.

A reply waits for nobody: where the asker's FIFO is full, it is kept here and sent when there is room. And an asker
that is gone is noticed, like all that ends, by `select.poll`; what a killed one left is removed.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import itertools
import os
import pickle
import select
import struct
import time
from collections.abc import Iterable, Sequence

from . import _ending, _lane, _runtime, _waiting, _wire
from ._channel import Channel, channel
from ._errors import ActorError

#: Where an actor that is restarted keeps replies, in its mailbox: a file an asker.
_JOURNAL = "journal."
#: How the name of one ends that is written anew.
_NEW = ".new"
#: So many may be in a journal beside twice those that are still kept.
_FEW = 64
#: Askers whose mailboxes are kept open.
_MAX_OPEN = 32

_reply_header = struct.Struct("<HBQ").pack  # a frame's header and REPLY_HEAD
_REPLY_SIZE = _wire.HEADER_SIZE + _wire.REPLY_HEAD.size


def _unknown(_: str) -> _ending.Ending:
    """Why an asker ended: nobody wants to know, and to find out may hold up the others for a tenth of a second."""
    return _ending.UNKNOWN


class _Journal:
    """The replies to one asker that are kept, written down."""

    def __init__(self, path: str, asker: bytes) -> None:
        self.path = path
        self._asker = asker
        self._count = 0

    def add(self, frame: bytes, unsent: Sequence[bytes]) -> None:
        """Writes down one more; ``unsent`` are all that are still kept, this one too."""
        if self._count < 2 * len(unsent) + _FEW:
            self._append(self.path, [frame])
            self._count += 1
        else:  # as it goes on and on, it must not grow by what was sent
            temporary = f"{self.path}{_NEW}"
            _runtime.unlink(temporary)
            self._append(temporary, unsent)
            os.rename(temporary, self.path)
            self._count = len(unsent)

    def _append(self, path: str, frames: Iterable[bytes]) -> None:
        data = b"".join(pickle.dumps((self._asker, frame)) for frame in frames)
        with open(path, "ab", buffering=0) as file:
            end = file.tell()
            if file.write(data) < len(data):  # what follows a torn one could not be read
                file.truncate(end)
                raise OSError(errno.ENOSPC, "no room for a reply that is kept", path)


class Askers:
    """The ways to the askers of the actor that has the ``mailbox``; ``poll`` is what it waits with.

    Where it ``keeps_journal``, what is kept is also written down there, for when it is killed and restarted.
    """

    def __init__(self, poll: _waiting.Poll, mailbox: str, keeps_journal: bool) -> None:
        self._poll = poll
        self._mailbox = mailbox
        self._keeps_journal = keeps_journal
        #: The lane of the asker that said last that it has one, see _lane.
        self.lane: _lane.Lane | None = None
        # The number of the last ask from the lane of an asker, where it looks into another's now.
        self._taken_before: dict[bytes, int | None] = {}
        self._journals: dict[bytes, _Journal] = {}
        self._numbers = itertools.count()
        self._ways: dict[bytes, Channel] = {}
        self._unsent: dict[bytes, collections.deque[bytes]] = {}

    def reply(self, asker: bytes, number: int, kind: int, value: object) -> None:
        """Sends a reply, or keeps it until there is room. Raises what pickling raises."""
        way = self._ways.get(asker) or self._meet(asker)
        if not way.large:
            try:
                data = pickle.dumps(value, 5)
                size = len(data)
                if size >= _wire.SHORTEST_WITH_CONNECTION and data.count(_wire.CONNECTION):
                    raise pickle.PicklingError
            except _wire.REFUSALS:
                pass
            else:
                size += _REPLY_SIZE
                if size <= _wire.MAX_FRAME:
                    frame, lane = _reply_header(size, kind, number) + data, self.lane
                    if lane is not None and lane.is_for(asker, number) and lane.send(number, frame):
                        return
                    if _wire.write_now(way.fd, frame):
                        return
                value = _wire.Pickled(data)
        try:
            self._send(asker, way, way.pack(kind, _wire.REPLY_HEAD.pack(number), value))
        except ActorError:
            self._part(asker)  # nobody waits any more

    def open_lane(self, asker: bytes) -> None:
        """Looks into the lane that an asker has made, from now on."""
        if self.lane is None or self.lane.asker != asker:
            with contextlib.suppress(OSError, ValueError):  # there is no descriptor left, or that was rubbish
                lane = self._end_of_lane(asker)
                if self.lane is not None:
                    self.lane.look(False)
                    self._taken_before[self.lane.asker] = self.lane.number
                self.lane = lane

    def has_taken(self, asker: bytes, number: int) -> bool:
        """Whether it was from its lane that an asker's ask came last. Raises OSError where that can't be found out."""
        if self.lane is not None and self.lane.asker == asker:
            return self.lane.number == number
        if asker in self._taken_before:
            return self._taken_before[asker] == number
        try:
            return self._end_of_lane(asker).number == number
        except (FileNotFoundError, ValueError):
            return False

    def note_taken(self, asker: bytes, number: int) -> None:
        """Has `has_taken` say so in the next process, for one that was killed."""
        with contextlib.suppress(OSError, ValueError):  # there is no descriptor left, or that was rubbish
            self._end_of_lane(asker).note(number)

    def _end_of_lane(self, asker: bytes) -> _lane.Lane:
        return _lane.Lane.open(self._mailbox, os.fsdecode(asker))

    def _close_lane(self, asker: bytes) -> None:
        if self.lane is not None and self.lane.asker == asker:
            self.lane = None
        self._taken_before.pop(asker, None)
        with contextlib.suppress(OSError, ValueError):
            os.unlink(_lane.path(self._mailbox, os.fsdecode(asker)))

    def take_over(self) -> None:
        """Sends the replies that a killed process kept. Some may have been sent: an asker takes only the first."""
        for name in os.listdir(self._mailbox):
            if name.startswith(_JOURNAL) and not name.endswith(_NEW):  # which holds no more than the one beside it
                self._take_over(f"{self._mailbox}/{name}")

    def _take_over(self, journal: str) -> None:
        # The last one may be torn; then its message counts as being executed.
        with contextlib.suppress(EOFError, pickle.UnpicklingError), open(journal, "rb") as file:
            _runtime.unlink(journal)
            while True:
                asker, frame = pickle.load(file)
                try:
                    self._send(asker, self._ways.get(asker) or self._meet(asker), frame)
                except (ActorError, OSError):
                    self._part(asker)

    def attend(self, fd: int) -> None:
        """Does what ``poll`` reported for one of the ways."""
        for asker, way in list(self._ways.items()):
            if way.file == fd:
                try:
                    self._send_rest(asker, way)
                except ActorError:
                    self._part(asker)

    def end(self, seconds: float) -> None:
        """Waits until the askers have taken their replies, while they live and read, for so long at most."""
        deadline = time.monotonic() + seconds
        while self._unsent and time.monotonic() < deadline:
            fd = self._ways[next(iter(self._unsent))].file
            if _waiting.wait(fd, select.POLLOUT, deadline):
                self.attend(fd)
        for fd, _ in self._poll.poll(0):
            self.attend(fd)

    def _send(self, asker: bytes, way: Channel, frame: bytes) -> None:
        if asker not in self._unsent:
            if way.try_send(frame):
                return
            self._unsent[asker] = collections.deque()
            self._poll.modify(way.file, select.POLLOUT)
        self._unsent[asker].append(frame)
        if self._keeps_journal:
            journal = self._journals.get(asker)
            if journal is None:
                path = f"{self._mailbox}/{_JOURNAL}{next(self._numbers)}"
                journal = self._journals[asker] = _Journal(path, asker)
            journal.add(frame, self._unsent[asker])

    def _send_rest(self, asker: bytes, way: Channel) -> None:
        frames = self._unsent.get(asker)
        while frames and way.try_send(frames[0]):
            frames.popleft()
        if frames:
            return
        self._forget(asker)
        self._poll.modify(way.file, 0)
        # There was nothing to send, so it has ended, unless the event was of another one that had this descriptor.
        if frames is None and _waiting.is_ready(way.file, 0):
            way.fail()

    def _meet(self, asker: bytes) -> Channel:
        way = channel(os.fsdecode(asker), "asker")
        way.find_ending = _unknown
        try:
            way.open()
        except ActorError:
            return way
        self._poll.register(way.file, 0)  # only its end, which is always reported
        self._ways[asker] = way
        if len(self._ways) > _MAX_OPEN:
            idle = next((other for other in self._ways if other not in self._unsent and other != asker), None)
            if idle is not None:
                self._poll.unregister(self._ways.pop(idle).file)
        return way

    def _forget(self, asker: bytes) -> None:
        self._unsent.pop(asker, None)
        if journal := self._journals.pop(asker, None):
            _runtime.unlink(journal.path)

    def _part(self, asker: bytes) -> None:
        self._forget(asker)
        self._close_lane(asker)
        way = self._ways.pop(asker, None)
        if way is not None:
            self._poll.unregister(way.file)
            _runtime.remove_abandoned(way.mailbox)
