"""Lanes: who is handed what, that all is as it would be without, and that nothing depends on them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import gc
import itertools
import math
import multiprocessing
import os
import pickle
import select
import signal
import stat
import threading
import time
import types

import pytest
from fault_support import is_stopped
from lane_actors import Patient, PatientCounter, ask_until_killed, look_long, with_lane
from mailbox_workers import recorded
from support import LIMIT, Interrupt, Recorder, eventually, free_descriptors, reached, results, unread

from pactor import (
    Actor,
    ActorClosed,
    ActorDied,
    DeadlockError,
    Restart,
    _answers,
    _askers,
    _lane,
    _replies,
    _waiting,
    _wire,
    ask,
)
from pactor._arrivals import Arrivals
from pactor._lane import Lane

pytestmark = pytest.mark.skipif(not _lane.IS_POSSIBLE, reason="stores are seen in any order here")

FOREVER = Restart(max_restarts=math.inf, backoff=0)


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    look_long(monkeypatch.setattr)


@pytest.fixture
def ends(tmp_path):
    """Both ends of a lane."""
    asker = Lane.make(str(tmp_path), "/somewhere/asker")
    return asker, Lane.open(str(tmp_path), "/elsewhere/asker")


def taken(lane):
    """Takes what is in a lane."""
    frame = peek(lane)
    if frame is not None:
        lane.take()
    return frame


def peek(lane):
    return lane.peek() if lane.has_come() else None


@contextlib.contextmanager
def taking(lane):
    """Another thread takes what comes through a lane, and gets the time for it."""
    found, over, patience = [], threading.Event(), _lane.PATIENCE

    def take():
        while not over.is_set():
            if (frame := taken(lane)) is not None:
                found.append(frame)

    thread = threading.Thread(target=take)
    thread.start()
    _lane.PATIENCE = LIMIT
    try:
        yield found
    finally:
        _lane.PATIENCE = patience
        over.set()
        thread.join()


def meanwhile(monkeypatch, act):
    """Has a sender wait just once, and ``act`` called then: by the clock, a busy machine may leave no time for it."""
    clock = itertools.cycle([0, 1])
    monkeypatch.setattr(_lane, "time", types.SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(os, "sched_yield", act)


# The lane alone.


@pytest.mark.parametrize("way", ["to the actor", "to the asker"])
def test_frames_are_handed_over_in_order_and_whole(ends, way):
    here, there = ends if way == "to the actor" else reversed(ends)
    frames = [bytes([n % 251]) * (n * 37 % 4096 + 1) for n in range(300)]
    with taking(there) as found:
        assert all(here.send(number, frame) for number, frame in enumerate(frames))
    assert frames == found


def test_nothing_is_there_at_first(ends):
    for end in ends:
        assert (None, False, None) == (peek(end), end.is_looked_at(), end.number)


def test_who_looks_says_so_to_the_other(ends):
    here, there = ends
    here.look(True)
    assert (True, False) == (there.is_looked_at(), here.is_looked_at())
    here.look(False)
    assert not there.is_looked_at()


def test_what_is_not_taken_soon_is_taken_back(ends):
    here, there = ends
    there.look(True)
    assert not here.send(1, b"spam")
    assert taken(there) is None
    assert not here.is_looked_at()


@pytest.mark.parametrize("is_taken", [True, False])
def test_a_sender_notes_that_others_kept_the_processor_for_long(ends, monkeypatch, is_taken):
    here, there = ends
    meanwhile(monkeypatch, lambda: is_taken and taken(there))
    monkeypatch.setattr(_waiting, "SLICE", 0.9)
    assert is_taken == here.send(1, b"spam")
    assert 1 + _waiting.BUSY == _waiting.busy_until


def test_while_others_keep_it_a_sender_does_not_yield(ends, monkeypatch):
    here, there = ends
    yields = []
    meanwhile(monkeypatch, lambda: yields.append(1))
    monkeypatch.setattr(_waiting, "busy_until", 0.5)
    assert not here.send(1, b"spam")
    assert (None, []) == (taken(there), yields)


def test_what_is_taken_is_what_was_seen(ends, monkeypatch):
    """Behind which one looks elsewhere."""
    here, there = ends
    seen = set()

    def look():
        assert there.has_come()
        seen.add(there.seen)

    meanwhile(monkeypatch, look)
    here.send(1, b"spam")
    here.send(2, b"other")
    assert 2 == len(seen)
    for there.seen in seen:
        assert there.peek() is None


@pytest.mark.parametrize("number", [0, 1, 2**40])
def test_what_was_taken_last_is_known_by_its_number(ends, tmp_path, number):
    here, there = ends
    with taking(there):
        assert here.send(number, b"spam")
    assert number == there.number
    here.send(number + 1, b"spam")
    assert taken(there) is None
    assert number == there.number
    next_one, again = Lane.open(str(tmp_path), "asker"), Lane.make(str(tmp_path), "asker")
    assert (number, None) == (next_one.number, taken(next_one))
    with taking(next_one) as found:
        assert again.send(number + 2, b"new")
    assert [b"new"] == found


def test_a_number_may_be_noted_for_who_was_killed(ends, tmp_path):
    _, there = ends
    there.note(7)
    assert 7 == Lane.open(str(tmp_path), "asker").number


@pytest.mark.parametrize("how", ["taken back", "replaced"])
def test_what_changes_while_it_is_copied_is_no_frame(ends, how, monkeypatch):
    here, there = ends

    class Changing:
        def __getitem__(self, part):
            if how == "replaced":
                monkeypatch.undo()
                here.send(2, b"other")
                return mapping[part]
            data = mapping[part]
            here.words[_lane._ASKER + _lane._SENT] = _lane._NOTHING
            return data

    def look():
        frames.append(peek(there))

    frames, mapping, there._mapping = [], there._mapping, Changing()
    meanwhile(monkeypatch, look)
    here.send(1, b"spam")
    assert frames
    assert {None} == set(frames)


def test_what_an_exception_interrupts_is_not_taken_later(ends, monkeypatch):
    here, there = ends

    def interrupt():
        raise Interrupt

    there.look(True)
    meanwhile(monkeypatch, interrupt)
    with pytest.raises(Interrupt):
        here.send(1, b"spam")
    assert taken(there) is None
    assert not here.is_looked_at()


@pytest.mark.parametrize("when", ["before", "behind"])
def test_an_exception_where_it_is_taken_back_leaves_it_to_nobody(ends, monkeypatch, when):
    here, there = ends
    withdraw = Lane._withdraw

    def hit(lane):
        monkeypatch.setattr(Lane, "_withdraw", withdraw)
        if when == "behind":
            withdraw(lane)
        raise Interrupt

    monkeypatch.setattr(Lane, "_withdraw", hit)
    with pytest.raises(Interrupt):
        here.send(1, b"spam")
    assert peek(there) is None


def test_no_word_stands_over_another_frame(ends):
    here, there = ends
    words = []

    class Watched:
        def __setitem__(self, part, data):
            words.append(here.words[there.place])
            mapping[part] = data

    with taking(there):
        assert here.send(1, b"spam")
    mapping, here._mapping = here._mapping, Watched()
    here.send(2, b"more")
    assert [_lane._NOTHING] == words


def test_what_is_there_when_it_is_opened_is_not_new(ends, tmp_path):
    """It was executed by a process that was killed, and which the supervisor speaks for."""
    here, there = ends
    with taking(there):
        assert here.send(7, b"spam")
    there.note(7)
    next_one = Lane.open(str(tmp_path), "asker")
    assert next_one.words[next_one.place] == next_one.taken


def test_is_nobodys_but_the_users(ends, tmp_path):
    (file,) = tmp_path.iterdir()
    assert 0o600 == stat.S_IMODE(file.stat().st_mode)


def test_a_link_that_was_planted_is_not_followed(tmp_path):
    other = tmp_path / "other"
    other.write_bytes(bytes(_lane._SIZE))
    (tmp_path / "lane.asker").symlink_to(other)
    for end in (Lane.make, Lane.open):
        with pytest.raises(OSError):
            end(str(tmp_path), "asker")


@pytest.fixture
def askers(tmp_path):
    return _askers.Askers(select.poll(), str(tmp_path), keeps_journal=False)


def test_an_actor_knows_what_it_took_from_a_lane_that_it_left(askers, tmp_path):
    one, other = Lane.make(str(tmp_path), "one"), Lane.make(str(tmp_path), "other")
    askers.open_lane(b"one")
    with taking(askers.lane):
        assert one.send(7, b"spam")
    askers.lane.look(True)
    askers.open_lane(b"other")
    assert not one.is_looked_at()
    with free_descriptors(0):
        assert (True, False) == (askers.has_taken(b"one", 7), askers.has_taken(b"one", 8))
        assert (False, False) == (askers.has_taken(b"other", 7), askers.has_taken(b"other", 8))
    with taking(askers.lane):
        assert other.send(7, b"spam")
    assert askers.has_taken(b"other", 7)


def test_what_can_not_be_found_out_is_no_no(askers, tmp_path):
    Lane.make(str(tmp_path), "asker")
    with free_descriptors(0), pytest.raises(OSError, match="Too many open files"):
        askers.has_taken(b"asker", 7)
    assert not askers.has_taken(b"asker", 7)
    assert not askers.has_taken(b"nobody", 7)
    askers.note_taken(b"asker", 7)
    assert askers.has_taken(b"asker", 7)
    for address in (b"nobody", b"\0", b"\xff"):
        askers.note_taken(address, 2**64 - 1)
        askers.open_lane(address)
    askers.note_taken(b"asker", 2**64 - 1)


def test_a_close_refuses_no_ask_that_was_executed(tmp_path, monkeypatch):
    answers = _answers.Answers("spam", select.poll(), lambda: None, str(tmp_path), False)
    asker, refused = Lane.make(str(tmp_path), "asker"), []
    monkeypatch.setattr(answers, "error", lambda asker, number, error: refused.append(number))
    answers.askers.open_lane(b"asker")
    with taking(answers.askers.lane):
        assert asker.send(7, b"spam")
    asks = [_wire.ASK_HEAD.pack(number, 5) + b"asker" for number in (7, 8)]
    answers.refuse((_wire.ASK | _wire.LANED, ask) for ask in asks)
    assert [8] == refused


# Between an asker and an actor.


@pytest.fixture
def patient(context):
    with Actor(Patient(), context=context) as actor:
        yield actor.proxy


def test_who_asks_in_turn_gets_a_lane(patient):
    lane = with_lane(patient)
    assert list(range(1_000)) == [ask(patient.echo, i).result(LIMIT) for i in range(1_000)]
    assert lane is patient.__channel__.lane


def test_replies_come_by_it_too(patient, monkeypatch):
    came = []
    receive_from = Arrivals.receive_from
    monkeypatch.setattr(Arrivals, "receive_from", lambda self, lane: (came.append(lane), receive_from(self, lane)))
    lane = with_lane(patient)
    eventually(lambda: ask(patient.echo).result(LIMIT) is None and lane in came)


def test_who_never_waits_gets_none(patient):
    futures = [ask(patient.echo, i) for i in range(1_000)]
    assert list(range(1_000)) == [future.result(LIMIT) for future in futures]
    assert patient.__channel__.lane is None


def test_where_stores_may_be_seen_in_another_order_there_is_none(patient, monkeypatch):
    monkeypatch.setattr(_lane, "IS_POSSIBLE", False)
    assert list(range(1_000)) == [ask(patient.echo, i).result(LIMIT) for i in range(1_000)]
    assert patient.__channel__.lane is None


def test_where_there_is_no_descriptor_left_there_is_none(patient):
    ask(patient.echo).result(LIMIT)
    with free_descriptors(0):
        assert list(range(1_000)) == [ask(patient.echo, i).result(LIMIT) for i in range(1_000)]
    assert patient.__channel__.lane is None
    with_lane(patient)


def test_so_many_actors_have_one_at_most(monkeypatch):
    monkeypatch.setattr(_replies, "_MAX_LANES", len(_replies.replies("")._lanes) + 1)
    with Actor(Patient()) as other:
        with Actor(Patient()) as actor:
            with_lane(actor.proxy)
            for i in range(300):
                assert i == ask(other.proxy.echo, i).result(LIMIT)
            assert other.proxy.__channel__.lane is None
        del actor
        gc.collect()
        with_lane(other.proxy)


def test_who_asks_much_at_once_asks_the_first_by_it_at_most(patient, gate, monkeypatch):
    with_lane(patient)
    sent, send = [], Lane.send
    monkeypatch.setattr(Lane, "send", lambda *args: sent.append(args) or send(*args))
    futures = [ask(patient.wait_for, gate)]  # or some are answered, and read, before all are asked
    futures += [ask(patient.echo, i) for i in range(100)]
    gate.touch()
    assert list(range(100)) == results(futures)[1:]
    assert len(sent) <= 1


def test_while_another_thread_sends_one_asks_as_without(patient, monkeypatch):
    lane = with_lane(patient)
    with monkeypatch.context() as patched, lane.sending:
        patched.setattr(Lane, "send", None)
        assert list(range(300)) == [ask(patient.echo, i).result(LIMIT) for i in range(300)]
    with_lane(patient)


def test_an_offer_that_finds_no_room_is_made_again(patient, monkeypatch):
    write_now = _wire.write_now
    with monkeypatch.context() as patched:
        patched.setattr(_wire, "write_now", lambda fd, data: data[2] != _wire.LANE and write_now(fd, data))
        for i in range(300):
            assert i == ask(patient.echo, i).result(LIMIT)
    with_lane(patient)


def test_what_is_too_large_for_it_comes_too(patient):
    with_lane(patient)
    for size in (3_000, 4_000, 4_100, 100_000, 10):
        assert bytes(size) == ask(patient.echo, bytes(size)).result(LIMIT)
        assert bytes(size) == ask(patient.repeat, b"\0", size).result(LIMIT)


def test_an_exception_comes_by_it(patient):
    with_lane(patient)
    for _ in range(100):
        with pytest.raises(ValueError, match="spam"):
            ask(patient.fail, ValueError("spam")).result(LIMIT)


def test_tells_and_asks_of_a_process_stay_in_order(patient):
    with_lane(patient)
    for number in range(0, 2_000, 4):
        patient.note(number)
        ask(patient.note, number + 1).result(LIMIT)
        future = ask(patient.note, number + 2)
        patient.note(number + 3)
        future.result(LIMIT)
    assert list(range(2_000)) == ask(patient.all).result(LIMIT)


def test_what_another_process_sent_before_comes_before(context, patient):
    with Actor(Patient(), context=context) as other:
        with_lane(patient)
        for number in range(1_000):
            ask(other.proxy.tell_and_return, patient, number).result(LIMIT)
            assert number == ask(patient.all).result(LIMIT)[-1]


@pytest.mark.parametrize("looks", range(0, 60, 4))
def test_what_is_taken_too_late_is_executed_once(patient, monkeypatch, looks):
    """Each of them may have been taken when it goes through the FIFO after all."""
    lane = with_lane(patient)
    monkeypatch.setattr(_lane, "PATIENCE", 0)
    monkeypatch.setattr(_lane, "_AT_ONCE", range(looks))
    for number in range(300):
        ask(patient.note, 2 * number).result(LIMIT)
        patient.note(2 * number + 1)
        ask(patient.echo).result(LIMIT)
    assert list(range(600)) == ask(patient.all).result(LIMIT)
    assert lane is patient.__channel__.lane


def test_that_does_happen(patient, monkeypatch):
    """What the test before this one is about; here it does not depend on where the processes run."""
    lane = with_lane(patient)
    monkeypatch.setattr(_lane, "PATIENCE", 0)
    monkeypatch.setattr(_lane, "_AT_ONCE", ())
    withdraw, words = Lane._withdraw, lane.words

    def withdraw_too_late(lane):
        until = time.monotonic() + 1
        while words[lane._other + _lane._TAKEN] != words[lane._mine + _lane._SENT] and time.monotonic() < until:
            os.sched_yield()
        withdraw(lane)

    monkeypatch.setattr(Lane, "_withdraw", withdraw_too_late)
    deadline = time.monotonic() + LIMIT
    while not ask(patient.count_late).result(LIMIT):
        ask(patient.echo).result(LIMIT)
        assert time.monotonic() < deadline


def stopped_while_it_looks(actor, lane):
    """Stops an actor that is looking into its lane."""
    while True:
        ask(actor.proxy.echo).result(LIMIT)
        os.kill(actor.pid, signal.SIGSTOP)
        eventually(lambda: is_stopped(actor.pid))
        if lane.is_looked_at():
            return
        os.kill(actor.pid, signal.SIGCONT)


def test_what_was_received_behind_the_look_comes_before(patient, monkeypatch):
    with_lane(patient)
    monkeypatch.setattr(_lane, "PATIENCE", LIMIT)  # or else the ask would go through the FIFO, and be the first there
    patient.receive_behind_the_look()
    while (before := ask(patient.received_behind).result(LIMIT)) is None:
        ask(patient.note, "asked").result(LIMIT)
    assert "received" == ask(patient.all).result(LIMIT)[before]


def test_an_actor_that_is_stopped_takes_what_was_sent_in_its_order(context):
    """What is in the FIFO was sent before what is in the lane, and with that it finds both."""
    with Actor(Patient(), context=context) as actor:
        lane = with_lane(actor.proxy)
        for _ in range(5):
            stopped_while_it_looks(actor, lane)
            try:
                actor.proxy.note("first")
                future = ask(actor.proxy.note, "second")
                actor.proxy.note("third")
                with pytest.raises(concurrent.futures.TimeoutError):
                    future.result(0.01)
            finally:
                os.kill(actor.pid, signal.SIGCONT)
            future.result(LIMIT)
        assert ["first", "second", "third"] * 5 == ask(actor.proxy.all).result(LIMIT)


@pytest.mark.parametrize("place", ["write_now", "_ask"])
def test_an_ask_that_is_interrupted_behind_the_lane_is_not_executed_later(context, monkeypatch, place):
    def interrupt(*_):
        raise Interrupt

    with Actor(Patient(), context=context) as actor:
        lane = with_lane(actor.proxy)
        stopped_while_it_looks(actor, lane)
        try:
            with monkeypatch.context() as patched:
                if place == "_ask":
                    patched.setattr(_wire, "write_now", lambda *_: False)
                    patched.setattr(_replies.Replies, "_ask", interrupt)
                else:
                    patched.setattr(_wire, "write_now", interrupt)
                with pytest.raises(Interrupt):
                    ask(actor.proxy.note, "interrupted")
            actor.proxy.note("later")
        finally:
            os.kill(actor.pid, signal.SIGCONT)
        with_lane(actor.proxy)
        assert ["later"] == ask(actor.proxy.all).result(LIMIT)


def test_what_comes_behind_the_close_is_refused(context, gate):
    """Also while the actor still owes something, for which it waits and looks."""
    with Actor(Patient(), context=context) as actor, Actor(Patient(), context=context) as asker:
        owed = ask(actor.proxy.answer_at, gate)
        reached(gate)
        assert ([], True) == ask(asker.proxy.ask_in_turn, actor.proxy, 0).result(LIMIT)
        actor.close()
        eventually(lambda: not unread(actor.proxy.__channel__.file))
        assert (0, ActorClosed) == ask(asker.proxy.ask_until_refused, actor.proxy).result(LIMIT)
        assert not owed.done()
        gate.touch()
        assert "answer" == owed.result(LIMIT)


def test_what_was_asked_by_it_before_the_close_is_answered(context):
    for _ in range(3):
        with Actor(Patient(), context=context) as actor:
            with_lane(actor.proxy)
            future = ask(actor.proxy.echo, 1)
            actor.close()
            assert 1 == future.result(LIMIT)
            with pytest.raises(ActorClosed):
                ask(actor.proxy.echo).result(LIMIT)


def test_an_actor_that_is_killed_ends_what_it_was_asked(context):
    with Actor(Patient(), context=context) as actor:
        with_lane(actor.proxy)
        with pytest.raises(ActorDied, match=r"SIGKILL while it executed kill\(\)"):
            ask(actor.proxy.kill).result(LIMIT)
        with pytest.raises(ActorDied):
            ask(actor.proxy.echo)


# Where it is killed: whether the ask is executed, and whether it is answered; None where it may be.
KILLED = {
    "before pactor._lane:Lane.peek": (True, True),
    "after pactor._lane:Lane.peek": (True, True),
    "before pactor._inbox:Inbox.set_aside": (True, True),
    "after pactor._inbox:Inbox.set_aside": (False, False),
    "before pactor._lane:Lane.take": (False, False),
    "after pactor._lane:Lane.take": (False, False),
    "before pactor._wire:unpack": (False, False),
    "before pactor._answers:Answers.value": (True, False),
    "before pactor._lane:Lane.is_for": (True, False),
    "before pactor._lane:Lane.send": (True, False),
    "after pactor._lane:Lane.send": (True, None),
}


@pytest.mark.parametrize("where", KILLED)
def test_wherever_an_actor_is_killed_each_ask_ends_and_none_is_executed_twice(context, tmp_path, where):
    path = tmp_path / "log"
    with Actor(functools.partial(Patient, path), context=context, on_failure=FOREVER) as actor:
        number = 0
        for _ in range(3):
            with_lane(actor.proxy)
            pid, answered = actor.pid, True
            actor.proxy.die_at(where)
            while actor.pid == pid:  # what goes through the FIFO may not lead there
                number += 1
                try:
                    assert number == ask(actor.proxy.record, number).result(LIMIT)
                except ActorDied as error:
                    assert "it is restarted, without this message" in str(error)
                    answered = False
                    break
            with_lane(actor.proxy)  # what comes through the FIFO after all has come by then
            executed = number in [int(each) for (each,) in recorded(path)]
            assert executed == (answered or KILLED[where][0])
            assert answered or not KILLED[where][1]
    numbers = [int(each) for (each,) in recorded(path)]
    assert sorted(set(numbers)) == numbers


def test_the_next_process_of_a_killed_actor_gets_a_lane_too(context):
    with Actor(Patient(), context=context, on_failure=FOREVER) as actor:
        lane = with_lane(actor.proxy)
        os.kill(actor.pid, signal.SIGKILL)
        ask(actor.proxy.echo).result(LIMIT)
        taken = lane.words[_lane._ACTOR + _lane._TAKEN]
        deadline = time.monotonic() + LIMIT
        while lane.words[_lane._ACTOR + _lane._TAKEN] == taken:
            ask(actor.proxy.echo).result(LIMIT)
            assert time.monotonic() < deadline


@pytest.mark.parametrize("passed", range(0, 60, 3))
def test_an_exception_in_an_ask_loses_no_other(patient, on_alarm, passed):
    def handler(*_):
        raise Interrupt

    on_alarm(handler)
    with_lane(patient)
    attempts = 0
    for round_ in range(5):
        try:
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0005 + passed * 3e-6 + round_ * 1e-6)
                while True:
                    attempts += 1
                    ask(patient.note, attempts).result(LIMIT)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except Interrupt:
            pass
        assert attempts == ask(patient.echo, attempts).result(LIMIT)
    noted = ask(patient.all).result(LIMIT)
    assert sorted(set(noted)) == noted
    assert len(noted) >= attempts - 5
    with_lane(patient)


@pytest.mark.parametrize("place", ["peek", "take", "_resolve", "_finish"])
def test_an_exception_where_a_reply_is_taken_loses_none(patient, monkeypatch, place):
    lane = with_lane(patient)
    owner = {"_resolve": Arrivals, "_finish": _replies.Future}.get(place, Lane)
    method, is_armed, is_hit = getattr(owner, place), False, False

    def hit(*args):
        nonlocal is_armed, is_hit
        frame = method(*args) if place == "peek" else b""
        if is_armed and frame is not None:
            is_armed, is_hit = False, True
            raise Interrupt
        return frame if place == "peek" else method(*args)

    monkeypatch.setattr(owner, place, hit)
    deadline = time.monotonic() + LIMIT
    while not is_hit:  # what comes through the FIFO after all does not come to each of the places
        assert time.monotonic() < deadline
        assert lane is with_lane(patient)
        future = ask(patient.echo, 7)
        is_armed = True  # not before: an ask may itself read what came twice
        for _ in range(2):
            with contextlib.suppress(Interrupt):
                assert 7 == future.result(LIMIT)
        is_armed = False
        assert 7 == future.result(LIMIT)
        assert [] == _replies.replies("").arrivals.in_hand
    assert lane is with_lane(patient)


def test_two_askers_take_turns(context):
    """An actor looks into one lane, that of the last one to have come; the other is served all the same."""
    with (
        Actor(Patient(), context=context) as actor,
        Actor(Patient(), context=context) as one,
        Actor(Patient(), context=context) as other,
    ):
        futures = [ask(asker.proxy.ask_in_turn, actor.proxy, 1_000) for asker in (one, other)]
        assert [(list(range(1_000)), True)] * 2 == [future.result(LIMIT) for future in futures]


def test_several_threads_of_an_asker_share_one(patient):
    with_lane(patient)
    results = {}

    def ask_in_turn(base):
        results[base] = [ask(patient.echo, base + i).result(LIMIT) for i in range(500)]

    threads = [threading.Thread(target=ask_in_turn, args=(base,)) for base in (0, 1_000, 2_000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {base: [*range(base, base + 500)] for base in (0, 1_000, 2_000)} == results
    with_lane(patient)


def test_a_reply_is_awaited_as_without(patient):
    with_lane(patient)

    async def ask_in_turn():
        return [await ask(patient.echo, i) for i in range(300)]

    assert list(range(300)) == asyncio.run(ask_in_turn())
    with_lane(patient)


def test_a_callback_is_called_as_without(patient):
    with_lane(patient)
    called = threading.Event()
    ask(patient.echo).add_done_callback(lambda _: called.set())
    assert called.wait(LIMIT)
    with_lane(patient)


@pytest.mark.parametrize("is_restarted", [False, True])
def test_an_actor_with_coroutines_has_none(context, is_restarted):
    """It would be of no use, and there would be one less for others."""
    with Actor(PatientCounter(5), context=context, on_failure=FOREVER) as actor:
        if is_restarted:
            actor.proxy.die()
        for i in range(300):
            assert i == ask(actor.proxy.echo, i).result(LIMIT)
            assert 5 == ask(actor.proxy.wait).result(LIMIT)
        assert actor.proxy.__channel__.lane is None


def test_an_actor_that_can_not_refuse_lanes_starts(monkeypatch):
    monkeypatch.setattr(_lane, "_REFUSAL", "nowhere/no-lanes")
    with Actor(PatientCounter(5), context=multiprocessing.get_context("fork")) as actor:
        assert 5 == ask(actor.proxy.wait).result(LIMIT)


def test_a_circle_of_asks_by_lanes_is_found(context):
    with Actor(Patient(), context=context) as one, Actor(Patient(), context=context) as other:
        for _ in range(2):
            with pytest.raises(DeadlockError):
                ask(one.proxy.ask_back, other.proxy, one.proxy).result(LIMIT)


def test_a_forked_child_asks_by_itself(patient):
    with_lane(patient)
    pid = os.fork()
    if not pid:
        with contextlib.suppress(BaseException):
            assert patient.__channel__.lane is None  # that is the parent's
            answers = [ask(patient.echo, -i).result(LIMIT) for i in range(300)]
            os._exit(answers != [-i for i in range(300)])
        os._exit(2)
    assert list(range(300)) == [ask(patient.echo, i).result(LIMIT) for i in range(300)]
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with_lane(patient)


def test_that_of_a_killed_asker_is_removed(context, start, tmp_path):
    with Actor(Patient(), context=context) as actor:
        mailbox = actor.proxy.__channel__.mailbox
        asker = start(ask_until_killed, actor.proxy, tmp_path / "asks")
        eventually((tmp_path / "asks").exists)
        assert 1 == len([name for name in os.listdir(mailbox) if name.startswith("lane.")])
        asker.kill()
        asker.join()
        eventually(lambda: not [name for name in os.listdir(mailbox) if name.startswith("lane.")])
        with_lane(actor.proxy)


def test_rubbish_in_its_place_is_no_harm(patient):
    with_lane(patient)
    way = patient.__channel__
    mine = _replies.replies("")._address
    message = _wire.ASK_HEAD.pack(2**64 - 1, len(mine)) + mine + pickle.dumps(("echo", (1,), {}))
    for body in (b"", b"/nowhere", b"\0", b"\xff", b"/" * 4_000, mine, message):
        os.write(way.file, _wire.frame(_wire.LANE, b"", body))
        os.write(way.file, _wire.frame(_wire.ASK | _wire.LANED, b"", body))
    assert 1 == ask(patient.echo, 1).result(LIMIT)
    with_lane(patient)


def test_who_waits_long_gets_none():
    """However often one asks."""
    with pytest.MonkeyPatch.context() as patched, Actor(Recorder()) as actor:
        patched.setattr(_waiting.Patience, "SHORT", 0.0)
        for i in range(300):
            assert i == ask(actor.proxy.echo, i).result(LIMIT)
        assert actor.proxy.__channel__.lane is None
