"""What has come of the replies to a process, until the futures that wait for it have it.

An exception may come at any instruction. What it came to is still in the inbox (see `_inbox`), or in hand here, and is
handed out once more; what a large reply is loaded from is kept until its future has it.
"""

from __future__ import annotations

import mmap
import pickle
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import _inbox, _wire
from ._errors import RemoteError
from ._future import PENDING, Future
from ._telling import revived

if TYPE_CHECKING:
    from ._lane import Lane

_reply_head = _wire.REPLY_HEAD.unpack_from


class Arrivals:
    """The replies that have come to the ``mailbox`` of a process; ``pending`` are the futures that wait for them."""

    def __init__(
        self,
        mailbox: str,
        fd: int,
        pending: dict[int, Future[Any]],
        finish: Callable[[Future[Any], object, BaseException | None], None],
    ) -> None:
        _inbox.create(f"{mailbox}/inbox", fd)
        self._mailbox = mailbox
        self._inbox = _inbox.Inbox(f"{mailbox}/inbox", fd)
        self._pending = pending
        self._finish = finish
        self._tried = -1  # the number of the reply whose loading raised last
        #: Whether an exception came, so that the inbox may not be as its reader left it.
        self.in_doubt = False
        #: What was taken from it, or from a lane, and has not come to its future.
        self.in_hand: list[tuple[int, bytes]] = []
        self._attached: dict[bytes, mmap.mmap] = {}  # what large replies are loaded from, by its name

    def close(self) -> None:
        self._inbox.close()

    def receive(self) -> int:
        """Reads what has arrived and hands it out; returns how much there was."""
        in_doubt, self.in_doubt = self.in_doubt, True
        came = self._inbox.pull()
        self.hand_out()
        self.in_doubt = in_doubt
        return came

    def receive_from(self, lane: Lane) -> None:
        """Hands out what was seen in the lane."""
        if (frame := lane.peek()) is not None:
            reply = frame[2], frame[_wire.HEADER_SIZE :]
            self.in_hand.append(reply)
            lane.take()
            self._resolve(*reply)
            self.in_hand.remove(reply)

    def hand_out(self) -> None:
        """Hands out what was received."""
        kind = self._inbox.kind  # a signal handler may have come in here between a frame and its kind
        try:
            while (body := self._inbox.take()) is not None:
                reply = self._inbox.kind, body
                self.in_hand.append(reply)
                self._resolve(*reply)
                self.in_hand.remove(reply)
        finally:
            self._inbox.kind = kind

    def resume(self) -> None:
        """Hands out what an exception came to, of the outermost leader or one within; and what is behind it."""
        self.in_doubt = True
        if (body := self._inbox.recover()) is not None and (self._inbox.kind, body) not in self.in_hand:
            self.in_hand.append((self._inbox.kind, body))
        for reply in self.in_hand.copy():
            self._resolve(*reply)
            self.in_hand.remove(reply)
        self.hand_out()
        self.in_doubt = False

    def _resolve(self, kind: int, data: bytes) -> None:
        """Hands a reply to its future. Done twice, it does nothing the second time."""
        if kind & _wire.KIND not in (_wire.VALUE, _wire.ERROR) or len(data) < _wire.REPLY_HEAD.size:
            return  # a nudge, or rubbish
        (number,) = _reply_head(data)
        body = data[_wire.REPLY_HEAD.size :]
        future = self._pending.get(number)
        if future is None:
            self._drop(kind, body)
            return
        value, error = None, None
        try:
            value = self._load(body) if kind & _wire.STORED else pickle.loads(body)
            if kind & _wire.KIND == _wire.ERROR:
                value, error = None, revived(value)
        except BaseException as failure:
            # What is no Exception is most likely a signal handler's, of the main thread; the second time, the reply's.
            is_main = threading.current_thread() is threading.main_thread()
            is_strange = is_main and not isinstance(failure, Exception)
            if is_strange and (self._tried != number or isinstance(failure, KeyboardInterrupt)):
                self._tried = number
                raise
            error = RemoteError(type(failure).__name__, f"the reply can't be loaded here: {failure}")
            error.__cause__ = failure
        try:
            self._finish(future, value, error)
        except BaseException:
            if future._state != PENDING:  # a callback's; or else the reply will be handed out again
                self._drop(kind, body)
            raise
        if kind & _wire.STORED:
            self._drop(kind, body)

    def _load(self, name: bytes) -> object:
        """Loads a large reply. It stays where it is, as an exception may come before its future has it."""
        mapping = self._attached.get(name)
        if mapping is None:
            mapping = self._attached[name] = _wire.attach(self._mailbox, name)
        return _wire.loads(mapping)

    def _drop(self, kind: int, body: bytes) -> None:
        """Gives back what a reply was loaded from, or would have been."""
        mapping = self._attached.get(body)
        if mapping is None:
            _wire.drop(self._mailbox, _wire.frame(kind, b"", body))
        else:
            _wire.give_back(self._mailbox, body, mapping)
            self._attached.pop(body, None)
