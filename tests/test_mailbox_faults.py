"""The mailbox, while those that use it are killed or stopped, the system has no room, and rubbish comes."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import pickle
import random
import resource
import signal
import subprocess
import sys
import textwrap
from queue import Empty, Full

import pytest
from mailbox_workers import consume, die, get_into, item, produce, put_all, recorded
from support import LIMIT, eventually, free_descriptors, limited
from test_mailbox import BOTH, drained, exitcode, is_being_read, names

from pactor import Mailbox, _blocks, _mailbox, _runtime, _wire

LARGE = 100_000


def assert_works(mailbox, maxsize=0):
    """Also that a bounded mailbox has its slots again, once a reader has missed them."""
    with contextlib.suppress(Empty):
        mailbox.get(timeout=0.01)
    for _ in range(2):
        put_all(mailbox, range(maxsize or 3))
        if maxsize:
            with pytest.raises(Full):
                mailbox.put_nowait("one more")
        assert (maxsize or 3, [*range(maxsize or 3)]) == (mailbox.qsize(), drained(mailbox))


def rows(table):
    """All rows with one start method, each third with the others, which differ in how a process gets its mailbox."""
    return [
        pytest.param(method, *row, id=f"{name}, {method}")
        for number, (name, row) in enumerate(table.items())
        for method in ("fork", "forkserver", "spawn")[: 1 if number % 3 else 3]
    ]


# Where a process is killed. A sender puts "mine" into a mailbox with "before" in it.

SENDERS = {
    "before it does anything": ("before pactor._channel:Channel.pack", 0),
    "in the middle of a large payload": ("half os:writev", 0),
    "with a block in hand": ("before pactor._blocks:_fill", 0),
    "in the middle of a block": ("half pactor._blocks:_fill", 0),
    "before its payload has a name": ("before os:link", 0),
    "before its frame, the payload is there": ("after os:link", 0),
    "with a slot in hand": ("after pactor._slots:SenderSlots._take", 0),
    "when all is done": ("after pactor._channel:Channel.send", 1),
}


@pytest.mark.parametrize(("context", "where", "put"), rows(SENDERS), indirect=["context"])
def test_a_killed_sender_harms_nobody(start, where, put):
    mailbox = Mailbox(3)
    nothing = names(mailbox)
    mailbox.put("before")
    mine = b"x" * (50_000_000 if "writev" in where else LARGE)
    assert -signal.SIGKILL == exitcode(start(die, where, mailbox.put, mine))
    mailbox.put("behind")
    assert ["before", *[mine] * put, "behind"] == drained(mailbox)
    assert_works(mailbox, 3)
    assert nothing == names(mailbox)  # who waits for a message looks for payloads that nobody sends any more


# A reader gets from a mailbox with "first", something large, and "last" in it, after it got "first".

READERS = {
    "with the lock": ("after fcntl:flock", 0),
    "when it has received": ("after pactor._inbox:Inbox.pull", 0),
    "with an item in hand": ("after pactor._inbox:Inbox.take", 1),
    "before it has the payload": ("before pactor._wire:claim", 1),
    "when it has the payload": ("after pactor._wire:claim", 1),
    "before it gives the block back": ("before pactor._blocks:release", 1),
    "when it has said so": ("after pactor._inbox:Inbox.finish", 1),
    "with the slot of what it got": ("before pactor._slots:ReaderSlots.give", 1),
    "when it has given the slot back": ("after pactor._slots:ReaderSlots.give", 1),
    "when all is done": ("after pactor._wire:read", 1),
}


@pytest.mark.parametrize(("context", "where", "got"), rows(READERS), indirect=["context"])
def test_a_killed_reader_takes_with_it_what_it_had_in_hand_and_nothing_else(start, where, got):
    mailbox = Mailbox(3)
    nothing = names(mailbox)
    put_all(mailbox, ["first", b"x" * LARGE, "last"])
    if "pull" not in where:
        assert "first" == mailbox.get()
    assert -signal.SIGKILL == exitcode(start(die, where, mailbox.get))
    left = ["first", b"x" * LARGE, "last"] if "pull" in where else [b"x" * LARGE, "last"]
    assert left[got:] == drained(mailbox)
    assert_works(mailbox, 3)
    assert nothing == names(mailbox)


def test_a_reader_that_is_killed_while_it_waits_keeps_nobody_else_from_reading(start):
    mailbox, results = Mailbox(3), Mailbox()
    for _ in range(2):
        victim = start(mailbox.get)
        eventually(lambda: is_being_read(mailbox))
        other = start(get_into, mailbox, results, 1)
        victim.kill()
        assert -signal.SIGKILL == exitcode(victim)
        mailbox.put("on")
        assert "on" == results.get(timeout=LIMIT)
        assert 0 == exitcode(other)
        assert_works(mailbox, 3)


def test_a_sender_that_is_killed_while_it_waits_keeps_nobody_else_from_sending(start):
    mailbox = Mailbox(2)
    put_all(mailbox, "ab")
    victim, other = start(put_all, mailbox, ["mine"]), start(put_all, mailbox, ["on"])
    eventually(lambda: waits_in_poll(victim) and waits_in_poll(other))
    victim.kill()
    assert -signal.SIGKILL == exitcode(victim)
    assert ["a", "b", "on"] == [mailbox.get(timeout=LIMIT) for _ in range(3)]
    assert 0 == exitcode(other)
    assert_works(mailbox, 2)


def waits_in_poll(process):
    """Whether a process sleeps in the system call in which pactor waits."""
    with open(f"/proc/{process.pid}/wchan") as file:
        return "poll" in file.read()


def test_a_reader_that_is_killed_while_it_repairs_the_slots_keeps_nobody_from_sending(start):
    mailbox = Mailbox(2)
    assert -signal.SIGKILL == exitcode(start(die, "after pactor._slots:SenderSlots._take", mailbox.put, "lost"))
    assert -signal.SIGKILL == exitcode(start(die, "before pactor._slots:ReaderSlots._put", mailbox.get))
    mailbox.put("on", timeout=LIMIT)
    assert ["on"] == drained(mailbox)
    assert_works(mailbox, 2)


def test_slots_are_not_missed_while_something_is_queued():
    mailbox = Mailbox(2)
    mailbox.put(1)
    mailbox.repair()
    assert 1 == mailbox.qsize()
    assert_works(mailbox, 2) if mailbox.get() else None


def test_a_sender_between_its_slot_and_its_frame_keeps_its_slot(context, start):
    """However often the process that it was forked from sends meanwhile: their locks are not one."""
    mailbox = Mailbox(2)
    mailbox.put("used")
    mailbox.get()
    has_slot, go = context.Event(), context.Event()
    sender = start(put_slowly, mailbox, has_slot, go)
    assert has_slot.wait(LIMIT)
    mailbox.put("quick")
    assert "quick" == mailbox.get()
    with pytest.raises(Empty):
        mailbox.get(timeout=0.1)
    go.set()
    assert 0 == exitcode(sender)
    assert (1, "slow") == (mailbox.qsize(), mailbox.get())
    assert_works(mailbox, 2)


def put_slowly(mailbox, has_slot, go):
    send = mailbox._channel.send_without_slot

    def send_slowly(*arguments):
        has_slot.set()
        go.wait()
        return send(*arguments)

    mailbox._channel.send_without_slot = send_slowly
    mailbox.put("slow")


@pytest.mark.parametrize(("context", "maxsize"), BOTH, indirect=["context"])
def test_consumers_that_are_killed_at_random_lose_at_most_what_they_had_in_hand(start, context, tmp_path, maxsize):
    """Each item comes once, to one of them, and each sender's in order."""
    choice = random.Random(1)
    mailbox = Mailbox(maxsize)
    count, kills = 600, 8 if context.get_start_method() == "fork" else 2
    producers = [start(produce, mailbox, name, count) for name in ("a", "b")]
    paths = [tmp_path / f"{number}" for number in range(kills + 1)]
    for path in paths[:-1]:
        victim = start(consume, mailbox, path)
        wanted = choice.randrange(1, 20)
        eventually(lambda: len(recorded(path)) >= wanted or not any(each.is_alive() for each in producers))  # noqa: B023
        victim.kill()
        assert -signal.SIGKILL == exitcode(victim)
    last = start(consume, mailbox, paths[-1])
    assert [0, 0] == [*map(exitcode, producers)]
    mailbox.put(None)
    assert 0 == exitcode(last)
    found = [(sender, int(number)) for path in paths for sender, number in recorded(path)]
    assert len({*found}) == len(found)
    for sender in "ab":
        numbers = [number for who, number in found if who == sender]
        assert sorted(numbers) == numbers
    assert 2 * count - kills <= len(found) <= 2 * count
    with contextlib.suppress(Empty):
        mailbox.get(timeout=0.01)
    assert not mailbox.full()
    assert [] == [name for name in names(mailbox) if name[0].isdigit()]


@pytest.mark.parametrize(("context", "maxsize"), BOTH, indirect=["context"])
def test_producers_that_are_killed_at_random_tear_nothing_and_leave_no_gap(start, context, maxsize):
    choice = random.Random(2)
    mailbox = Mailbox(maxsize)
    count, kills = 300, 8 if context.get_start_method() == "fork" else 2
    other = start(produce, mailbox, "other", count)
    seen = {"other": 0}
    for victim in range(kills):
        process = start(produce, mailbox, victim, 10**9)
        seen[victim] = 0
        wanted = choice.randrange(1, 40)
        while seen[victim] < wanted:
            see(mailbox.get(timeout=LIMIT), seen)
        process.kill()
        assert -signal.SIGKILL == exitcode(process)
    while seen["other"] < count:
        see(mailbox.get(timeout=LIMIT), seen)
    assert 0 == exitcode(other)
    for found in drained(mailbox):
        see(found, seen)
    assert_works(mailbox, maxsize)


def see(found, seen):
    sender, _, _ = found
    assert item(sender, seen[sender]) == found
    seen[sender] += 1


def test_a_reader_that_is_stopped_holds_nobody_up_for_ever_and_goes_on_in_order(start, monkeypatch):
    monkeypatch.setattr(_mailbox, "_READER_STUCK", 0.02)
    monkeypatch.setattr(_mailbox, "_LOOK_AGAIN", 0.01)
    mailbox, results = Mailbox(), Mailbox()
    reader = start(get_into, mailbox, results, 10)
    mailbox.put(0)
    assert 0 == results.get(timeout=LIMIT)
    eventually(lambda: is_being_read(mailbox))
    os.kill(reader.pid, signal.SIGSTOP)
    sent = 1
    for size in (4000, 0):
        with pytest.raises(Full):
            while True:
                mailbox.put_nowait((sent, bytes(size)))
                sent += 1
    before = names(mailbox)
    with pytest.raises(Full):
        mailbox.put(bytes(LARGE), timeout=0.01)
    assert before == names(mailbox)
    with pytest.raises(Empty):
        mailbox.get(timeout=0.01)
    os.kill(reader.pid, signal.SIGCONT)
    assert [*range(1, 10)] == [results.get(timeout=LIMIT)[0] for _ in range(9)]
    assert 0 == exitcode(reader)
    assert [*range(10, sent)] == [number for number, _ in drained(mailbox)]
    assert_works(mailbox)


# Rubbish.


def frame_of(kind, body):
    return _wire.frame(kind, b"", body)


RUBBISH = {
    "nothing but zeros": bytes(300),
    "a size of 1": b"\1\0\1" * 50,
    "a huge size": b"\xff\xff\1" + bytes(50),
    "text": b"GET / HTTP/1.1\r\n\r\n",
    "no pickle": frame_of(_wire.ITEM, b"abc"),
    "an empty frame": frame_of(_wire.ITEM, b""),
    "a nudge": frame_of(_wire.NUDGE, b"") * 5,
    "an end": frame_of(_wire.CLOSE, b""),
    "an ask": frame_of(_wire.ASK, b"12345678"),
    "an unknown kind": frame_of(0x3F, b"?"),
    "a payload that is not there": frame_of(_wire.ITEM | _wire.STORED, b"1.1"),
    "a payload without a name": frame_of(_wire.ITEM | _wire.STORED, b""),
    "the inbox as a payload": frame_of(_wire.ITEM | _wire.STORED, b"inbox"),
    "another mailbox's file": frame_of(_wire.ITEM | _wire.STORED, b"../../../etc/passwd"),
    "half an item": frame_of(_wire.ITEM, pickle.dumps(bytes(500)))[:300],
}


@pytest.mark.parametrize("rubbish", [*RUBBISH.values(), None], ids=[*RUBBISH, "anything"])
@pytest.mark.parametrize("maxsize", [0, 3])
def test_rubbish_in_the_fifo_harms_nobody(rubbish, maxsize, caplog):
    mailbox = Mailbox(maxsize)
    before = names(mailbox)
    fd = os.open(f"{mailbox.directory}/fifo", os.O_WRONLY)
    for seed in range(1 if rubbish else 15):
        os.write(fd, rubbish or random.Random(seed).randbytes(seed * 100 + 1))
        mailbox.qsize()
        for _ in range(100):
            try:
                mailbox.get_nowait()
            except Empty:
                break
            except Exception:  # what can't be loaded says so to whom gets it
                continue
        assert_works(mailbox, maxsize)
    os.close(fd)
    assert before == names(mailbox)


def test_rubbish_in_the_hand_of_a_killed_reader_harms_nobody(start):
    mailbox = Mailbox(3)
    before = names(mailbox)
    with open(f"{mailbox.directory}/fifo", "wb") as fifo:
        fifo.write(frame_of(_wire.ITEM | _wire.STORED, b"inbox"))
    mailbox.put("behind")
    assert -signal.SIGKILL == exitcode(start(die, "before pactor._wire:claim", mailbox.get))
    assert ["behind"] == drained(mailbox)
    assert_works(mailbox, 3)
    assert before == names(mailbox)


# No room.


@pytest.mark.parametrize("maxsize", [0, 3])
def test_without_descriptors_no_mailbox_is_made_and_nothing_is_left(maxsize):
    home = _runtime.home().path
    before = sorted(os.listdir(home)), len(os.listdir("/proc/self/fd"))
    for count in itertools.count():
        made = None
        with free_descriptors(count), contextlib.suppress(OSError):
            made = Mailbox(maxsize)
        if made:
            break
        assert before == (sorted(os.listdir(home)), len(os.listdir("/proc/self/fd")))
    assert count > 3
    assert_works(made, maxsize)


@pytest.mark.parametrize("maxsize", [0, 3])
def test_without_descriptors_put_raises_oserror_and_puts_nothing(maxsize, monkeypatch):
    mailbox = Mailbox(maxsize)
    before = names(mailbox)
    monkeypatch.setattr(_blocks, "LARGEST", 0)  # or else there might be a block, which needs none
    with free_descriptors(0):
        mailbox.put("small")  # needs none
        with pytest.raises(OSError) as caught:
            mailbox.put(b"x" * LARGE)
    assert errno.EMFILE == caught.value.errno
    assert ["small"] == drained(mailbox)
    assert before == names(mailbox)
    assert_works(mailbox, maxsize)


@pytest.mark.parametrize("maxsize", [0, 500])
def test_without_room_put_raises_oserror_and_puts_nothing(maxsize):
    """Files may not grow: neither a payload, nor the inbox."""
    _blocks.forget()  # an earlier test's has room
    mailbox = Mailbox(maxsize)
    before = names(mailbox)
    sent = []
    with limited(resource.RLIMIT_FSIZE, os.stat(f"{mailbox.directory}/inbox").st_size):
        with pytest.raises(OSError) as caught:
            mailbox.put(b"x" * 10 * LARGE)
        assert errno.EFBIG == caught.value.errno
        assert before == names(mailbox)
        with pytest.raises(OSError):
            for number in range(500):
                mailbox.put((number, bytes(4000)))
                sent.append(number)
    assert len(sent) < 100
    assert sent == [number for number, _ in drained(mailbox)]
    assert_works(mailbox, maxsize if maxsize < 10 else 0)


def test_with_the_disk_full_put_raises_oserror_and_nobody_dies(tmp_path):
    """A hole in a mapped file would be SIGBUS now."""
    place = tmp_path / "full"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root can mount a small file system")
    try:
        text = """
            import os, pactor
            mailbox = pactor.Mailbox()
            home = os.path.dirname(mailbox.directory)
            filler = os.open(f"{home}/../filler", os.O_CREAT | os.O_WRONLY)
            sent, failed = 0, set()

            def fill():
                try:
                    while True:
                        os.write(filler, bytes(4096))
                except OSError:
                    pass

            for filled in (False, True, False):
                if filled:
                    fill()
                for size in [1_000_000] * 4 + [4000] * 300:
                    try:
                        mailbox.put((sent, bytes(size)))
                        sent += 1
                    except OSError as error:
                        failed.add(error.errno)
                    if filled:
                        fill()
                if filled:
                    before = sorted(os.listdir(home))
                    try:
                        pactor.Mailbox()
                    except OSError as error:
                        failed.add(error.errno)
                    else:
                        failed.add("nothing")
                    assert before == sorted(os.listdir(home))
                os.truncate(filler, 0)
                os.lseek(filler, 0, 0)
            for number in range(sent):
                if number == sent // 2:
                    fill()
                assert number == mailbox.get(timeout=5)[0]
            assert mailbox.empty()
            assert sorted(os.listdir(mailbox.directory)) == ["fifo", "inbox"]
            print(sent > 100, failed)
        """
        found = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(text)],
            env={**os.environ, "PACTOR_DIR": str(place), "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
        assert (f"True { {errno.ENOSPC} }\n", "", 0) == (found.stdout, found.stderr, found.returncode)
        assert ["filler"] == os.listdir(place)
    finally:
        subprocess.run(["umount", place], check=True)
