"""The methods of proxies, each made after one of the wrapped class."""

from __future__ import annotations

import functools
import os
import pickle
import sys
from collections.abc import Callable, Container
from typing import TYPE_CHECKING, Any

from . import _wire

if TYPE_CHECKING:
    import inspect

    from ._proxy import Proxy

#: Where the signature has no first argument to leave out. The last is a classmethod that is written in C.
_UNBOUND = (staticmethod, classmethod, type(dict.__dict__["fromkeys"]))


def make(cls: type, name: str) -> Callable[..., None]:
    """The method of a proxy that sends the message ``name``."""
    target = getattr(cls, name)
    signature = _signature(cls, name)
    check = _checker(signature, f"{cls.__qualname__}.{name}")
    fitting = _fitting(signature)
    dumps, write = pickle.dumps, os.write
    connection, shortest = _wire.CONNECTION, _wire.SHORTEST_WITH_CONNECTION

    # The hottest function of all: one system call, and no call that can be spared.
    def method(self: Proxy, /, *args: Any, **kwargs: Any) -> None:
        if kwargs or len(args) not in fitting:
            check(self, *args, **kwargs)
        way = self.__channel__
        message: object = (name, args, kwargs)
        if not way.large:
            try:
                body = dumps(message, 5)
                size = len(body)
                if size >= shortest and body.count(connection):
                    raise pickle.PicklingError
            except _wire.REFUSALS:
                pass
            else:
                try:
                    frame = way.headers[size] + body
                except IndexError:  # too large for a frame
                    pass
                else:
                    try:
                        write(way.fd, frame)
                        return
                    except OSError as error:
                        if error.errno not in _wire.MORE_TO_DO:
                            raise
                message = _wire.Pickled(body)
        way.post(_wire.ITEM, b"", message)

    functools.update_wrapper(method, target, updated=())
    method.__name__ = name
    method.__signature__ = signature  # type: ignore[attr-defined]
    method.__check__ = check  # type: ignore[attr-defined]
    method.__function__ = getattr(target, "__func__", target)  # type: ignore[attr-defined]
    return method


def _fitting(signature: inspect.Signature) -> Container[int]:
    """How many arguments fit, beside the proxy, where none comes by name. A set is looked up faster than a range."""
    least = most = -1
    for parameter in signature.parameters.values():
        is_required = parameter.default is parameter.empty
        if parameter.kind is parameter.VAR_POSITIONAL:
            most = sys.maxsize - 1
        elif parameter.kind is parameter.KEYWORD_ONLY and is_required:
            return range(0)
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            most += 1
            least += is_required
    fitting = range(least, most + 1)
    return fitting if most >= sys.maxsize - 1 else frozenset(fitting)


def _signature(cls: type, name: str) -> inspect.Signature:
    import inspect

    static = inspect.getattr_static(cls, name)
    how: dict[str, Any] = {}
    if sys.version_info >= (3, 14):  # annotations may name what only type checkers import
        import annotationlib

        how = {"annotation_format": annotationlib.Format.FORWARDREF}
    try:
        signature = inspect.signature(getattr(cls, name), **how)
    except (TypeError, ValueError):  # some that are written in C don't tell
        return inspect.signature(lambda self, /, *args, **kwargs: None)
    if hasattr(static, "__get__") and not isinstance(static, _UNBOUND):
        return signature
    proxy = "self"
    while proxy in signature.parameters:
        proxy = f"_{proxy}"
    first = inspect.Parameter(proxy, inspect.Parameter.POSITIONAL_ONLY)
    return signature.replace(parameters=[first, *signature.parameters.values()])


def _checker(signature: inspect.Signature, qualname: str) -> Callable[..., None]:
    """A function that takes what the signature takes and does nothing: Python itself checks a call the fastest."""
    import inspect

    empty = inspect.Parameter.empty
    parameters = [
        # Defaults stay where the method is: here it only counts that there is one.
        parameter.replace(annotation=empty, default=empty if parameter.default is empty else None)
        for parameter in signature.parameters.values()
    ]
    source = str(inspect.Signature(parameters))[1:-1]
    check: Callable[..., None] = eval(f"lambda {source}: None", {})
    check.__name__ = check.__qualname__ = qualname
    return check
