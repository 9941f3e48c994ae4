"""Faults: others meddle, by accident or not; and everything for a long time."""

from __future__ import annotations

import contextlib
import math
import os
import pickle
import random
import signal
import time
from pathlib import Path

import pytest
from fault_actors import Bomb, Consumer, Logged, Producer
from fault_support import Program, fault, is_stopped, need
from support import LIMIT, eventually, store, unread

from pactor import Actor, Mailbox, Restart, _runtime, _wire, ask

PICKLED = pickle.dumps(("note", (), {}))

RUBBISH = [
    bytes(300),
    b"\1\0\1" * 50,  # frames of one byte
    b"\xff\xff\1" + bytes(50),  # a huge one
    b"GET / HTTP/1.1\r\n\r\n",
    *(_wire.frame(_wire.ITEM, b"", body) for body in (b"abc", b"", pickle.dumps(1), pickle.dumps(("no", (), {})))),
    *(
        _wire.frame(_wire.ITEM | _wire.STORED, b"", name)
        for name in (b"1.1", b"", b"inbox", b"../../../etc/passwd", b"/etc/passwd", b"88.8")
    ),
    _wire.frame(_wire.ASK, b"", b"1234"),
    _wire.frame(_wire.ASK, _wire.ASK_HEAD.pack(1, 8), b"/nowhere" + PICKLED),
    _wire.frame(_wire.ASK, _wire.ASK_HEAD.pack(1, 60_000), b"/nowhere"),
    _wire.frame(_wire.VALUE, _wire.REPLY_HEAD.pack(0), PICKLED),
    _wire.frame(0x3F, b"", b"?"),
    *(random.Random(seed).randbytes(seed * 50 + 1) for seed in range(20)),
]


@fault("garbage, a corrupt length, a foreign file's name in the FIFO", "refused, logged, the actor lives")
def write_rubbish(context, tmp_path):
    log, marker, foreign = tmp_path / "log", tmp_path / "marker", tmp_path / "foreign"
    (tmp_path / store(str(tmp_path), Bomb(marker)).decode()).rename(foreign)
    with Actor(Logged.to(log), context=context) as actor:
        ask(actor.proxy.pid).result(LIMIT)
        mailbox = Path(actor.proxy.__channel__.mailbox)
        (mailbox / "88.8").symlink_to(foreign)
        fd = os.open(mailbox / "fifo", os.O_WRONLY)
        try:
            for each in RUBBISH:
                os.write(fd, each)
                eventually(lambda: not unread(fd))  # what comes behind it in the same read goes with it
                assert 1 == ask(actor.proxy.echo, 1).result(LIMIT)
        finally:
            os.close(fd)
    assert (False, True) == (marker.exists(), foreign.exists())
    for text in ("bytes that are no message", "can't be loaded here", "not the name of a payload"):
        assert text in log.read_text()


@fault("another user looks for the FIFO, writes to it, moves it", "the system refuses it all")
def act_as_another_user(context, tmp_path):
    with Actor(Logged.to(tmp_path / "log"), context=context) as actor:
        ask(actor.proxy.pid).result(LIMIT)
        mailbox = actor.proxy.__channel__.mailbox
        home = os.path.dirname(mailbox)
        attempts = {
            "list": lambda: os.listdir(home),
            "enter": lambda: os.stat(mailbox),
            "write": lambda: os.open(f"{mailbox}/fifo", os.O_WRONLY | os.O_NONBLOCK),
            "read": lambda: os.open(f"{mailbox}/inbox", os.O_RDONLY),
            "plant": lambda: os.symlink("/etc/passwd", f"{mailbox}/1.1"),
            "move": lambda: os.rename(home, f"{home}.old"),
        }
        assert [] == [name for name, refused in as_nobody(attempts).items() if not refused]
        assert 1 == ask(actor.proxy.echo, 1).result(LIMIT)


def as_nobody(attempts):
    """Which of the attempts another user is refused."""
    if os.geteuid():
        pytest.skip("only root can be another user")
    here, there = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            refused = {}
            for name, attempt in attempts.items():
                try:
                    attempt()
                    refused[name] = False
                except PermissionError:
                    refused[name] = True
            os.write(there, pickle.dumps(refused))
        finally:
            os._exit(0)
    os.close(there)
    with open(here, "rb") as pipe:
        refused = pickle.load(pipe)
    os.waitpid(pid, 0)
    return refused


@fault("another user owns the directory beforehand, or plants a link", "refused before anything is unpickled, or swept")
def plant_a_directory(context, tmp_path):
    if os.geteuid():
        pytest.skip("only root can give files away")
    marker, base, victim = tmp_path / "marker", tmp_path / "home", tmp_path / "victim"
    base.mkdir()
    base.chmod(0o1777)
    victim.mkdir(0o700)
    (victim / "file").touch()
    # A copy of a real mailbox with something in it that must not be unpickled.
    real = Mailbox()
    real.put(Bomb(marker))
    real.qsize()  # moves it into the inbox
    planted = base / f"{_runtime.PREFIX}0-planted"
    planted.mkdir(0o700)
    theirs = planted / "1-1"
    theirs.mkdir(0o700)
    os.mkfifo(theirs / "fifo", 0o600)
    (theirs / "inbox").write_bytes((Path(real.directory) / "inbox").read_bytes())
    link = base / f"{_runtime.PREFIX}0-link"
    link.symlink_to(victim)
    for path in (theirs / "fifo", theirs / "inbox", theirs, planted):
        os.chown(path, 65534, 65534)
    function, arguments = real.__reduce__()
    with pytest.raises(PermissionError, match="not a private directory of this user"):
        function(str(theirs), *arguments[1:])
    text = """
        if __name__ == "__main__":
            with Actor(Recorder(), context=context) as actor:
                say(ask(actor.proxy.echo, "mine").result(LIMIT))
    """
    with Program(context, tmp_path, text) as program:
        assert ("mine\n", "") == program.ends()
    assert {planted.name, link.name} == {*os.listdir(base)}
    assert (True, True, False) == (theirs.exists(), (victim / "file").exists(), marker.exists())


@fault("two programs at once, with the same process ids", "they never meet; the next one sweeps what they left")
def run_two_programs(context, tmp_path):
    alone = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    need(*alone, "true")
    text = """
        if __name__ == "__main__":
            with Actor(Recorder(), context=context) as actor:
                say(os.getpid(), actor.pid)
                mine = os.environ["MINE"]
                for i in range(200):
                    actor.proxy.note(mine, i)
                Recorder().wait_for("gate")
                say(ask(actor.proxy.all).result(LIMIT) == [(mine, i) for i in range(200)])
                say("ready")
                signal.pause()
    """
    with contextlib.ExitStack() as stack:
        programs = [
            stack.enter_context(Program(context, tmp_path, text, before=["env", f"MINE={name}", *alone]))
            for name in ("one", "two")
        ]
        pids = [program.says() for program in programs]
        (tmp_path / "gate").touch()
        assert [["True", "ready"]] * 2 == [[program.says() for _ in range(2)] for program in programs]
        assert pids[0] == pids[1]
        for program in programs:
            program.kill()
        programs[0].is_gone()
        assert [] == programs[0].left()


@fault("a process id is used again", "payloads and replies of the one and the other are not mixed up")
def use_a_process_id_again(context, tmp_path):
    alone = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    need(*alone, "sh", "-c", "echo 300 >/proc/sys/kernel/ns_last_pid")
    text = """
        def run_as(pid, method, *args):
            with open("/proc/sys/kernel/ns_last_pid", "w") as file:
                file.write(str(pid - 1))
            if not os.fork():
                method(*args)
                os.kill(os.getpid(), signal.SIGKILL)
            assert (pid, signal.SIGKILL) == os.wait()

        def ask_and_say(word):
            say(ask(other.proxy.echo, word).result(LIMIT))

        if __name__ == "__main__":
            with Actor(Recorder(), context=context) as actor, Actor(Recorder(), context=context) as other:
                actor.proxy.wait_for("gate")
                reached("gate")
                for i in range(3):
                    run_as(5000, actor.proxy.note, bytes([i]) * 100_000)
                    run_as(5000, ask_and_say, f"word {i}")
                open("gate", "w").close()
                say(ask(actor.proxy.all).result(LIMIT) == [bytes([i]) * 100_000 for i in range(3)])
    """
    with Program(context, tmp_path, text, before=alone) as program:
        said, errors = program.ends()
        assert ("word 0\nword 1\nword 2\nTrue\n", "") == (said, errors)
        assert [] == program.left()


@fault("soak: random kills, stops and restarts", "FIFO kept, none twice, no hang, no growth")
def soak(context, tmp_path):
    """A second of it. For minutes there is ``soak.py``."""
    choice = random.Random(0)
    paths = [tmp_path / f"consumer {number}" for number in range(2)]
    for path in paths:
        path.write_bytes(bytes(8 * 10_000))

    def progress():
        return [sum(memoryview(path.read_bytes()[: 8 * (started + 1)]).cast("Q")) for path in paths]

    def start_producer():
        nonlocal started
        started += 1
        producer = Actor(Producer(started, [consumer.proxy for consumer in consumers]), context=context)
        producer.proxy.produce()
        return producer

    def things():
        home = os.path.dirname(consumers[0].proxy.__channel__.mailbox)
        return len(os.listdir("/proc/self/fd")), len(os.listdir(home))

    started = 0
    restart = Restart(max_restarts=math.inf, backoff=0)
    with contextlib.ExitStack() as stack:
        consumers = [stack.enter_context(Actor(Consumer(path), context=context, on_failure=restart)) for path in paths]
        producers = [start_producer() for _ in range(2)]
        stack.callback(lambda: [producer.kill() or producer.join() for producer in producers])
        end, rounds = time.monotonic() + 1, 0
        while rounds < 6 or time.monotonic() < end:
            before = progress()
            what = rounds if rounds < 5 else choice.randrange(5)
            consumer, place = choice.choice(consumers), choice.randrange(len(producers))
            if what == 0:
                with contextlib.suppress(ProcessLookupError):  # it is just being restarted
                    os.kill(consumer.pid, signal.SIGKILL)
            elif what == 1:
                pid = consumer.pid
                consumer.proxy.take_and_die(rounds)
                eventually(lambda: consumer.pid != pid)  # noqa: B023
            elif what == 2:
                producers[place].kill()
                producers[place].join()
                producers[place] = start_producer()
            elif what == 3:
                producers[place].close()
                assert producers[place].join(LIMIT)
                producers[place] = start_producer()
            else:
                pid = consumer.pid
                with contextlib.suppress(ProcessLookupError, FileNotFoundError):  # the same
                    os.kill(pid, signal.SIGSTOP)
                    eventually(lambda: is_stopped(pid))  # noqa: B023
                    os.kill(pid, signal.SIGCONT)
            eventually(lambda: all(now > then + 100 for now, then in zip(progress(), before, strict=True)))  # noqa: B023
            rounds += 1
            if rounds == 5:
                early = things()
        assert [] == [path.read_text() for path in tmp_path.glob("*.wrong")]
        descriptors, mailboxes = things()
        assert descriptors <= early[0] + 5
        assert mailboxes <= early[1] + 260  # and notes of the dead
