"""The systems: what carries the messages. A module a system, imported only in the cells that run it."""

from __future__ import annotations

import importlib
import time

#: By name: the module here and its class.
SYSTEMS = {
    "pactor": ("pactor_", "Pactor"),
    "os.pipe": ("standard", "OsPipe"),
    "mp.Pipe": ("standard", "MpPipe"),
    "mp.Queue": ("standard", "MpQueue"),
    "mp.managers": ("managers", "Managers"),
    "ProcessPool": ("pool", "ProcessPool"),
    "pykka": ("pykka_", "Pykka"),
    "Thespian": ("thespian_", "ThespianSystem"),
    "xoscar": ("xoscar_", "Xoscar"),
    "Ray": ("ray_", "Ray"),
    "dask": ("dask_", "Dask"),
}


def system(name):
    """The class of a system. Raises ImportError where it is not installed."""
    module, cls = SYSTEMS[name]
    return getattr(importlib.import_module(f"{__name__}.{module}"), cls)


class System:
    """What the workloads need. Each method has a form that suits systems which can ask; many have a better one."""

    #: What is imported to use it.
    MODULE: str
    #: How many times as few messages are enough: of a slow system for steady figures, too.
    SLOWER = 1
    #: Workloads that it can't run, and why.
    UNABLE: dict[str, str] = {}
    #: As `ask_many`, in an event loop and with asyncio.gather; None where replies can't be awaited.
    gather_many = None

    def start(self, count, writers=1):
        """Starts actors, each of which has answered. Up to ``writers`` processes send to each at a time."""
        raise NotImplementedError

    def stop(self, nodes):
        """Stops actors; returns when they have."""
        raise NotImplementedError

    def close(self):
        """Stops what is left."""

    def tell(self, node, method, *args):
        """Sends a message."""
        raise NotImplementedError

    def tell_many(self, node, method, values):
        """Sends a message for each value."""
        for value in values:
            self.tell(node, method, value)

    def ask(self, node, method, *args):
        """Sends a message and waits for its reply."""
        raise NotImplementedError

    def ask_each(self, node, method, value, count):
        """Asks so many times; returns how long each took, in seconds."""
        times = []
        for _ in range(count):
            began = time.perf_counter()
            self.ask(node, method, value)
            times.append(time.perf_counter() - began)
        return times

    def ask_many(self, node, method, values):
        """Asks for each value before it waits for the first reply."""
        raise NotImplementedError
