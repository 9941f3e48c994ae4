"""Messages that were accepted and will not be executed: counted, and logged once, when their actor ends."""

from __future__ import annotations

import collections
import contextlib
import os
import time
from collections.abc import Callable, Iterator

from . import _files, _inbox, _wire
from ._log import log

#: Of so many messages, so many methods are named; the others are only counted.
_NAMED, _SHOWN = 1_000, 5
#: How long those who send get to learn that nobody reads any more, in seconds.
_LEARN = 0.001


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

    While somebody reads, senders can't know that it has ended. So it is looked again when nobody has the FIFO open,
    which ends them; until nothing has come meanwhile.
    """
    way = -1
    try:
        while True:
            fifo = os.open(f"{mailbox}/fifo", os.O_RDONLY | os.O_NONBLOCK)
            try:
                if way < 0:
                    way = os.open(f"{mailbox}/fifo", os.O_WRONLY)  # the kernel keeps what is in there meanwhile
                    let_go()
                inbox = _inbox.Inbox(f"{mailbox}/inbox", fifo)
                inbox.recover()
                inbox.pull()
                while (body := inbox.take()) is not None:
                    yield inbox.kind, body
                inbox.close()
            finally:
                os.close(fifo)
            if not _files.unread(way):
                return
            time.sleep(_LEARN)
    except OSError:  # no mailbox, or no descriptor left
        let_go()
    finally:
        if way >= 0:
            os.close(way)
