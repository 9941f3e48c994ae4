"""The methods of proxies, each made after one of the wrapped class.

They are source that is filled in and compiled: so it is Python itself that checks the arguments of a call.
"""

from __future__ import annotations

import functools
import os
import pickle
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import _wire

if TYPE_CHECKING:
    import inspect

#: The hottest function of all: one system call, and no call that can be spared. No parameter is called like its names.
_SOURCE = """
def method({parameters}):
    {check}
    __way = {proxy}.__channel__
    if not __way.large:
        try:
            __body = __dumps((__name, {args}, {kwargs}), 5)
            __frame = __way.headers[__len(__body)] + __body
        except __slower:
            pass
        else:
            try:
                __write(__way.fd, __frame)
                return
            except __OSError as __error:
                if __error.errno not in __more_to_do:
                    raise
    __way.post(__item, b"", (__name, {args}, {kwargs}))
"""
_NAMES = {
    "__dumps": pickle.dumps,
    "__len": len,
    "__slower": (IndexError, *_wire.REFUSALS),  # too large for a frame, or nothing for the plain pickler
    "__write": os.write,
    "__OSError": OSError,
    "__more_to_do": _wire.MORE_TO_DO,
    "__item": _wire.ITEM,
}


def make(cls: type, name: str) -> Callable[..., None]:
    """The method of a proxy that sends the message ``name``."""
    target = getattr(cls, name)
    signature = _signature(cls, name)
    qualname = f"{cls.__qualname__}.{name}"
    check = _checker(signature, qualname)
    namespace: dict[str, Any] = {**_NAMES, "__name": name, "__check": check}
    if _is_simple(target, signature):
        proxy, *rest = signature.parameters
        args = "".join(f"{parameter}, " for parameter in rest)
        filled = {"check": "", "parameters": f"{proxy}, {args}", "proxy": proxy, "args": f"({args})", "kwargs": "{}"}
    else:
        check_all, parameters = "__check(self, *args, **kwargs)", "self, /, *args, **kwargs"
        filled = {"check": check_all, "parameters": parameters, "proxy": "self", "args": "args", "kwargs": "kwargs"}
    exec(compile(_SOURCE.format(**filled), f"<proxy of {qualname}>", "exec"), namespace)
    method: Any = namespace["method"]
    functools.update_wrapper(method, target, updated=())
    method.__name__, method.__qualname__ = name, qualname
    method.__signature__ = signature
    method.__check__ = check
    method.__function__ = getattr(target, "__func__", target)
    return method  # type: ignore[no-any-return]


def _is_simple(target: object, signature: inspect.Signature) -> bool:
    """Whether each call has just these arguments: no defaults, nor a decorator that may see which come by name."""
    if not isinstance(target, types.FunctionType) or hasattr(target, "__wrapped__"):
        return False
    parameters = signature.parameters.values()
    return all(
        parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        and parameter.default is parameter.empty
        and not parameter.name.startswith("__")
        for parameter in parameters
    )


def _signature(cls: type, name: str) -> inspect.Signature:
    import inspect

    static = inspect.getattr_static(cls, name)
    try:
        signature = inspect.signature(getattr(cls, name))
    except (TypeError, ValueError):  # some that are written in C don't tell
        return inspect.signature(lambda self, /, *args, **kwargs: None)
    if hasattr(static, "__get__") and not isinstance(static, (staticmethod, classmethod)):
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
