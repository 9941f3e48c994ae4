"""What of an exception, or a value, can be told in another process and in the log, whatever its class may do."""

from __future__ import annotations

import pickle
import sys
from typing import Any

from . import _wire
from ._errors import RemoteError, RemoteTraceback


def portable(error: BaseException) -> tuple[bytes | None, str, str, str]:
    """What of an exception travels: itself, if it can, and its text, if it can't."""
    if isinstance(error, getattr(sys.modules.get("asyncio.exceptions"), "CancelledError", ())):
        # In a coroutine of the asker's it would stand for that one's own cancellation, which nobody notices.
        from concurrent.futures import CancelledError

        error = CancelledError(*error.args).with_traceback(error.__traceback__)
    try:
        pickled = _wire.dumps(error)
    except Exception:
        pickled = None
    return pickled, type(error).__qualname__, text_of(error), traceback_of(error)


def told(error: BaseException, traceback: str = "") -> tuple[bytes, str, str, str]:
    """The same for an error of pactor's own, which was raised nowhere: with a traceback of what led to it, if any."""
    return pickle.dumps(error), type(error).__name__, str(error), traceback


def revived(reply: Any) -> BaseException:
    """The exception that `portable` took apart in another process; RemoteError where it can't be loaded here."""
    pickled, type_name, message, traceback = reply
    error: BaseException = RemoteError(type_name, message, traceback)
    if pickled is not None:
        try:
            loaded = pickle.loads(pickled)
        except Exception:
            loaded = None
        if isinstance(loaded, BaseException):
            error = loaded
    BaseException.__setattr__(error, "__cause__", RemoteTraceback(traceback) if traceback else None)
    return error


def without_loop(error: BaseException) -> BaseException:
    """The exception without the loop's own line at the top of its traceback."""
    traceback = error.__traceback__
    return error.with_traceback(traceback.tb_next or traceback) if traceback else error


def traceback_of(error: BaseException) -> str:
    try:
        import traceback
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # linecache has some for modules that were imported in an unusual way
            # Not without_loop, which would take off one more each time: a future may tell its error more than once.
            top = error.__traceback__
            return "".join(traceback.format_exception(type(error), error, top.tb_next or top if top else None))
    except Exception:  # of its __str__, or its __traceback__: whatever a class may do; or no descriptor to import with
        return f"{type(error).__name__}, whose traceback can't be shown\n"


def said(error: BaseException) -> str:
    text = text_of(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def text_of(error: BaseException) -> str:
    try:
        return str.__str__(str(error))  # of a subclass, which may not be picklable, the plain text
    except Exception:
        return "its text can't be shown"


def shown(value: object) -> str:
    try:
        text = repr(value)
    except Exception:
        text = f"a {type(value).__name__}"
    return text if len(text) <= 200 else f"{text[:200]}..."
