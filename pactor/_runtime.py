"""The runtime directory: where the mailboxes of one program live.

Rules:

1. It is made on first use, with a random name and mode 0700, in memory (``/dev/shm``) where there is such a place and
   it is not full, else in the temporary directory. No two programs share one; nothing in it is trusted before its
   owner and mode were checked.
2. Every process that uses it holds a shared ``flock`` on it. The kernel drops that lock however the process ends, so
   whoever gets the exclusive one knows that nobody else is left, and removes the directory.
3. A program that makes its own first removes those that nobody holds any more: what a killed program left behind.
   What its own killed processes left, it removes when it makes further mailboxes.

A path is all the address that a mailbox needs, so one process hands it to another in a message.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
import time
import weakref
from collections.abc import Callable

from ._waiting import is_running

PREFIX = "pactor-"
#: What has to be free in shared memory, in bytes, for it to be the place: room for a hundred mailboxes.
_ROOM = 16 << 20
#: Where runtime directories are made, instead of ``/dev/shm`` or the temporary directory.
VARIABLE = "PACTOR_DIR"
#: How the directory begins that a process has its blocks in, see _blocks.
_BLOCKS = "blocks."
#: How often a process looks for mailboxes that nobody has any more, in seconds.
_SWEEP_AGAIN = 10.0
#: How long those stay for whoever wants to know how their readers ended, in seconds.
_KEPT = 60.0


class Lease:
    """A directory that this process uses, and some others may: the last to release it removes it.

    Raises FileNotFoundError where the directory is gone, and PermissionError where it is not this user's own.
    """

    _fd = -1
    _heir = -1

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = self._lock()

    def share(self) -> None:
        """Has each process that is forked from here on hold a lease of its own, from its first moment."""
        with _sharing:
            _shared.add(self)

    def make_heir(self) -> None:
        """Before a fork: a descriptor that is only inherited has but a share in the parent's lock."""
        if self._fd >= 0:
            try:
                self._heir = self._lock()
            except OSError:  # no descriptor left: the child will have to do without
                pass

    def inherit(self) -> None:
        """In the child."""
        self.forget()
        self._fd, self._heir = self._heir, -1

    def disinherit(self) -> None:
        """In the parent."""
        if self._heir >= 0:
            os.close(self._heir)
            self._heir = -1

    def release(self) -> None:
        """Lets go of the directory; the last one removes it."""
        if self._fd >= 0:
            _remove_unused(self.path, self._fd)
            self.forget()

    def forget(self, _close: Callable[[int], None] = os.close) -> None:
        """Lets go without looking back."""
        fd, self._fd = self._fd, -1  # first: a child that is forked in between would close another's
        if fd >= 0:
            _close(fd)

    __del__ = forget

    def _lock(self) -> int:
        fd = _open_private(self.path)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH)
            # Whoever removes it may have had the lock first; then the name is gone, or somebody else's.
            if not os.path.samestat(os.fstat(fd), os.stat(self.path)):
                raise FileNotFoundError(f"{self.path} was removed")
        except BaseException:
            os.close(fd)
            raise
        return fd


class Home(Lease):
    """A program's runtime directory."""

    _mailboxes = 0
    _sweep_at = 0.0

    def new_mailbox(self) -> str:
        """Makes a directory for a mailbox; returns its path. Removes those that processes left that were killed."""
        now = time.monotonic()
        if now >= self._sweep_at:
            self._sweep_at = now + _SWEEP_AGAIN
            for name in os.listdir(self.path):
                if _is_abandoned(self.path, name):
                    remove(f"{self.path}/{name}")
        while True:
            self._mailboxes += 1
            path = f"{self.path}/{os.getpid()}-{self._mailboxes}"
            try:
                os.mkdir(path, 0o700)
                return path
            except FileExistsError:  # an earlier process had the same id
                continue


def _is_abandoned(home: str, name: str) -> bool:
    """Whether this is a mailbox whose maker is gone, and that has no reader, or has the blocks of one that is gone."""
    if name.startswith(_BLOCKS):
        pid = name.split(".")[1]
        return not (pid.isdigit() and is_running(int(pid)))
    pid, dash, _ = name.partition("-")
    if not dash or not pid.isdigit() or is_running(int(pid)):
        return False
    path = f"{home}/{name}"
    try:
        if time.time() - os.stat(path).st_mtime < _KEPT:
            return False
        os.close(os.open(f"{path}/fifo", os.O_WRONLY | os.O_NONBLOCK))
    except OSError as error:
        return error.errno in (errno.ENXIO, errno.ENOENT)
    return False


#: By their paths. There is more than one where processes that made their own exchange mailboxes.
_homes: dict[str, Home] = {}


def home(neighbour: str | None = None) -> Home:
    """The runtime directory that the mailbox ``neighbour`` is in; or else this process's first, or a new one."""
    path = os.path.dirname(neighbour) if neighbour else next(iter(_homes), None)
    found = _homes.get(path) if path else None
    if found is None:
        found = Home(path) if path else _make()
        found = _homes.setdefault(found.path, found)
        _leave_at_exit(found)
        from multiprocessing import util  # see pactor/__init__.py

        # A process of multiprocessing forgets the finalizers that it inherits.
        util.register_after_fork(found, _leave_at_exit)
    return found


#: In an actor's process its own mailbox: what belongs to it goes in there, and with it.
_own: str | None = None


def belongs_to(mailbox: str) -> None:
    """Makes ``mailbox`` the place for what this process makes for itself."""
    global _own
    _own = mailbox


def new_replies(neighbour: str) -> str:
    """Makes a directory for the replies to this process, which asks ``neighbour`` first."""
    if _own is None:
        return home(None if _homes else neighbour).new_mailbox()
    # Its address is no earlier process's: late replies to that one must not come here.
    path = f"{_own}/replies.{os.urandom(8).hex()}"
    os.mkdir(path, 0o700)
    return path


#: Where this process has its blocks, see _blocks.
_blocks_path: str | None = None


def blocks(neighbour: str) -> str:
    """The directory for the blocks of this process, which sends one to ``neighbour``; removes those of dead ones."""
    global _blocks_path
    place = _own or home(None if _homes else neighbour).path
    for name in os.listdir(place):
        if name.startswith(_BLOCKS) and _is_abandoned(place, name):
            remove(f"{place}/{name}")
    if _blocks_path is None or not os.path.isdir(_blocks_path):
        path = f"{place}/{_BLOCKS}{os.getpid()}.{os.urandom(8).hex()}"
        os.mkdir(path, 0o700)
        from multiprocessing import util  # see pactor/__init__.py

        util.Finalize(None, remove, (path,), exitpriority=3)
        _blocks_path = path
    return _blocks_path


def remove(path: str, keep: str = "") -> None:
    """Removes a directory, or all in it but one file to keep; what others remove meanwhile is no error."""
    while True:
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        remove(entry.path)
                    elif entry.name != keep:
                        unlink(entry.path)
            if not keep:
                os.rmdir(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            # A sender put a file there between the look and the removal. Once the directory is gone, none can. What
            # lies in it and can't be removed has raised its own error above.
            if error.errno == errno.ENOTEMPTY:
                continue
            raise
        return


def remove_abandoned(mailbox: str) -> None:
    """Removes a mailbox whose reader, which was killed, could not; nothing that is not in a runtime directory."""
    # With a ".." in it, it may be anywhere.
    if mailbox == os.path.abspath(mailbox) and any(part.startswith(_mine()) for part in mailbox.split("/")[:-1]):
        remove(mailbox)


def unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def _make() -> Home:
    base = os.path.abspath(os.environ.get(VARIABLE) or _base())
    _check_base(base)
    _sweep(base)
    while True:
        path = f"{base}/{_mine()}{os.urandom(8).hex()}"
        os.mkdir(path, 0o700)
        try:
            return Home(path)
        except FileNotFoundError:  # swept between the two lines: a sweeper can't know better
            continue
        except BaseException:
            os.rmdir(path)
            raise


def _check_base(base: str) -> None:
    """Raises PermissionError where another user could rename what is in there, and put his own in its place."""
    status = os.stat(base)
    everyones = status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX
    if everyones or status.st_uid not in (0, os.geteuid()):
        raise PermissionError(
            f"{base} is open to other users: refusing to trust what is in it ({VARIABLE} names a place)"
        )


def _base() -> str:
    memory = "/dev/shm"
    if os.access(memory, os.R_OK | os.W_OK | os.X_OK):
        status = os.statvfs(memory)
        if status.f_bavail * status.f_frsize >= _ROOM:
            return memory
    import tempfile

    return tempfile.gettempdir()


def _sweep(base: str) -> None:
    for name in os.listdir(base):
        if name.startswith(_mine()):
            path = f"{base}/{name}"
            try:
                fd = _open_private(path)
            except OSError:
                continue
            try:
                _remove_unused(path, fd)
            finally:
                os.close(fd)


def _mine() -> str:
    return f"{PREFIX}{os.geteuid()}-"


def _remove_unused(path: str, fd: int) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    remove(path)


def _open_private(path: str) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    status = os.fstat(fd)
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        os.close(fd)
        raise PermissionError(f"{path} is not a private directory of this user: refusing to trust what is in it")
    return fd


def _leave_at_exit(home: Home) -> None:
    from multiprocessing import util  # see pactor/__init__.py

    # Behind the actors' own finalizer: they end before the place that they live in.
    util.Finalize(None, _leave, (home,), exitpriority=1)


def _leave(home: Home) -> None:
    _homes.pop(home.path, None)
    home.release()


_shared: weakref.WeakSet[Lease] = weakref.WeakSet()
#: Held while one is added, and over a fork.
_sharing = threading.RLock()


def _before_fork() -> None:
    _sharing.acquire()
    for lease in _shared:
        lease.make_heir()


def _after_fork_in_parent() -> None:
    for lease in _shared:
        lease.disinherit()
    _sharing.release()


def _after_fork_in_child() -> None:
    global _own, _blocks_path
    _own = _blocks_path = None
    _sharing.release()
    for lease in _shared:
        lease.inherit()
    for home in list(_homes.values()):
        if home in _shared:
            _leave_at_exit(home)
        else:
            home.forget()
            del _homes[home.path]


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
