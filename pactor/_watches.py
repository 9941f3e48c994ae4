"""The ends of others that an actor wants to be told of."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from . import _wire
from ._errors import ActorError

if TYPE_CHECKING:
    from ._channel import Channel
    from ._proxy import Proxy
    from ._waiting import Poll

    Watch = tuple[Proxy, Callable[..., object]]


class Watches:
    """What one actor watches; ``poll`` is what it waits with, and ``own`` its way to itself."""

    def __init__(self, poll: Poll, own: Channel) -> None:
        self._poll = poll
        self._own = own
        self._by_descriptor: dict[int, list[Watch]] = {}
        self._ended: dict[bytes, tuple[Watch, Exception]] = {}

    def __contains__(self, fd: int) -> bool:
        return fd in self._by_descriptor

    def add(self, proxy: Proxy, method: Callable[..., object]) -> None:
        """Has the method called when the other actor has ended."""
        way = proxy.__channel__
        if way is self._own:
            raise ValueError("an actor can't watch its own end; it has on_stop()")
        try:
            way.open()
        except ActorError as reason:
            self._announce((proxy, method), reason)
            return
        watches = self._by_descriptor.setdefault(way.file, [])
        watches.append((proxy, method))
        if len(watches) == 1:
            self._poll.register(way.file, 0)  # only its end, which is always reported

    def tell(self, fd: int) -> None:
        """Enqueues the calls for an actor that has ended."""
        self._poll.unregister(fd)
        for watch in self._by_descriptor.pop(fd):
            self._announce(watch, watch[0].__channel__.error())

    def take(self, token: bytes) -> tuple[Callable[..., object], tuple[object, ...]] | None:
        """The call that a message of the kind ENDED stands for; None for one that is not of this process."""
        if token not in self._ended:
            return None
        (proxy, method), reason = self._ended.pop(token)
        return method, (proxy, reason)

    def _announce(self, watch: Watch, reason: Exception) -> None:
        # Only a token goes through the mailbox: after a restart nobody watches any more, and knows it.
        token = os.urandom(8)
        self._ended[token] = watch, reason
        self._own.send(_wire.frame(_wire.ENDED | _wire.OWN, b"", token))
