"""Messages that were accepted and will not be executed: counted, and logged once, when their actor ends."""

from __future__ import annotations

import collections
import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterator

from . import _files, _inbox, _wire
from ._log import log

#: Of so many messages, so many methods are named; the others are only counted.
_NAMED, _SHOWN = 1_000, 5
#: How long those who send get to learn that nobody reads any more, in seconds; and how often, at most: where some child
#: that it has forked can read, they never do.
_LEARN, _MOST_LOOKS = 0.001, 100


def method_of(mailbox: str, kind: int, body: bytes) -> str | None:
    """The name of the method that a message calls; None where it calls none. Loads nothing: that may execute code."""
    import pickletools

    with contextlib.suppress(Exception):  # of a frame that is rubbish
        if kind & _wire.KIND == _wire.ASK:
            _, _, body = _wire.split_ask(body)
        elif kind & _wire.KIND != _wire.ITEM:
            return None
        if kind & _wire.STORED:
            body = _wire.peek(mailbox, body)
        # A message is (name, args, kwargs): the first string is the name.
        return next(argument for _, argument, _ in pickletools.genops(body) if isinstance(argument, str))
    return None


def executing(mailbox: str) -> str | None:
    """The method that the reader of the mailbox was executing when it ended."""
    frame = _inbox.executing(f"{mailbox}/inbox")
    return method_of(mailbox, *frame) if frame else None


def bury(mailbox: str, text: str, is_news: bool = False, let_go: Callable[[], object] = lambda: None) -> None:
    """Takes what is left in a mailbox, and logs it: ``text`` says who has ended, and why.

    If that ``is_news``, it is logged also where nothing is left. Who has the FIFO open for reading is to ``let_go``.
    """
    methods: collections.Counter[str] = collections.Counter()
    count = 0
    for kind, body in _left(mailbox, let_go):
        # An ask is ended by the asker itself, and what the actor meant to do next is nobody's loss.
        if kind & ~_wire.STORED == _wire.ITEM:
            if count < _NAMED:
                methods[method_of(mailbox, kind, body) or "?"] += 1
            count += 1
    if count:
        names = ", ".join(f"{n} x {name}()" for name, n in methods.most_common(_SHOWN))
        more = ", ..." if count > _NAMED or len(methods) > _SHOWN else ""
        log.warning("%s; messages that it did not execute: %d (%s%s)", text, count, names, more)
    elif is_news:
        log.warning("%s", text)


def bury_killed(mailbox: str, text: str, failed: bool) -> None:
    """The same, where its reader was killed. If it ``failed`` at what it was told, nobody else says so."""
    frame = _inbox.executing(f"{mailbox}/inbox")
    bury(mailbox, text, is_news=failed and frame is not None and frame[0] & _wire.KIND == _wire.ITEM)


def _left(mailbox: str, let_go: Callable[[], object]) -> Iterator[tuple[int, bytes]]:
    """Kind and body of each frame in a mailbox but the one that was handed out last.

    While somebody reads, senders can't know that it has ended. So first nobody does, which ends them; what they sent
    meanwhile is in the FIFO. It is read, and looked again behind that, until nothing has come.
    """
    way = -1
    try:
        way = _kept(f"{mailbox}/fifo")
        let_go()
        for _ in range(_MOST_LOOKS):
            inbox = _inbox.Inbox(f"{mailbox}/inbox", way)
            inbox.recover()
            while (body := inbox.take()) is not None:
                yield inbox.kind, body
            inbox.close()
            if not _files.unread(way):
                break
            time.sleep(_LEARN)
            _receive(mailbox)
    except OSError as error:  # no mailbox, or no descriptor left
        if error.errno is None:  # a signal handler's
            raise
    finally:
        let_go()
        if way >= 0:
            os.close(way)


def _kept(fifo: str) -> int:
    """A descriptor that has the kernel keep what is in a FIFO, also when nobody reads it."""
    try:
        return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
    with _births():  # as there is no reader, for a moment this is
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        try:
            return os.open(fifo, os.O_WRONLY)
        finally:
            os.close(reader)


def _receive(mailbox: str) -> None:
    """Brings what is in the FIFO of a mailbox to its inbox."""
    with _births():
        fifo = os.open(f"{mailbox}/fifo", os.O_RDONLY | os.O_NONBLOCK)
        try:
            inbox = _inbox.Inbox(f"{mailbox}/inbox", fifo)
            inbox.recover()
            inbox.pull()
            inbox.close()
        finally:
            os.close(fifo)


def _births() -> contextlib.AbstractContextManager[object]:
    """No process that another thread forks has a FIFO open to read: senders would never learn that nobody does."""
    from ._mailbox import births  # which has this module imported

    return births
