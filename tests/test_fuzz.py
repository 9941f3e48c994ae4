"""Any bytes in a FIFO harm nobody: not its reader, not those who send to it rightly, and no file.

What is a pickle is executed, so none is made up here: what would be loaded is one that is known, a part of it, or
bytes of which the first is no opcode. PACTOR_EXAMPLES is the number of examples, as in `test_mailbox_model`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import signal
import struct
from queue import Empty

import pytest
from hypothesis import HealthCheck, example, given, settings, strategies
from support import LIMIT, PAGE, Recorder, eventually, frames_in, unread
from test_mailbox_faults import assert_works

from pactor import Actor, Mailbox, RemoteError, _inbox, _replies, _wire, ask
from pactor._inbox import Inbox

WANTED = int(os.environ.get("PACTOR_EXAMPLES", 0))
NO_OPCODE = b"\xff"
PICKLES = [pickle.dumps(obj, 5) for obj in (("note", (1,), {}), ("no such method", (), {}), [1], None, b"x" * 300)]

SIZE = struct.Struct("<H")
KINDS = [_wire.ITEM, _wire.ASK, _wire.ASK | _wire.LANED, _wire.VALUE, _wire.ERROR, _wire.NUDGE, _wire.LANE]


def fuzzed(examples):
    """To be tried with so many examples; the same ones each time, unless many are wanted."""
    return settings(
        max_examples=WANTED or examples,
        derandomize=not WANTED,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )


def is_known(body):
    """Whether loading it executes nothing, or what is known."""
    return body[:1] in (b"", NO_OPCODE) or any(body.startswith(each) or each.startswith(body) for each in PICKLES)


def is_harmless(data):
    """Whether it ends no actor, and all is known that any reader might load of it, behind whatever head it sees."""
    for kind, rest in frames_in(data):
        if kind & _wire.KIND == _wire.CLOSE:
            return False
        starts = {0, _wire.REPLY_HEAD.size}
        if len(rest) >= _wire.ASK_HEAD.size:
            starts.add(_wire.ASK_HEAD.size + _wire.ASK_HEAD.unpack_from(rest)[1])
        if not kind & _wire.STORED and not all(is_known(rest[start:]) for start in starts):
            return False
    return True


# Frames, whole and broken.

kinds = strategies.sampled_from(KINDS) | strategies.integers(0, 0x3F)
flags = strategies.sampled_from([0, _wire.OWN, _wire.STORED, _wire.STORED | _wire.OWN])
numbers = strategies.sampled_from([0, 1, 2**63, 2**64 - 1]) | strategies.integers(0, 2**64 - 1)
NAMES = b" . .. 1 1.1 1.1.1 .1 \0 1.1\0 \xff fifo inbox slots note replies /1 ../1 ../../1.1 1/../../1 ../x/fifo".split(
    b" "
)
names = strategies.sampled_from([*NAMES, *(b"1" * length for length in (255, 256, 4000))])
bodies = strategies.sampled_from(PICKLES) | strategies.binary(max_size=200).map(lambda rest: NO_OPCODE + rest)
breaks = strategies.tuples(
    strategies.sampled_from(["whole", "whole", "size", "cut", "more"]), strategies.integers(0, 65535)
)


@strategies.composite
def broken(draw, frames):
    """A frame as it is, or with a size that is not its own, or not all of it, or more than that."""
    frame = draw(frames)
    how, number = draw(breaks)
    if how == "size":
        sizes = strategies.sampled_from([0, 1, 2, 3, 4, len(frame) - 1, len(frame) + 1, number])
        return SIZE.pack(draw(sizes)) + frame[2:]
    return frame[: number % (len(frame) + 1)] if how == "cut" else frame + NO_OPCODE * (number % 50) * (how == "more")


@strategies.composite
def frames(draw, addresses=(b"", b"/", b"/nowhere", b"\0", b"\xff", b"x" * 5000)):
    kind, flag = draw(kinds), draw(flags)
    head = b""
    if kind & _wire.KIND == _wire.ASK:
        address = draw(strategies.sampled_from([*addresses]))[: _wire.MAX_FRAME // 2]
        length = draw(strategies.sampled_from([len(address), len(address), 0, 1, 65535]))
        head = _wire.ASK_HEAD.pack(draw(numbers), length) + address
    elif kind in (_wire.VALUE, _wire.ERROR):
        head = _wire.REPLY_HEAD.pack(draw(numbers))
    head = head[: draw(strategies.sampled_from([len(head), len(head), len(head), 3]))]
    return _wire.frame(kind | flag, head, draw(names if flag & _wire.STORED else bodies))


def stored(*names):
    return b"".join(_wire.frame(_wire.ITEM | _wire.STORED, b"", name) for name in names)


def rubbish(some_frames):
    """What one write brings: anything, or frames in a row."""
    several = strategies.lists(broken(some_frames), min_size=1, max_size=8).map(b"".join)
    anything = strategies.binary(min_size=1, max_size=300)
    return (
        (several | anything).map(lambda data: data[: _wire.MAX_FRAME]).filter(lambda data: data and is_harmless(data))
    )


def is_all_frames(data):
    return len(data) == sum(_wire.HEADER_SIZE + len(rest) for _, rest in frames_in(data))


@contextlib.contextmanager
def writing(mailbox):
    """A function that writes into the mailbox's FIFO as it stands."""
    fd = os.open(f"{mailbox}/fifo", os.O_WRONLY)
    try:
        yield lambda data: os.write(fd, data)
        # What comes behind rubbish before it is read is lost with it.
        eventually(lambda: not unread(fd))
    finally:
        os.close(fd)


# The reader of a FIFO is an actor, a mailbox, or an asker.


class Listener(Recorder):
    """Hears what is logged in its process."""

    def __init__(self):
        super().__init__()
        self.messages = []
        handler = logging.Handler()
        handler.emit = lambda record: self.messages.append(record.getMessage())
        logging.getLogger("pactor").addHandler(handler)
        logging.getLogger("pactor").propagate = False

    def logged(self):
        messages, self.messages = self.messages, []
        return messages


@pytest.fixture
def foreign(tmp_path):
    """Directories that are not pactor's, each with something that is named as what a mailbox has."""
    mine = f"pactor-{os.geteuid()}-x"
    for name in ("file", "link", "directory", "note", "pipe", mine):
        (tmp_path / name).mkdir()
        (tmp_path / name / "precious").write_bytes(b"precious")
    (tmp_path / mine / "fifo").write_bytes(b"precious")
    (tmp_path / "file" / "fifo").write_bytes(b"precious")
    (tmp_path / "link" / "fifo").symlink_to(tmp_path / "file" / "precious")
    (tmp_path / "directory" / "fifo").mkdir()
    (tmp_path / "note" / "note").write_bytes(NO_OPCODE)
    before = contents(tmp_path)
    yield tmp_path
    assert before == contents(tmp_path)


def climbing(foreign):
    """The name that a payload would have to have."""
    return b"../" * 20 + os.fsencode(foreign / "file" / "precious")[1:]


def contents(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("maxsize", [0, 3])
def test_an_actor_answers_whatever_came_and_says_once_that_it_was_no_message(foreign, maxsize):
    paths = [*foreign.iterdir(), foreign / "file" / "precious", foreign / "note" / ".." / "link"]
    with Actor(Listener, maxsize=maxsize) as actor:
        mailbox = actor._mailbox.directory
        before = sorted(os.listdir(mailbox))
        addresses = [mailbox.encode(), b"x" * 5000, b"", b".", b"\0", b"\xff", *(str(path).encode() for path in paths)]

        @fuzzed(100)
        @given(rubbish(frames(addresses)))
        @example(b"".join(_wire.frame(_wire.ASK, _wire.ASK_HEAD.pack(1, len(a)) + a, NO_OPCODE) for a in addresses[2:]))
        @example(stored(*NAMES, climbing(foreign)))
        @example(_wire.frame(_wire.ASK, b"", b""))
        @example(bytes(4096))
        @example(b"\1\0\1" * 1000)
        def check(data):
            with writing(mailbox) as write:
                write(data)
            messages = ask(actor.proxy.logged).result(LIMIT)
            assert (not is_all_frames(data)) == sum("are no message" in each for each in messages)
            assert len(messages) <= len(data) // _wire.HEADER_SIZE + 1

        check()
        assert before == sorted(name for name in os.listdir(mailbox) if not name.startswith("lane."))
        if maxsize:
            for number in range(2 * maxsize):
                actor.note(number)
        assert "yes" == ask(actor.proxy.echo, "yes").result(LIMIT)


@pytest.mark.parametrize("way", ["pipe", "pactor-{}-x/../pipe"])
def test_an_asker_that_is_gone_was_not_pactors_and_keeps_what_is_there(foreign, way):
    os.mkfifo(foreign / "pipe" / "fifo")
    with Actor(Recorder()) as actor:
        reader = os.open(foreign / "pipe" / "fifo", os.O_RDONLY | os.O_NONBLOCK)
        address = os.fsencode(foreign / way.format(os.geteuid()))
        with writing(actor._mailbox.directory) as write:
            write(_wire.frame(_wire.ASK, _wire.ASK_HEAD.pack(1, len(address)) + address, NO_OPCODE))
        assert "yes" == ask(actor.proxy.echo, "yes").result(LIMIT)
        assert os.read(reader, 3)[2] == _wire.ERROR
        os.close(reader)
        assert "yes" == ask(actor.proxy.echo, "yes").result(LIMIT)
    os.unlink(foreign / "pipe" / "fifo")


@pytest.mark.parametrize("maxsize", [0, 3])
def test_a_mailbox_works_whatever_came(foreign, maxsize):
    mailbox = Mailbox(maxsize)
    before = sorted(os.listdir(mailbox.directory))

    @fuzzed(60)
    @given(rubbish(frames()))
    @example(stored(b"1" * 4000))
    @example(stored(*NAMES, climbing(foreign)))
    def check(data):
        with writing(mailbox.directory) as write:
            write(data)
            mailbox.qsize() if data[0] % 2 else None
            for _ in range(len(data)):  # what can't be loaded says so to whom gets it
                with contextlib.suppress(Exception):
                    mailbox.get_nowait()
                if not unread(mailbox.fifo) and not len(mailbox.open_inbox()):
                    break
        with pytest.raises(Empty):
            mailbox.get_nowait()
        assert_works(mailbox, maxsize)

    check()
    assert before == sorted(os.listdir(mailbox.directory))


def test_what_a_killed_reader_had_in_hand_may_be_anything():
    mailbox = Mailbox(3)

    @fuzzed(60)
    @given(rubbish(frames()))
    @example(stored(b"1" * 4000))
    def check(data):
        with writing(mailbox.directory) as write:
            write(data)
            with mailbox._sole_reader(None) as inbox:
                inbox.pull()
                inbox.take()
        mailbox.put("behind")
        found = []
        for _ in range(len(data) + 1):
            with contextlib.suppress(Exception):
                found.append(mailbox.get_nowait())
        assert "behind" in found or not is_all_frames(data)
        assert_works(mailbox, 3)

    check()


def test_an_asker_gets_its_reply_whatever_came():
    with Actor(Recorder()) as actor:
        assert 1 == ask(actor.proxy.echo, 1).result(LIMIT)
        replies = _replies.replies(actor._mailbox.directory)

        @fuzzed(60)
        @given(rubbish(frames()))
        @example(_wire.frame(_wire.VALUE | _wire.STORED, _wire.REPLY_HEAD.pack(2**63), b"1" * 4000))
        def check(data):
            os.kill(actor.pid, signal.SIGSTOP)
            try:
                future = ask(actor.proxy.echo, "yes")
                owed = struct.pack("<Q", future._number)
                with writing(replies.mailbox) as write:
                    write(data)
                    replies.read_now()
                assert not future.done() or owed in data
            finally:
                os.kill(actor.pid, signal.SIGCONT)
            with contextlib.suppress(RemoteError if owed in data else ()):
                assert "yes" == future.result(LIMIT) or owed in data
            assert "yes" == ask(actor.proxy.echo, "yes").result(LIMIT)

        check()


def test_a_reply_that_can_not_be_loaded_ends_its_ask_and_no_other():
    with Actor(Recorder()) as actor:
        assert 1 == ask(actor.proxy.echo, 1).result(LIMIT)
        replies = _replies.replies(actor._mailbox.directory)
        os.kill(actor.pid, signal.SIGSTOP)
        for kind in (_wire.VALUE, _wire.ERROR):
            for flag, body in [(0, NO_OPCODE), (0, b""), (0, PICKLES[3]), (_wire.STORED, b"1" * 4000)]:
                future, other = ask(actor.proxy.echo, "one"), ask(actor.proxy.echo, "other")
                with writing(replies.mailbox) as write:
                    write(_wire.frame(kind | flag, _wire.REPLY_HEAD.pack(future._number), body))
                    replies.read_now()
                assert (True, False) == (future.done(), other.done())
                assert (kind, body) == (_wire.VALUE, PICKLES[3]) or isinstance(future.exception(), RemoteError)
                os.kill(actor.pid, signal.SIGCONT)
                assert "other" == other.result(LIMIT)
                os.kill(actor.pid, signal.SIGSTOP)
        os.kill(actor.pid, signal.SIGCONT)


# The inbox alone.

ROOM = 2 * PAGE
words = strategies.sampled_from([0, 1, 2, 3, ROOM - 3, ROOM - 2]) | strategies.integers(0, ROOM - 2)


@fuzzed(300)
@given(
    memory=strategies.binary(max_size=200) | strategies.lists(broken(frames()), max_size=8).map(b"".join),
    start=words,
    offset=words,
    state=strategies.sampled_from(range(4)),
    end=words | strategies.just(_inbox._UNKNOWN),
    data=strategies.binary(max_size=200) | broken(frames()),
)
def test_an_inbox_takes_up_whatever_is_in_it(fifo, tmp_path, memory, start, offset, state, end, data):
    """Also between what a dead reader noted and what it received."""
    path = tmp_path / "inbox"
    path.unlink(missing_ok=True)
    _inbox.create(path, fifo)
    with open(path, "r+b") as file:
        file.write(struct.pack("4Q", offset << 2 | state, end, 0, 0))
        file.seek(_inbox._FRAMES + start)
        file.write(memory[: ROOM - start])
    inbox = Inbox(path, fifo)
    try:
        in_hand = inbox.recover()
        assert in_hand is None or state in (_inbox.EXECUTING, _inbox.ASIDE)
        assert len(inbox) <= ROOM
        if data:
            os.write(fifo, data[:PAGE])
            assert inbox.pull()
        for _ in range(ROOM):
            if inbox.take() is None:
                break
        assert inbox.is_empty()
        os.write(fifo, _wire.frame(_wire.ITEM, b"", b"behind"))
        assert inbox.pull()
        assert (b"behind", None) == (inbox.take(), inbox.take())
    finally:
        inbox.close()
