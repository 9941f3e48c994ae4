"""The runtime directory: private, one program's alone, and gone with it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import multiprocessing
import os
import pickle
import resource
import stat
import subprocess
import sys
import tempfile
import textwrap
import types

import pytest
from support import LIMIT, eventually

from pactor import Mailbox, _runtime


@pytest.fixture
def base(tmp_path, monkeypatch):
    """Where runtime directories are made now."""
    path = tmp_path / "base"
    path.mkdir()
    monkeypatch.setenv(_runtime.VARIABLE, str(path))
    return path


@pytest.fixture
def program(base, tmp_path, monkeypatch):
    """Starts programs; those that still run at the end of the test are ended."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    numbers = itertools.count()
    with contextlib.ExitStack() as stack:

        def start(text, *arguments, first=""):
            path = tmp_path / f"program{next(numbers)}.py"  # one that is starting may be about to read its own
            path.write_text(f"import multiprocessing, os, sys, time\n{first}\nimport pactor\n{textwrap.dedent(text)}")
            process = stack.enter_context(
                subprocess.Popen([sys.executable, path, *arguments], stdin=-1, stdout=-1, stderr=-1, text=True)
            )
            stack.callback(process.kill)
            return process

        yield start


def names(path):
    return sorted(os.listdir(path))


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
def test_is_private_whatever_the_umask(base, umask):
    before = os.umask(umask)
    try:
        home = _runtime._make()
        mailbox = home.new_mailbox()
    finally:
        os.umask(before)
    assert os.path.dirname(home.path) == str(base)
    assert [0o40700, 0o40700] == [os.stat(path).st_mode for path in (home.path, mailbox)]
    home.release()
    assert [] == names(base)


def test_all_in_a_mailbox_is_private():
    before = os.umask(0)
    try:
        mailbox = Mailbox(maxsize=3)
        mailbox.put(b"x" * 100_000)
    finally:
        os.umask(before)
    files = [os.stat(f"{mailbox.directory}/{name}") for name in names(mailbox.directory)]
    assert [0o600] * 4 == [stat.S_IMODE(status.st_mode) for status in files]


def link(path):
    path.rename(path.with_name("real"))
    path.symlink_to("real")


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (link, OSError),
        (lambda path: (path.rmdir(), path.touch(0o700)), NotADirectoryError),
        (lambda path: path.rmdir(), FileNotFoundError),
        (lambda path: path.chmod(0o710), PermissionError),
        (lambda path: path.chmod(0o740), PermissionError),
        (lambda path: path.chmod(0o701), PermissionError),
        (lambda path: path.chmod(0o777), PermissionError),
        (lambda path: os.chown(path, 12345, -1), PermissionError),
    ],
    ids=["link", "file", "nothing", "group passes", "group reads", "others pass", "all", "another's"],
)
def test_what_is_not_private_is_refused(tmp_path, spoil, error):
    path = tmp_path / "home"
    path.mkdir(0o700)
    try:
        spoil(path)
    except PermissionError:
        pytest.skip("only root can give a directory away")
    with pytest.raises(error):
        _runtime.Lease(str(path))
    with pytest.raises(error):
        _runtime.home(f"{path}/1-1")


def test_a_mailbox_in_a_directory_that_is_not_private_is_refused():
    mailbox = Mailbox()
    pickled = pickle.dumps(mailbox)
    os.chmod(mailbox.directory, 0o750)
    with pytest.raises(PermissionError, match="not a private directory"):
        pickle.loads(pickled)
    os.chmod(mailbox.directory, 0o700)
    pickle.loads(pickled).put(1)
    assert 1 == mailbox.get()


def test_is_where_the_variable_says_also_if_that_is_relative(base, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(_runtime.VARIABLE, "base")
    home = _runtime._make()
    monkeypatch.chdir("/")
    assert f"{base}/" == home.path[: len(f"{base}/")]
    home.release()
    assert [] == names(base)


def test_is_in_memory_or_else_in_the_temporary_directory(monkeypatch):
    monkeypatch.delenv(_runtime.VARIABLE, raising=False)
    monkeypatch.setattr(_runtime.os, "access", lambda *_: True)
    free = types.SimpleNamespace(f_bavail=1 << 20, f_frsize=4096)
    monkeypatch.setattr(_runtime.os, "statvfs", lambda _: free)
    assert "/dev/shm" == _runtime._base()
    free.f_bavail = 1 << 10  # it is full, but for 4 MB
    assert tempfile.gettempdir() == _runtime._base()
    free.f_bavail = 1 << 20
    monkeypatch.setattr(_runtime.os, "access", lambda *_: False)
    assert tempfile.gettempdir() == _runtime._base()


def test_a_variable_that_leads_nowhere_is_told_as_oserror(base, monkeypatch):
    monkeypatch.setenv(_runtime.VARIABLE, f"{base}/none")
    with pytest.raises(FileNotFoundError):
        _runtime._make()


@pytest.mark.parametrize("free", range(4))
def test_no_descriptor_left_is_told_as_oserror_and_leaves_nothing(base, free):
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open("/dev/null", os.O_RDONLY)
    os.close(lowest)
    home = None
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + free, before[1]))
    try:
        with contextlib.suppress(OSError):
            home = _runtime._make()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert (free > 0) == (home is not None)
    if home:
        home.release()
    assert [] == names(base)


HOLDS = """
    mailbox = pactor.Mailbox()
    mailbox.put(b"x" * 100_000)
    print(os.path.basename(os.path.dirname(mailbox.directory)), flush=True)
    input()
"""


def test_one_that_cannot_be_held_is_not_left(base, monkeypatch):
    def refuse(path):
        raise OSError(errno.EMFILE, "no descriptor")

    monkeypatch.setattr(_runtime, "_open_private", refuse)
    with pytest.raises(OSError, match="no descriptor"):
        _runtime._make()
    assert [] == names(base)


def test_what_took_the_place_of_one_that_was_removed_is_not_taken_for_it(base, monkeypatch):
    path = base / "home"
    path.mkdir(0o700)
    flock = fcntl.flock

    def replace_and_lock(fd, operation):
        path.rename(base / "old")
        path.mkdir(0o700)
        flock(fd, operation)

    monkeypatch.setattr(_runtime.fcntl, "flock", replace_and_lock)
    with pytest.raises(FileNotFoundError, match="was removed"):
        _runtime.Lease(str(path))


def test_every_program_has_its_own_and_the_next_removes_that_of_one_that_was_killed(base, program):
    programs = [program(HOLDS) for _ in range(3)]
    mine = [process.stdout.readline().strip() for process in programs]
    assert sorted(mine) == names(base)
    assert 3 == len({*mine})
    programs[0].kill()
    programs[0].wait(LIMIT)
    assert sorted(mine) == names(base)
    next_one = _runtime._make()
    assert sorted([os.path.basename(next_one.path), *mine[1:]]) == names(base)
    for process in programs[1:]:
        process.communicate("\n", timeout=LIMIT)
    assert [os.path.basename(next_one.path)] == names(base)
    next_one.release()


def test_sweeps_nothing_but_what_is_its_own(base):
    prefix = f"{_runtime.PREFIX}{os.geteuid()}-"
    (base / f"{prefix}file").touch()
    (base / f"{prefix}link").symlink_to(base / "kept")
    (base / f"{prefix}public").mkdir()
    (base / f"{_runtime.PREFIX}{os.geteuid() + 1}-1").mkdir(0o700)
    (base / "kept").mkdir(0o700)
    kept = names(base)
    (base / f"{prefix}left" / "1-1").mkdir(0o700, parents=True)
    (base / f"{prefix}left").chmod(0o700)
    (base / f"{prefix}left" / "1-1" / "1.1").touch()
    (base / f"{prefix}left" / "1-1" / "link").symlink_to(base / "kept")
    home = _runtime._make()
    assert sorted([*kept, os.path.basename(home.path)]) == names(base)
    home.release()


def test_made_again_if_a_sweeper_was_faster(base, monkeypatch):
    """Between the making and the lock nobody can tell it from one that was left."""
    mkdir = os.mkdir
    made = []

    def mkdir_and_sweep(path, mode):
        mkdir(path, mode)
        made.append(path)
        if len(made) == 1:
            _runtime._sweep(str(base))

    monkeypatch.setattr(_runtime.os, "mkdir", mkdir_and_sweep)
    home = _runtime._make()
    assert made[1:] == [home.path] == [f"{base}/{name}" for name in names(base)]
    home.release()


def test_the_last_one_to_leave_removes_it(base):
    homes = [_runtime._make()]
    homes += [_runtime.Home(homes[0].path) for _ in range(2)]
    homes[0].new_mailbox()
    for home in homes:
        assert ["1"] == ["1" for _ in names(base)]
        home.release()
        home.release()  # more than once is as good as once
    assert [] == names(base)


def leave(path, here):
    home = _runtime.Home(path)
    here.send("ready")
    here.recv()
    home.release()


def test_is_removed_also_when_all_leave_at_once(base):
    context = multiprocessing.get_context("fork")
    for _ in range(5):
        home = _runtime._make()
        ends, processes = [], []
        for _ in range(4):
            here, there = context.Pipe()
            processes.append(context.Process(target=leave, args=(home.path, there)))
            processes[-1].start()
            there.close()
            assert "ready" == here.recv()
            ends.append(here)
        for end in ends:
            end.send("go")
        home.release()
        for process, end in zip(processes, ends, strict=True):
            process.join(LIMIT)
            assert 0 == process.exitcode
            process.close()
            end.close()
        assert [] == names(base)


def test_a_forked_child_does_not_keep_it(base):
    home = _runtime._make()
    _runtime._homes[home.path] = home
    here, there = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(there)
        os.read(here, 1)
        os._exit(0)
    os.close(here)
    _runtime._leave(home)
    assert [] == names(base)
    os.close(there)
    os.waitpid(pid, 0)


def test_removes_a_directory_that_is_being_filled(base):
    """Once it is gone, nobody can put anything there."""
    (base / "full").mkdir()
    here, there = os.pipe()
    pid = os.fork()
    if not pid:
        with contextlib.suppress(FileNotFoundError):
            for number in range(10**9):
                open(base / "full" / str(number), "x").close()
                if number == 50:
                    os.write(there, b"x")
        os._exit(0)
    os.read(here, 1)
    os.close(here)
    os.close(there)
    _runtime.remove(base / "full")
    os.waitpid(pid, 0)
    assert [] == names(base)
    _runtime.remove(base / "full")


ENDS = {
    "its end": "",
    "a mailbox that lives in a cycle": "mailbox.cycle = mailbox",
    "a mailbox that was given up": "del mailbox",
    "unread mail": "mailbox.put(b'x' * 10**6); [mailbox.put(bytes(1000)) for i in range(1000)]",
    "an array": "import pickle; mailbox.put(pickle.PickleBuffer(b'x' * 10**6)); x = mailbox.get()",
    "threads": "import threading; [threading.Thread(target=pactor.Mailbox).start() for _ in range(9)]",
    "a fork that ends first": "os.fork() or os._exit(0); os.wait()",
    "a fork that ends as it does": "pid = os.fork(); pid and os.waitpid(pid, 0)",
    "a fork that ends last": "parent = os.getpid()\nif not os.fork():\n while os.getppid() == parent: time.sleep(.01)",
    "a subprocess": "import subprocess; subprocess.Popen('cat')",
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_nothing_is_left_of_a_program_after(base, program, end):
    process = program(f"mailbox = pactor.Mailbox(5000)\nmailbox.put(1)\n{end}")
    assert 0 == process.wait(LIMIT)
    eventually(lambda: [] == names(base), lambda: names(base))


#: Holds a forked process, before pactor's first moment in it, until `os.write(there, ...)`.
HOLD_FORKS = "here, there = os.pipe(); os.register_at_fork(after_in_child=lambda: os.read(here, 1))"


def test_a_forked_process_has_the_mailbox_from_its_first_moment_and_removes_it(base, program):
    process = program(
        """
        mailbox = pactor.Mailbox()
        if pid := os.fork():
            directory = mailbox.directory
            del mailbox
            print(os.path.exists(directory), end=" ")
            os.write(there, b"x")
            os.waitpid(pid, 0)
            print(os.path.exists(directory))
        """,
        first=HOLD_FORKS,
    )
    assert ("True False\n", "") == process.communicate(timeout=LIMIT)
    assert [] == names(base)


def test_a_forked_process_has_the_home_from_its_first_moment(base, program):
    process = program(
        """
        def work(mailbox):
            mailbox.put(bytes(1_000_000))
            print(len(mailbox.get()))

        multiprocessing.get_context("fork").Process(target=work, args=(pactor.Mailbox(),)).start()
        multiprocessing.util.Finalize(None, os.write, (there, b"x"), exitpriority=0)
        """,
        first=HOLD_FORKS,
    )
    assert ("1000000\n", "") == process.communicate(timeout=LIMIT)
    assert [] == names(base)


def test_a_mailbox_outlives_the_program_that_made_it(base, program, context):
    """multiprocessing waits for its processes at exit, behind what else is done then."""
    process = program(
        """
        def work(mailbox, end):
            end.send("ready")
            end.recv()
            mailbox.put(b"y" * 1_000_000)  # for which there must still be a place
            print(len(mailbox.get()), mailbox.get(), len(mailbox.get()))

        if __name__ == "__main__":
            context = multiprocessing.get_context(sys.argv[1])
            here, there = context.Pipe()
            mailbox = pactor.Mailbox()
            mailbox.put(b"x" * 1_000_000)
            mailbox.put(2)
            context.Process(target=work, args=(mailbox, there)).start()
            here.recv()
            multiprocessing.util.Finalize(None, here.send, ("gone",), exitpriority=0)
        """,
        context.get_start_method(),
    )
    assert ("1000000 2 1000000\n", "") == process.communicate(timeout=LIMIT)
    assert [] == names(base)


def test_mailboxes_of_two_homes_can_be_held_at_once(base):
    """As where two processes that made their own before they met exchange them."""
    other = _runtime._make()
    directory = other.new_mailbox()
    assert other.path == _runtime.home(directory).path
    assert other.path != _runtime.home().path
    other.release()
    assert [os.path.basename(other.path)] == names(base)
    _runtime._leave(_runtime._homes[other.path])
    assert [] == names(base)


def test_a_place_where_others_may_rename_it_is_refused(base, monkeypatch):
    monkeypatch.setenv(_runtime.VARIABLE, str(base))
    base.chmod(0o777)
    with pytest.raises(PermissionError, match="PACTOR_DIR"):
        _runtime._make()
    assert [] == names(base)
    base.chmod(0o1777)  # as /tmp is
    _runtime._make().release()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_place_of_another_user_is_refused(base, monkeypatch):
    monkeypatch.setenv(_runtime.VARIABLE, str(base))
    os.chown(base, 1, -1)
    with pytest.raises(PermissionError, match="PACTOR_DIR"):
        _runtime._make()


def test_mailboxes_of_killed_processes_are_removed_after_a_while(base):
    """Those that still have a reader stay, and those that are new: somebody may want to know how they ended."""
    home = _runtime._make()
    child = os.fork()
    if not child:
        try:
            for _ in range(3):
                os.mkfifo(f"{home.new_mailbox()}/fifo", 0o600)
            home.new_mailbox()  # of one that is dead there may be but its note
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    new, read, old, empty = [f"{child}-{number}" for number in range(1, 5)]
    for name in (read, old, empty):
        os.utime(f"{home.path}/{name}", (1, 1))
    fd = os.open(f"{home.path}/{read}/fifo", os.O_RDONLY | os.O_NONBLOCK)
    assert sorted([new, read, os.path.basename(home.new_mailbox())]) == names(home.path)
    os.close(fd)
    home.new_mailbox()
    assert read in names(home.path)  # it does not look each time
    home._sweep_at = 0
    os.mkdir(f"{home.path}/blocks.{child}.0123")
    os.mkdir(f"{home.path}/blocks.{os.getpid()}.0123")
    home.new_mailbox()
    assert {read, f"blocks.{child}.0123"}.isdisjoint(names(home.path))
    assert f"blocks.{os.getpid()}.0123" in names(home.path)
    home.release()


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_a_place_may_have_any_name(base, program, monkeypatch, method):
    place = os.fsencode(base) + b"/\xff"
    os.mkdir(place)
    monkeypatch.setenv(_runtime.VARIABLE, os.fsdecode(place))
    process = program(
        """
        class Echo:
            def echo(self, value):
                return value

        if __name__ == "__main__":
            with pactor.Actor(Echo(), context=multiprocessing.get_context(sys.argv[1])) as actor:
                for size in (1, 100_000):
                    assert bytes(size) == pactor.ask(actor.proxy.echo, bytes(size)).result(60)
        """,
        method,
    )
    assert ("", "") == process.communicate(timeout=LIMIT)
