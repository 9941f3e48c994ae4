"""How an actor ended: the note that it leaves, and what the kernel knows where it left none.

An actor that ends by itself writes a note into its mailbox before it lets go of the FIFO. One that is killed can't;
then the kernel tells how its process ended, for as long as its parent has not reaped it, and the parent writes the
note when it does. Where the whole mailbox is gone, the actor had been closed.
"""

from __future__ import annotations

import collections
import os
import pickle
import signal
import threading
import time

from . import _inbox, _runtime, _wire
from ._dead_letters import executing
from ._errors import ActorClosed, ActorDied, ActorError, RemoteTraceback


class Ending:
    """Why an actor takes no more messages."""

    def __init__(self, closed: bool, reason: str, traceback: str = "", failed: bool = False) -> None:
        self.closed = closed  #: it was asked to end
        self.reason = reason  #: reads on after "actor 'x' "
        self.traceback = traceback  #: of the exception that ended it
        self.failed = failed  #: a restart is the remedy

    def error(self, name: str) -> ActorError:
        error = (ActorClosed if self.closed else ActorDied)(f"actor {name!r} {self.reason}")
        if self.traceback:
            error.__cause__ = RemoteTraceback(self.traceback)
        return error


#: Notes of dead actors that their owner keeps for those who ask later.
_MAX_LEFT = 256
#: How long a parent may take from reaping a process to writing the note, in seconds.
_WRITING = 0.1

CLOSED = Ending(True, "is closed")
TERMINATED = Ending(True, "was closed by SIGTERM")
INTERRUPTED = Ending(False, "was interrupted, by Ctrl-C or SIGINT")
ORPHANED = Ending(False, "ended, as the process that owned it is gone")
UNKNOWN = Ending(False, "died, and nobody could see why")


def of_exit(exitcode: int | None, pid: int, mailbox: str) -> Ending:
    """The ending of a process that left no note; ``exitcode`` as in `multiprocessing.Process`, None if it is lost."""
    if exitcode == -signal.SIGTERM:  # before it could take that as what it is
        return TERMINATED
    return Ending(False, f"died: process {pid} {_how(exitcode)}{_doing(mailbox)}", failed=True)


def _doing(mailbox: str) -> str:
    method = executing(mailbox)
    return f" while it executed {method}()" if method else ""


def found_no_room(exitcode: int | None, mailbox: str) -> bool:
    """Whether a process that was to close, and left no note, did so: it did not end in the middle of a method."""
    frame = _inbox.executing(f"{mailbox}/inbox")
    return exitcode == 0 and (frame is None or frame[0] & _wire.KIND == _wire.CLOSE)


def unsupervised(pid: int) -> Ending:
    """The ending of an actor that comes to miss its supervisor."""
    return Ending(False, f"ended, as its supervisor, process {pid}, is gone")


def of_supervisor(exitcode: int | None, pid: int) -> Ending:
    """The same, as the owner sees it."""
    return Ending(False, f"ended, as its supervisor, process {pid}, {_how(exitcode)}")


def _how(exitcode: int | None) -> str:
    if exitcode is None:
        return "ended, and its exit code is lost (the program ignores or handles SIGCHLD)"
    if exitcode >= 0:
        return f"ended with exit code {exitcode}"
    try:
        return f"was killed by {signal.Signals(-exitcode).name}"
    except ValueError:
        return f"was killed by signal {-exitcode}"


def write(mailbox: str, ending: Ending) -> None:
    """Leaves the note in the mailbox; whole or not at all."""
    temporary = f"{mailbox}/note.{os.getpid()}.{threading.get_ident()}"
    with open(temporary, "wb") as file:
        pickle.dump(ending, file)
    os.rename(temporary, f"{mailbox}/note")


def read(mailbox: str) -> Ending | None:
    """The note in the mailbox, if there is one, and a descriptor to read it with."""
    try:
        with open(f"{mailbox}/note", "rb") as file:
            ending: Ending = pickle.load(file)
            return ending
    except OSError:
        return None


def find(mailbox: str) -> Ending:
    """Finds out how the reader of ``mailbox`` ended, from outside."""
    pid = _inbox.reader(f"{mailbox}/inbox")
    deadline = time.monotonic() + _WRITING
    while True:
        if ending := read(mailbox):
            return ending
        if not os.path.isdir(mailbox):
            return CLOSED
        if (exitcode := _exitcode_of_zombie(pid)) is not None:
            break
        # The parent has reaped it, and may be about to write.
        if time.monotonic() > deadline:
            return Ending(False, f"died{_doing(mailbox)}, and nobody could see why")
        time.sleep(0.001)
    ending = of_exit(exitcode, pid, mailbox)
    # The owner may have left word just now and removed the rest, in which of_exit looked for what was executed.
    return read(mailbox) or ending


def _exitcode_of_zombie(pid: int) -> int | None:
    """Reads the exit code of a process that is gone but not reaped; None where nothing says it (Linux says it)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        status = int(fields[49])
    except (OSError, IndexError, ValueError):
        return None
    # A process that lets go of its descriptors has its exit code, but may not be a zombie yet.
    if not status and fields[0] not in b"ZX":
        return None
    return os.waitstatus_to_exitcode(status)


_left: collections.deque[str] = collections.deque()


def forget() -> None:
    """Removes the notes that this process left: it has failed, and will not be there to remove them."""
    while _left:
        _runtime.remove(_left.popleft())


os.register_at_fork(after_in_child=_left.clear)


def leave(mailbox: str, ending: Ending) -> None:
    """Leaves nothing of a mailbox but the note, for those who come late; of so many actors, the latest."""
    write(mailbox, ending)
    _runtime.remove(mailbox, keep="note")
    _left.append(mailbox)
    if len(_left) > _MAX_LEFT:
        _runtime.remove(_left.popleft())
