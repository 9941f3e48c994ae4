"""Messages that were accepted and will not be executed: counted, and logged once, when their actor ends."""

from __future__ import annotations

import collections
import contextlib
import os

from . import _inbox, _wire
from ._log import log

#: Of so many messages, so many methods are named; the others are only counted.
_NAMED, _SHOWN = 1_000, 5


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


def bury(mailbox: str, inbox: _inbox.Inbox, text: str, is_news: bool = False) -> None:
    """Takes what is left in an inbox and in its FIFO, and logs it: ``text`` says who has ended, and why.

    If that ``is_news``, it is logged also where nothing is left.
    """
    methods: collections.Counter[str] = collections.Counter()
    count = 0
    for _ in range(2):  # what is here, and what is in the FIFO; who goes on sending learns of the end
        while (body := inbox.take()) is not None:
            # An ask is ended by the asker itself, and what the actor meant to do next is nobody's loss.
            if inbox.kind & ~_wire.STORED == _wire.ITEM:
                if count < _NAMED:
                    methods[method_of(mailbox, inbox.kind, body) or "?"] += 1
                count += 1
        inbox.pull()
    if count:
        names = ", ".join(f"{n} x {name}()" for name, n in methods.most_common(_SHOWN))
        more = ", ..." if count > _NAMED or len(methods) > _SHOWN else ""
        log.warning("%s; messages that it did not execute: %d (%s%s)", text, count, names, more)
    elif is_news:
        log.warning("%s", text)


def bury_rest(mailbox: str, fifo: int, text: str, is_news: bool = False) -> None:
    """The same, for a mailbox whose reader is gone."""
    inbox = _inbox.Inbox(f"{mailbox}/inbox", fifo)
    inbox.recover()
    bury(mailbox, inbox, text, is_news)
    inbox.close()


def bury_killed(mailbox: str, text: str, failed: bool) -> None:
    """The same, where nobody has its FIFO open. If it ``failed`` at what it was told, nobody else says so."""
    frame = _inbox.executing(f"{mailbox}/inbox")
    is_news = failed and frame is not None and frame[0] & _wire.KIND == _wire.ITEM
    try:
        fifo = os.open(f"{mailbox}/fifo", os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return
    try:
        bury_rest(mailbox, fifo, text, is_news)
    finally:
        os.close(fifo)
