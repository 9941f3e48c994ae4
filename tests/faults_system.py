"""Faults: the system refuses something, or user code does something to it."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import tempfile

import pytest
from fault_actors import Forker, fork_sleepers
from fault_support import SOON, Program, fault, files_in, need
from support import LIMIT, Recorder, free_descriptors, within

from pactor import Actor, ActorDied, ask


@fault("user code forks, in the caller and in an actor", "the children hold no mailbox open: a death is still noticed")
def fork_everywhere(context, tmp_path):
    """By os.fork, Process and subprocess, with threads running."""
    with Actor(Forker(), context=context) as actor:
        theirs = ask(actor.proxy.fork, context.get_start_method()).result(LIMIT)
        process, child, mine = fork_sleepers(context.get_start_method())
        try:
            reply = ask(actor.proxy.sleep, 1000)
            os.kill(actor.pid, signal.SIGKILL)
            with within(SOON), pytest.raises(ActorDied, match="SIGKILL"):
                reply.result(LIMIT)
        finally:
            for pid in (*mine, *theirs):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            os.waitpid(mine[0], 0)
            process.join()
            process.close()
            child.wait()


@fault("descriptors used up: a new actor", "OSError at the call and nothing half made, until there are enough")
def start_without_descriptors(context, tmp_path):
    """In a program, as the fork server of multiprocessing dies of a client without descriptors; the next one works."""
    text = """
        import resource
        from multiprocessing import forkserver
        def attempt(free):
            if context.get_start_method() == "forkserver":
                forkserver.ensure_running()  # or else it is started with that limit, and keeps it
            lowest = os.open("/dev/null", os.O_RDONLY)
            os.close(lowest)
            before = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + free, before[1]))
            try:
                return Actor(Recorder(), context=context)
            except OSError as error:
                failures.append(error.strerror)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, before)
        if __name__ == "__main__":
            home = os.environ["PACTOR_DIR"]
            failures = []
            with Actor(Recorder(), context=multiprocessing.get_context("fork")) as other:
                ask(other.proxy.pid).result(LIMIT)
                home = os.path.dirname(other.proxy.__channel__.mailbox)
                before = sorted(os.listdir(home))
                free = 0
                while not (actor := attempt(free)):
                    assert before == sorted(os.listdir(home))
                    assert ask(other.proxy.echo, free).result(LIMIT) == free
                    free += 1
                say(failures.count("Too many open files") > 2)
                with actor:
                    try:
                        say(ask(actor.proxy.echo, "works").result(LIMIT))
                    except ActorDied as error:  # what its process inherited may be too little for itself
                        say(error)
    """
    with Program(context, tmp_path, text) as program:
        said, errors = program.ends()
        first, second = said.splitlines()
        assert "True" == first
        assert second == "works" or "Too many open files" in second
        assert context.get_start_method() == "forkserver" or "" == errors
        assert [] == program.left()


@fault("descriptors used up: a large message", "OSError at the call, nothing was sent; small ones still work")
def send_without_descriptors(context, tmp_path):
    with Actor(Recorder(), context=context) as actor:
        ask(actor.proxy.note, "before").result(LIMIT)
        with free_descriptors(0):
            for send in (actor.proxy.note, lambda item: ask(actor.proxy.note, item)):
                send("small")
                with pytest.raises(OSError) as caught:
                    send(bytes(40_000_000))  # more than a block takes, which may be there already
                assert errno.EMFILE == caught.value.errno
        assert ["before", "small", "small"] == ask(actor.proxy.all).result(LIMIT)
        assert [] == files_in(actor.proxy)


#: Runs a program where it may mount, with nobody else seeing what it mounts.
ALONE = ["unshare", "--mount", "sh", "-ec"]


def mounted(context, tmp_path, text, mounts):
    """Runs a program with something mounted; returns what it printed, and what it left in its directory."""
    need(*ALONE, "mount -t tmpfs tmpfs /mnt")
    left = "ls -A $PACTOR_DIR >&2"
    with Program(context, tmp_path, text, before=[*ALONE, f'{mounts}; "$@"; {left}', "sh"]) as program:
        return program.ends()


FULL = """
    def failed(what):
        try:
            what()
        except OSError as error:
            return error.errno
    if __name__ == "__main__":
        home = os.environ["PACTOR_DIR"]
        with Actor(Recorder(), context=context) as actor, Actor(Eater(), context=context) as other:
            ask(actor.proxy.pid).result(LIMIT)
            ask(other.proxy.eaten).result(LIMIT)
            def mailboxes():
                place, = set(os.listdir(home)) - {"filler"}
                return sorted(name for name in os.listdir(f"{home}/{place}") if not name.startswith("blocks."))
            before = mailboxes()
            filler = open(f"{home}/filler", "wb", buffering=0)
            while not failed(lambda: filler.write(bytes(4096))):
                pass
            say(failed(lambda: actor.proxy.note(bytes(100_000))))
            say(failed(lambda: ask(actor.proxy.note, bytes(100_000))))
            say(failed(lambda: Actor(Recorder(), context=context)))
            try:
                ask(actor.proxy.repeat, b"x", 100_000).result(LIMIT)
            except RemoteError as error:
                say(error.type_name, "No space left" in str(error))
            other.proxy.wait_for("gate")
            reached("gate")
            for _ in range(40):  # for which the mailbox has room already
                other.proxy.size_of(bytes(1000))
            open("gate", "w").close()
            say(ask(other.proxy.size_of, bytes(1000)).result(LIMIT), ask(actor.proxy.all).result(LIMIT))
            say(before == mailboxes())
            os.unlink(f"{home}/filler")
            filler.close()
            say(len(ask(actor.proxy.repeat, b"x", 100_000).result(LIMIT)))
"""


@fault("the disk or /dev/shm is full", "OSError at the call, or the ask's; nothing half made, all else goes on")
def fill_the_disk(context, tmp_path):
    said, errors = mounted(context, tmp_path, FULL, 'mount -t tmpfs -o size=3m tmpfs "$PACTOR_DIR"')
    expected = [errno.ENOSPC] * 3 + ["RemoteError True", "1000 []", True, 100_000]
    expected[3] = "OSError True"
    assert "".join(f"{each}\n" for each in expected) == said
    assert "" == errors


@fault("/dev/shm is absent", "the temporary directory takes its place")
def take_shared_memory_away(context, tmp_path):
    text = WORKS.replace("if __name__", 'os.environ.pop("PACTOR_DIR", None)\n    if __name__')
    # Of /dev too little is left for anything but this.
    mounts = "mount -t tmpfs -o mode=755 tmpfs /dev && mknod -m 666 /dev/null c 1 3"
    need(*ALONE, f"{mounts} && true >/dev/null")
    said, errors = mounted(context, tmp_path, text, mounts)
    assert (f"{tempfile.gettempdir()} 200000\n", "") == (said, errors)


WORKS = """
    if __name__ == "__main__":
        with Actor(Recorder(), context=context) as actor:
            size = len(ask(actor.proxy.repeat, b"xx", 100_000).result(LIMIT))
            say(os.path.dirname(os.path.dirname(actor.proxy.__channel__.mailbox)), size)
"""


@fault("the place for its directory is read-only", "OSError at the call, which names it")
def take_write_access_away(context, tmp_path):
    text = """
        if __name__ == "__main__":
            try:
                Actor(Recorder(), context=context)
            except OSError as error:
                say(error.errno, error.filename.startswith(os.environ["PACTOR_DIR"]))
    """
    said, errors = mounted(context, tmp_path, text, 'mount -t tmpfs -o ro tmpfs "$PACTOR_DIR"')
    assert (f"{errno.EROFS} True\n", "") == (said, errors)


@fault("the place for its directory has a path of 200 characters", "all works")
def use_a_long_path(context, tmp_path):
    home = tmp_path / ("x" * max(1, 199 - len(str(tmp_path))))
    with Program(context, tmp_path, WORKS, home=home) as program:
        assert (f"{home} 200000\n", "") == program.ends()
        assert [] == program.left()
    assert 200 <= len(str(home))


REFUSED = """
    import resource
    def running():
        count = 0
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{name}/status") as file:
                    status = file.read().split()
            except OSError:
                continue
            if int(status[status.index("Uid:") + 1]) == os.getuid():
                count += int(status[status.index("Threads:") + 1])
        return count
    if __name__ == "__main__":
        failures = []
        with Actor(Recorder(), context=multiprocessing.get_context("fork")) as other:
            ask(other.proxy.pid).result(LIMIT)
            home = os.path.dirname(other.proxy.__channel__.mailbox)
            before = sorted(os.listdir(home))
            limit, actor = running(), None
            while actor is None:
                resource.setrlimit(resource.RLIMIT_NPROC, (limit, resource.getrlimit(resource.RLIMIT_NPROC)[1]))
                try:
                    actor = Actor(Recorder(), context=context)
                except Exception as error:
                    failures.append(error)
                    assert before == sorted(os.listdir(home))
                    assert ask(other.proxy.echo, limit).result(LIMIT) == limit
                limit += 1
            say(bool(failures), [repr(error) for error in failures if not isinstance(error, OSError)])
            with actor:
                say(ask(actor.proxy.echo, "works").result(LIMIT))
"""


@fault("the system refuses another process", "OSError at the call and nothing half made; the others go on")
def refuse_a_process(context, tmp_path):
    before = []
    if not os.geteuid():  # whom nothing is refused: with another's real id, and without these rights
        rights = "-sys_admin,-sys_resource"
        before = ["setpriv", "--ruid", "65534", f"--bounding-set={rights}", f"--inh-caps={rights}"]
        need(*before, "true")
    with Program(context, tmp_path, REFUSED, before=before) as program:
        said, errors = program.ends()
        assert "True []\nworks\n" == said
        assert context.get_start_method() == "forkserver" or "" == errors  # the fork server dies of it, and says so
        assert [] == program.left()


@fault("SIGKILL of the fork server", "its actors go on; join() waits for them", methods=["forkserver"])
def kill_the_fork_server(context, tmp_path):
    text = """
        from multiprocessing import forkserver
        if __name__ == "__main__":
            with Actor(Recorder(), context=context) as actor:
                actor.proxy.wait_for("gate")
                reached("gate")
                os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)
                os.waitid(os.P_PID, forkserver._forkserver._forkserver_pid, os.WEXITED | os.WNOWAIT)
                say(actor.is_alive(), actor.exitcode, actor.join(0.01))
                everything = ask(actor.proxy.all)
                actor.proxy.note("behind")
                open("gate", "w").close()
                say(everything.result(LIMIT))
                with Actor(Recorder(), context=context) as another:
                    say(ask(another.proxy.echo, "another").result(LIMIT))
            say(actor.is_alive(), actor.exitcode is not None)
    """
    with Program(context, tmp_path, text) as program:
        said, errors = program.ends()
        assert "True None False\n[]\nanother\nFalse True\n" == said
        assert ("", []) == (errors, program.left())
