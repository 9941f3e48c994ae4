"""The proxy: what other processes hold of an actor. It has a method for each method of the wrapped class.

A call is a message, ``(name, args, kwargs)``. It is checked against the method's signature and pickled in the
caller: what is wrong raises there, and the actor never hears of it.

A proxy pickles to its address and the name of its class. The class is imported where the proxy is used, not where it
only travels through.
"""

from __future__ import annotations

import contextlib
import functools
import signal
import sys
import types
import weakref
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, overload

from . import _methods
from ._channel import Channel, channel

if TYPE_CHECKING:
    import concurrent.futures
    from typing import ParamSpec, TypeVar

    from ._future import Future
    from ._replies import Replies

    P = ParamSpec("P")
    R = TypeVar("R")

_FUNCTIONS = (types.FunctionType, types.MethodType, types.BuiltinFunctionType)
#: What actors of this process wrap, by their mailboxes: by its name it might be another class by now.
_known: dict[str, type] = {}
_classes: weakref.WeakKeyDictionary[type, type[Proxy]] = weakref.WeakKeyDictionary()


class Proxy:
    """Stands for an actor, in any process: calling a method sends a message and returns None at once."""

    # Only dunder names: every other one is free for the wrapped class.
    __slots__ = ("__channel__", "__target__", "__weakref__")
    __channel__: Channel
    #: What its class was made of, see `_source`.
    __source__: dict[str, object]
    #: Module and qualified name of the wrapped class.
    __target__: tuple[str, str]

    def __init__(self, way: Channel, target: tuple[str, str]) -> None:
        self.__channel__ = way
        self.__target__ = target

    def __reduce__(self) -> tuple[Any, ...]:
        return _proxy, (self.__channel__.mailbox, self.__channel__.name, *self.__target__)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Proxy):
            return NotImplemented
        return self.__channel__.mailbox == other.__channel__.mailbox

    def __hash__(self) -> int:
        return hash(self.__channel__.mailbox)

    def __repr__(self) -> str:
        return f"<proxy of {self.__target__[1]} {self.__channel__.name!r}>"

    def __getattr__(self, name: str) -> Any:
        """Makes this the proxy of its class, at the first use in a process that it was sent to."""
        if not is_dunder(name):
            complete(self)
            with contextlib.suppress(AttributeError):  # also where another thread has just made it that
                return object.__getattribute__(self, name)
        raise AttributeError(
            f"{self.__target__[1]!r} has no method {name!r}; a proxy has methods only: to read an attribute, "
            f"ask a method that returns it"
        )

    def __setattr__(self, name: str, value: object) -> None:
        if not is_dunder(name):
            raise AttributeError(f"can't set {name!r} in another process; call a method that sets it")
        super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        complete(self)
        return list(super().__dir__())


def wrapped_class(target: object) -> type:
    """The class that an actor of this target wraps. Raises TypeError where that can't be."""
    called = target.func if isinstance(target, functools.partial) else target
    is_alias = type(target).__module__ in ("typing", "types") and isinstance(getattr(target, "__origin__", None), type)
    if is_alias or isinstance(called, (*_FUNCTIONS, Proxy)) or (called is not target and not isinstance(called, type)):
        raise TypeError(f"an actor wraps an object, its class, or a functools.partial of its class, not {target!r}")
    return called if isinstance(called, type) else type(target)


def make(cls: type, way: Channel) -> Proxy:
    """The proxy of an actor that wraps an instance of the class."""
    found = _classes.get(cls)
    if found and not _is_as_before(found, cls):
        _classes.pop(cls, None)  # a test has put something else into it, or taken it out again
    return class_for(cls)(way, (cls.__module__, cls.__qualname__))


def make_at_use(cls: type, way: Channel) -> Proxy:
    """The same, made for the class at its first use: to look at methods imports as much as the rest of an actor."""
    _known[way.mailbox] = cls
    return Proxy(way, (cls.__module__, cls.__qualname__))


def complete(proxy: Proxy) -> Proxy:
    """Makes a proxy that of its class, if it is not yet."""
    if type(proxy) is Proxy:
        known = _known.get(proxy.__channel__.mailbox)
        proxy.__class__ = class_for(_imported(*proxy.__target__) if known is None else known)
    return proxy


def class_for(cls: type) -> type[Proxy]:
    """The proxy class of a wrapped class, made once."""
    found = _classes.get(cls)
    if found is None:
        source = _source(cls)
        names = type.__dir__(cls)  # where a metaclass hides some, they are there all the same
        methods = {name: _methods.make(cls, name) for name in names if _is_method(cls, name)}
        members = {"__slots__": (), "__doc__": cls.__doc__, "__module__": cls.__module__, "__source__": source}
        found = _classes[cls] = type(f"{cls.__name__}Proxy", (Proxy,), members | methods)
    return found


def _source(cls: type) -> dict[str, object]:
    """What may become a method of its proxies, as it is in the class: functions, and what has `__get__`."""
    every = {name: value for base in reversed(cls.__mro__) for name, value in vars(base).items() if not is_dunder(name)}
    return {name: value for name, value in every.items() if callable(value) or hasattr(value, "__get__")}


def _is_as_before(proxies: type[Proxy], cls: type) -> bool:
    """Whether the proxies of a class were made of what it has now."""
    before, now = proxies.__source__, _source(cls)
    return before.keys() == now.keys() and all(before[name] is value for name, value in now.items())


def _is_method(cls: type, name: str) -> bool:
    if is_dunder(name):
        return False
    attribute = getattr(cls, name, None)
    return callable(attribute) and not isinstance(attribute, type)


def is_dunder(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


@overload
def ask(
    method: Callable[P, Coroutine[Any, Any, R] | concurrent.futures.Future[R]], /, *args: P.args, **kwargs: P.kwargs
) -> Future[R]: ...


@overload
def ask(method: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]: ...


def ask(method: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
    """Calls a method of an actor and returns a `Future` of what it returns::

        ask(counter.proxy.total).result(timeout=5)
        await ask(counter.proxy.total)  # in a coroutine

    ``method`` is a method of a proxy, the other arguments are the method's. They are checked and pickled here: raises
    TypeError where they do not fit, and what pickling raises. Raises ActorClosed or ActorDied where it is known that
    the actor takes no more messages. An exception of the method itself is raised by `Future.result`, with its type;
    the remote traceback is its ``__cause__``.
    """
    way = _checked("ask", method, args, kwargs)
    try:
        replies = _replies(way.mailbox)
    except FileNotFoundError:  # the first ask, to an actor whose program is gone
        way.open()
        raise
    return replies.ask(way, method.__name__, args, kwargs)


async def tell(method: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> None:
    """Sends a message from a coroutine, and waits where there is no room in the mailbox::

        await tell(counter.proxy.add, 5)

    That is ``counter.proxy.add(5)``, which would keep the whole event loop waiting then, and warns of it. Cancelled
    while it waits, the message is not sent, unless there was room just then. Raises what the call would raise.
    """
    way = _checked("tell", method, args, kwargs)
    from . import _awaiting

    await _awaiting.tell(way, (method.__name__, args, kwargs))


def _checked(whose: str, method: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Channel:
    """The way of the message, if it is one."""
    proxy = getattr(method, "__self__", None)
    check = getattr(method, "__check__", None)
    if not isinstance(proxy, Proxy) or check is None:
        raise TypeError(f"{whose}() takes a method of a proxy, as in {whose}(actor.proxy.method, ...), not {method!r}")
    check(proxy, *args, **kwargs)
    return proxy.__channel__


def _replies(mailbox: str) -> Replies:
    """Brings in the futures with the first ask: `concurrent.futures` imports more than all of pactor."""
    global _replies
    # A signal handler that asks meanwhile would find half of the module.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # which raises what came just before
        from ._replies import replies as _replies  # pyright: ignore[reportAssignmentType]
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return _replies(mailbox)


def _imported(module: str, qualname: str) -> type:
    import importlib

    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    assert isinstance(found, type)
    return found


def _proxy(mailbox: str, name: str, module: str, qualname: str) -> Proxy:
    cls = getattr(sys.modules.get(module), qualname, None)
    known = class_for(cls) if isinstance(cls, type) else Proxy
    return known(channel(mailbox, name), (module, qualname))
