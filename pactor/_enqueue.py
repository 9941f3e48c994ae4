"""Messages to oneself: what an actor's process puts into the wrapped object."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import _wire
from ._proxy import Proxy, is_dunder

if TYPE_CHECKING:
    from typing import ParamSpec

    from ._channel import Channel
    from ._loop import Loop

    P = ParamSpec("P")

NAMES = ("enqueue", "enqueue_later")


class Enqueue:
    """The type of the injected ``enqueue``: ``self.enqueue(self.method, *args, **kwargs)`` is a message to itself.

    It goes behind what is queued already. A class may declare it, for type checkers: ``enqueue: Enqueue``. Sent to
    another process it still enqueues to the same actor.
    """

    def __init__(self, proxy: Proxy, obj: object = None) -> None:
        self._proxy = proxy
        self._object = obj  # None in other processes
        self._names: dict[object, str] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._proxy,)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._proxy!r}>"

    def __call__(self, method: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> None:
        self.method(method)(*args, **kwargs)

    def method(self, method: Callable[..., object]) -> Callable[..., None]:
        """The method of the proxy that has this method executed."""
        if self._names is None:
            names: dict[object, str] = {}
            for name in dir(self._proxy):
                if not is_dunder(name):
                    with contextlib.suppress(TypeError):  # what can't be hashed is no method
                        names[getattr(self._proxy, name).__function__] = name
            self._names = names  # when it is complete: other threads look into it
        whose = getattr(method, "__self__", None)
        is_own = self._object is None or whose is None or whose is self._object or isinstance(whose, type)
        try:
            its_name = self._names.get(getattr(method, "__func__", method)) if is_own else None
        except TypeError:  # it can't be hashed
            its_name = None
        if its_name is None:
            raise TypeError(
                f"enqueue() takes a method of its own object, as in self.enqueue(self.method), not {method!r}"
            )
        found: Callable[..., None] = getattr(self._proxy, its_name)
        return found


class EnqueueLater(Enqueue):
    """The type of the injected ``enqueue_later``: ``self.enqueue_later(seconds, self.method, *args, **kwargs)``.

    The message is enqueued after so many seconds, never earlier; messages of equal deadlines in the order of the
    calls. Returns a handle; its ``cancel()`` has the message not enqueued. What is still waiting when the actor ends is
    dropped.
    """

    def __init__(self, proxy: Proxy, obj: object = None, loop: Loop | None = None) -> None:
        super().__init__(proxy, obj)
        self._loop = loop

    def __call__(  # type: ignore[override]
        self, delay: float, method: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs
    ) -> Timer:
        if self._loop is None:
            raise RuntimeError("enqueue_later() works in its actor's own process only")
        try:
            is_delay = 0 <= delay < math.inf
        except TypeError:
            raise TypeError(f"the delay must be a number of seconds, not {delay!r}") from None
        if not is_delay:
            raise ValueError(f"the delay must be a number of seconds from 0 on, not {delay!r}")
        delay = float(delay)
        message = self.method(method)
        message.__check__(self._proxy, *args, **kwargs)  # type: ignore[attr-defined]
        way = self._proxy.__channel__
        return self._loop.later(delay, way.pack(_wire.ITEM, b"", (message.__name__, args, kwargs)))


class Timer:
    """A message that is to be enqueued later."""

    def __init__(self, way: Channel, frame: bytes) -> None:
        self._way = way
        self._frame: bytes | None = frame

    def cancel(self) -> None:
        """Has the message not enqueued, if it has not been yet."""
        frame, self._frame = self._frame, None
        if frame:
            _wire.drop(self._way.mailbox, frame)

    def _fire(self) -> None:
        frame, self._frame = self._frame, None
        if frame:
            self._way.send(frame)


def check_injectable(cls: type) -> None:
    """Raises TypeError where instances of the class can't get an ``enqueue``."""
    for name in NAMES:
        attribute = _attribute(cls, name)
        if attribute is not None and not (isinstance(attribute, _Slot) or _is_slot(attribute)):
            raise TypeError(
                f"{cls.__qualname__} has a {name!r} of its own, the name that an actor calls itself by; rename it"
            )
    if not (cls.__dictoffset__ or all(_is_slot(_attribute(cls, name)) for name in NAMES) or _is_open(cls)):
        raise TypeError(f"{cls.__qualname__} takes no attribute: derive a class from it, to be wrapped")


def inject(obj: object, **values: Enqueue) -> None:
    """Sets the attributes, past a ``__setattr__`` of the class; where an instance has no room, in the class."""
    cls = type(obj)
    for name, value in values.items():
        try:
            here = object.__getattribute__(obj, name)
        except AttributeError:
            here = None
        if here is not None and not isinstance(here, Enqueue):
            raise TypeError(f"the {cls.__qualname__} has a {name!r} of its own, the name that an actor calls itself by")
        try:
            object.__setattr__(obj, name, value)
        except AttributeError:
            setattr(cls, name, _Slot(obj, value))


class _Slot:
    """An attribute of one object that has no ``__dict__``: this process wraps just one of its class."""

    def __init__(self, obj: object, value: Enqueue) -> None:
        self._obj = obj
        self._value = value

    def __get__(self, obj: object, cls: type) -> Any:
        if obj is self._obj:
            return self._value
        raise AttributeError("only the wrapped object can enqueue")


def _attribute(cls: type, name: str) -> object:
    """What instances of the class find in it; a ``__getattr__`` may have an answer to everything."""
    for base in cls.__mro__:
        if name in base.__dict__:
            return base.__dict__[name]
    return None


def _is_slot(attribute: object) -> bool:
    return type(attribute).__name__ == "member_descriptor"


def _is_open(cls: type) -> bool:
    heap_type = 1 << 9
    immutable_type = 1 << 8
    return cls.__flags__ & (heap_type | immutable_type) == heap_type
