"""The logger of pactor.

It has no handler of its own. Where the program configured none either, the logging module prints warnings and errors
to stderr: a message that failed is nothing to be silent about.
"""

from __future__ import annotations

from typing import Any


class _Log:
    """``logging.getLogger("pactor")``, imported when there is something to say: it costs more than all of pactor."""

    def __getattr__(self, name: str) -> Any:
        import logging

        return getattr(logging.getLogger("pactor"), name)


log: Any = _Log()
