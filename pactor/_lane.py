"""A lane: shared memory between an asker and an actor, by which a frame passes without a write, a read or a waking.

Where an asker waits for each reply, and the actor has nothing else to do, both look for what comes next anyway (see
`_waiting.Patience`). Then most of the time of an ask is the kernel's: two writes, two reads, and the looks between.

Rules:

1. Nothing waits in a lane. `Lane.send` hands a frame to an end that looks just now, and waits until that says that it
   has it. If that takes longer than a moment, the frame goes through the FIFO after all. So what was sent is in the
   FIFO or was taken, as it would be without lanes; a kill, a stop or a long sleep changes nothing about that.
2. What goes through the FIFO after all may have been taken at the last moment. An asker drops a second reply anyway. An
   actor gets such an ask with a mark, LANED, and looks whether it was from the lane that it took that number last: by
   the next rule no later one can have come before it.
3. An actor takes from a lane only where it has seen a frame in there, and then found its FIFO and its inbox empty. So
   the order of messages is that of one FIFO, also of those that came about through a third process.
4. It first notes in its inbox what it takes and is about to execute, and then says that it has it: who finds the frame
   taken finds also whose it was. See `Inbox.set_aside`.
5. Each end has words of its own: what it sent last, what it took last, whether it looks. The first two say number and
   size of a frame, and are stored behind the frame itself; no word stands over another frame than its own. So who finds
   the same word behind its copy has a copy. That wants stores that are seen in their order. Those of x86-64 are;
   elsewhere there are no lanes.

An asker makes a lane in the actor's mailbox, and says so by a frame. An actor looks into the lane that came last; one
with coroutines into none, as an event loop only sleeps.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import threading
import time

from . import _files, _waiting, _wire

#: Where stores are seen in their order, and a frame's size is known to fit in a word.
IS_POSSIBLE = os.uname().machine == "x86_64" and _wire.MAX_FRAME == 4096

# How often one looks, each time for 0.05 us. Whether the other end has a frame: at first, and between two yields.
_AT_ONCE, _IN_TURN = range(10), range(10)
# And for what comes, before one yields or looks at all else: either takes as long as ten of these, and what comes
# meanwhile is late; but the other end may be on the same processor.
_FOR_MORE = range(30)
#: For how many seconds one yields, beyond that: the other end may be behind somebody else on its processor.
PATIENCE = 10e-6

#: In a mailbox, where its actor refuses lanes.
_REFUSAL = "no-lanes"

# The words of an end; those of the two are in cache lines of their own.
_SENT, _TAKEN, _LOOKS = range(3)
_ASKER, _ACTOR = 0, 8
_FRAMES = 128
_SIZE = _FRAMES + 2 * _wire.MAX_FRAME
_BITS = _wire.MAX_FRAME.bit_length()  # of a word, for the size; the number stands above it
_NOTHING = 0  # a word that no frame has


class Lane:
    """One end of a lane between an actor and an ``asker``."""

    def __init__(self, asker: str, mapping: mmap.mmap, mine: int, other: int) -> None:
        self.asker = os.fsencode(asker)
        #: Held by who sends, of several threads; never waited for. An exception right behind it is acquired, or right
        #: before it is released, costs the lane.
        self.sending = threading.Lock()
        self.words = memoryview(mapping)[:_FRAMES].cast("Q")
        #: Where the other end says what it hands over: something new, unless it is 0 or what was ``taken`` last. What
        #: is there now was for who had this end before.
        self.place = other + _SENT
        self.taken: int = self.words[self.place]
        self.seen = _NOTHING  # what `has_come` found there, for `peek`
        self._has_looked = False
        self._mapping = mapping
        self._mine, self._other = mine, other
        self._out, self._in = _FRAMES, _FRAMES + _wire.MAX_FRAME
        if mine == _ACTOR:
            self._out, self._in = self._in, self._out

    @classmethod
    def make(cls, mailbox: str, asker: str) -> Lane:
        """The asker's end. Raises OSError where there can't be a lane."""
        if os.path.exists(f"{mailbox}/{_REFUSAL}"):
            raise OSError(errno.EOPNOTSUPP, "its actor looks into no lane", mailbox)
        # If it had one before, what was taken from that is to be known on.
        return cls(asker, _files.mapped(path(mailbox, asker), os.O_CREAT, _SIZE), _ASKER, _ACTOR)

    @classmethod
    def open(cls, mailbox: str, asker: str) -> Lane:
        """The actor's end of a lane that is there. Raises OSError, or ValueError where that is no address."""
        return cls(asker, _files.mapped(path(mailbox, asker)), _ACTOR, _ASKER)

    def look(self, looks: bool) -> None:
        """Says whether this end looks for what comes. Who has looked will look again behind a `send`."""
        self.words[self._mine + _LOOKS] = looks
        self._has_looked = looks or self._has_looked

    def has_come(self) -> bool:
        """Looks for a moment whether the other end hands something over; then its word is in ``seen``."""
        words, place, taken = self.words, self.place, self.taken
        for _ in _FOR_MORE:
            if (word := words[place]) != taken and word:
                self.seen = word
                return True
        return False

    def is_looked_at(self) -> bool:
        """Whether the other end does."""
        return self.words[self._other + _LOOKS] != 0

    @property
    def number(self) -> int | None:
        """That of the frame that this end took last."""
        word = self.words[self._mine + _TAKEN]
        return None if word == _NOTHING else word >> _BITS

    def is_for(self, asker: bytes, number: int) -> bool:
        """Whether a reply may go this way: its ask came so, and the asker waits for it."""
        return self.words[self._mine + _TAKEN] >> _BITS == number and asker == self.asker and self.is_looked_at()

    def send(self, number: int, frame: bytes) -> bool:
        """Hands a frame over. Where that did not work, it is False: then it may have been taken, or not."""
        words, place, mine = self.words, self._other + _TAKEN, self._mine + _SENT
        word = number << _BITS | len(frame)
        if self._has_looked:
            self._has_looked = False
            words[self._mine + _LOOKS] = True
        try:
            words[mine] = _NOTHING  # no word is to stand over a frame that is not its own
            self._mapping[self._out : self._out + len(frame)] = frame
            words[mine] = word
            for _ in _AT_ONCE:
                if words[place] == word:
                    return True
            moment = time.monotonic()
            until = moment + (PATIENCE if moment >= _waiting.busy_until else 0)
            while moment < until:
                os.sched_yield()
                before, moment = moment, time.monotonic()
                if moment - before > _waiting.SLICE:
                    _waiting.busy_until = moment + _waiting.BUSY
                for _ in _IN_TURN:
                    if words[place] == word:
                        return True
            self._withdraw()
            return False
        except BaseException:  # also one that came before it was withdrawn
            self._withdraw()
            raise

    def _withdraw(self) -> None:
        """Takes back what this end has sent: it goes another way, or none, and is not to be taken later."""
        self.words[self._mine + _SENT] = _NOTHING
        self.words[self._other + _LOOKS] = 0  # the other does not, whatever it says; until it says it again

    def peek(self) -> bytes | None:
        """The frame of the word that was ``seen``, if the other end still hands it over; it is not taken yet."""
        word = self.seen
        frame = self._mapping[self._in : self._in + (word & (1 << _BITS) - 1)]
        if self.words[self.place] != word:  # it was taken back, and may be half of another
            return None
        self.taken = word
        return frame

    def take(self) -> None:
        """Says that this end has the frame that `peek` returned."""
        self.words[self._mine + _TAKEN] = self.taken

    def note(self, number: int) -> None:
        """Has ``number`` be that one from now on, where who took it was killed before it could say so."""
        self.words[self._mine + _TAKEN] = number << _BITS | 1


def refuse(mailbox: str) -> None:
    """Has nobody make a lane to an actor: it would look into none."""
    with contextlib.suppress(OSError):  # it is there, of a killed one; or there is no room, and no harm
        os.mkfifo(f"{mailbox}/{_REFUSAL}", 0o600)  # as it takes no descriptor


def path(mailbox: str, asker: str) -> str:
    """Where the lane is, in the actor's mailbox: it goes with that, if not before."""
    return f"{mailbox}/lane.{os.path.basename(asker)}"
