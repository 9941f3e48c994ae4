"""The logger of pactor.

It has no handler of its own. Where the program configured none either, the logging module prints warnings and errors
to stderr: a message that failed is nothing to be silent about.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any


class _Log:
    """``logging.getLogger("pactor")``, imported when there is something to say: it costs more than all of pactor.

    What a handler raises, or a warning that is made an error, ends no actor.
    """

    def __getattr__(self, name: str) -> Callable[..., None]:
        import logging
        import warnings

        def say(*args: Any, **kwargs: Any) -> None:
            with contextlib.suppress(Exception), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # linecache has some for modules that were imported in an unusual way
                getattr(logging.getLogger("pactor"), name)(*args, stacklevel=2, **kwargs)

        return say


log: Any = _Log()
