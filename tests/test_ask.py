"""Asks: their futures, and what comes back."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import errno
import gc
import itertools
import logging
import math
import os
import pickle
import select
import signal
import sys
import textwrap
import threading
import time
from concurrent.futures import CancelledError, as_completed, wait

import ask_actors
import pytest
from ask_actors import (
    Asker,
    AsksBeforeItWaits,
    AsksOnSignals,
    AsksWhileItClears,
    Fails,
    Falsy,
    Flooder,
    GivesAway,
    Unloadable,
    hammer,
)
from support import LIMIT, Counter, Interrupt, Recorder, eventually, frames_in, reached, results, unread, within
from test_actor import run_program

from pactor import (
    Actor,
    ActorDied,
    ActorError,
    Future,
    RemoteError,
    _askers,
    _blocks,
    _ending,
    _future,
    _inbox,
    _replies,
    _runtime,
    _waiting,
    _wire,
    ask,
)


@pytest.fixture
def recorder(context):
    with Actor(Recorder(), context=context) as actor:
        yield actor.proxy


@pytest.fixture
def led(context, gate):
    """Another thread reads the replies, until the gate is there."""
    with Actor(Recorder(), context=context) as slow:
        leader = threading.Thread(target=ask(slow.proxy.wait_for, gate).result, args=(LIMIT,))
        leader.start()
        eventually(lambda: _replies.replies("")._leader)
        yield
        gate.touch()
        leader.join(LIMIT)


def test_the_reply_is_a_future_of_the_standard_library(recorder):
    future = ask(recorder.echo, [1, None, "x"])
    assert isinstance(future, Future) and isinstance(future, concurrent.futures.Future)
    assert [1, None, "x"] == future.result(LIMIT) == future.result()
    assert None is future.exception()
    assert (True, False, False) == (future.done(), future.cancelled(), future.running())
    assert "finished" in repr(future)


def test_ask_takes_only_methods_of_proxies():
    for wrong in (print, Counter().total, "total", None):
        with pytest.raises(TypeError, match="a method of a proxy"):
            ask(wrong)


@pytest.fixture
def fails(context):
    with Actor(Fails(), context=context) as actor:
        yield actor.proxy
        assert ask(actor.proxy.alive).result(LIMIT)  # whatever it was


@pytest.mark.parametrize(("name", "kind"), [("value", ValueError), ("stop", StopIteration), ("base", BaseException)])
def test_an_exception_comes_back_with_its_type_and_the_remote_traceback(fails, name, kind):
    future = ask(fails.fail, name)
    error = future.exception(LIMIT)
    assert kind is type(error)
    assert ("told",) == error.args
    assert "in fail" in str(error.__cause__) and "KeyError: 'missing'" in str(error.__cause__)
    assert "_loop.py" not in str(error.__cause__)
    with pytest.raises(kind):
        future.result()


@pytest.mark.parametrize(
    ("name", "type_name", "message"),
    [("two", "TwoArguments", "1 and 2"), ("unpicklable", "Unpicklable", "holds a lock")],
)
def test_an_exception_that_cannot_travel_comes_as_its_text(fails, name, type_name, message):
    with pytest.raises(RemoteError, match=f"{type_name}: {message}") as caught:
        ask(fails.fail, name).result(LIMIT)
    error = pickle.loads(pickle.dumps(caught.value))
    assert (type_name, message) == (error.type_name, error.message)
    assert "in fail" in error.traceback


def test_a_value_that_cannot_be_pickled_fails_that_ask_and_is_named(fails):
    with pytest.raises(RemoteError, match=r"make\(\) returned <unlocked _thread.lock.*can't be sent"):
        ask(fails.make).result(LIMIT)


def test_a_value_that_cannot_be_loaded_fails_that_ask(fails):
    with pytest.raises(RemoteError, match="can't be loaded here: refused to load"):
        ask(fails.lose).result(LIMIT)


def test_an_argument_that_cannot_be_loaded_fails_that_ask(recorder):
    with pytest.raises(ValueError, match="refused to load"):
        ask(recorder.echo, Unloadable()).result(LIMIT)
    recorder.note(Unloadable())
    assert [] == ask(recorder.all).result(LIMIT)


def test_result_times_out_and_the_reply_still_comes(recorder, gate):
    future = ask(recorder.wait_for, gate)
    for timeout in (0, -1, 0.01):
        with pytest.raises(concurrent.futures.TimeoutError):
            future.result(timeout)
        with pytest.raises(concurrent.futures.TimeoutError):
            future.exception(timeout)
    assert not future.done()
    gate.touch()
    assert None is future.result(LIMIT)


def test_done_comes_true_for_one_that_only_looks(recorder):
    future = ask(recorder.echo)
    eventually(future.done)


def test_cancel_gives_up_waiting_and_the_message_is_executed(recorder, gate):
    recorder.wait_for(gate)
    future = ask(recorder.note, 1)
    assert future.cancel() and future.cancel() and future.cancelled() and future.done()
    with pytest.raises(CancelledError):
        future.result()
    assert {future} == wait([future], LIMIT).done
    gate.touch()
    assert [1] == ask(recorder.all).result(LIMIT)


def test_what_is_done_cannot_be_cancelled(recorder):
    future = ask(recorder.echo)
    future.result(LIMIT)
    assert not future.cancel()
    assert not future.cancelled()


def test_callbacks_are_called_though_nobody_waits(recorder, gate):
    called = []
    recorder.wait_for(gate)
    future = ask(recorder.echo, 3)
    future.add_done_callback(called.append)
    future.add_done_callback(lambda future: called.append(future.result()))
    gate.touch()
    eventually(lambda: len(called) == 2)
    assert [future, 3] == called
    future.add_done_callback(called.append)  # done: at once
    assert 3 == len(called)


def test_wait_and_as_completed(context, gate):
    with Actor(Recorder(), context=context) as slow, Actor(Recorder(), context=context) as fast:
        late = ask(slow.proxy.wait_for, gate)
        early = [ask(fast.proxy.echo, i) for i in range(100)]
        done, pending = wait([late, *early], LIMIT, return_when=concurrent.futures.FIRST_COMPLETED)
        assert done and late in pending
        assert set(range(100)) == {future.result() for future in as_completed(early, LIMIT)}
        assert {late} == wait([late, *early], 0.01).not_done
        gate.touch()
        assert set() == wait([late, *early], LIMIT).not_done


def test_wait_learns_of_a_death(recorder, gate):
    pid = ask(recorder.pid).result(LIMIT)
    future = ask(recorder.wait_for, gate)
    killer = threading.Timer(0.05, os.kill, (pid, signal.SIGKILL))
    killer.start()
    assert {future} == wait([future], LIMIT).done
    assert isinstance(future.exception(), ActorDied)
    killer.join()


def test_5_000_outstanding_asks(recorder):
    futures = [ask(recorder.echo, i) for i in range(5_000)]
    assert list(range(5_000)) == [future.result(LIMIT) for future in futures]


def test_asks_that_nobody_reads_hold_up_nobody(recorder, context):
    """The asker's mailbox is full, and yet the actor serves the others."""
    with Actor(Asker(recorder), context=context) as asker:
        asked = ask(asker.proxy.ask_and_sleep, 3_000)
        eventually(lambda: len(ask(recorder.all).result(LIMIT)) == 3_000)
        assert 3_000 == asked.result(LIMIT)


def test_four_threads_ask_at_once(recorder):
    def run(start):
        results.append([ask(recorder.echo, i).result(LIMIT) for i in range(start, start + 500)])

    results = []
    threads = [threading.Thread(target=run, args=(1_000 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [list(range(i, i + 500)) for i in (0, 1_000, 2_000, 3_000)] == sorted(results)


def test_a_thread_waits_for_what_another_asked(recorder, gate):
    future = ask(recorder.wait_for, gate)
    results = []
    threads = [threading.Thread(target=lambda: results.append(future.result(LIMIT))) for _ in range(3)]
    for thread in threads:
        thread.start()
    reached(gate)
    gate.touch()
    for thread in threads:
        thread.join()
    assert [None] * 3 == results


def test_threads_with_a_reply_leave_and_the_others_go_on(context, gate):
    """The thread that reads for all has its reply first, or no more time: another must take over."""
    with Actor(Recorder(), context=context) as slow, Actor(Recorder(), context=context) as quick:
        late = [ask(slow.proxy.wait_for, gate) for _ in range(3)]
        results = []
        threads = [threading.Thread(target=lambda f=f: results.append(f.result(LIMIT))) for f in late]
        threads += [threading.Thread(target=_times_out, args=(late[0],)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for i in range(200):
            assert i == ask(quick.proxy.echo, i).result(LIMIT)
        gate.touch()
        for thread in threads:
            thread.join()
        assert [None] * 3 == results


def _times_out(future):
    for _ in range(10):
        try:
            future.result(0.005)
        except concurrent.futures.TimeoutError:
            pass


def test_actors_ask_each_other_nested(context):
    with (
        Actor(Recorder(), context=context) as last,
        Actor(Asker(last.proxy), context=context) as one,
        Actor(Asker(last.proxy), context=context) as other,
    ):
        asked = [ask(actor.proxy.ask_many, 300) for actor in (one, other)]
        assert [list(range(300))] * 2 == [future.result(LIMIT) for future in asked]


def test_a_killed_bystander_harms_nobody(context):
    with Actor(Recorder(), context=context) as actor:
        bystanders = [context.Process(target=hammer, args=(actor.proxy,)) for _ in range(3)]
        for process in bystanders:
            process.start()
        eventually(lambda: len(set(ask(actor.proxy.all).result(LIMIT))) == 3)
        for process in bystanders:
            process.kill()
            assert list(range(100)) == [ask(actor.proxy.echo, i).result(LIMIT) for i in range(100)]
        for process in bystanders:
            process.join(LIMIT)


def test_a_future_belongs_to_the_process_that_asked(recorder, gate):
    future = ask(recorder.wait_for, gate)
    pid = os.fork()
    if not pid:
        try:
            future.result(LIMIT)
        except RuntimeError:
            os._exit(7)
        os._exit(1)
    assert 7 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    gate.touch()
    assert None is future.result(LIMIT)


def test_a_forked_child_asks_for_itself(recorder):
    pid = os.fork()
    if not pid:
        code = 1
        try:
            code = ask(recorder.echo, 7).result(LIMIT)
        finally:
            os._exit(code)
    assert 1 == ask(recorder.echo, 1).result(LIMIT)
    assert 7 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_an_actor_that_waits_for_a_reply_takes_what_floods_it(context):
    with Actor(Flooder(), context=context) as one, Actor(Recorder(), context=context) as two:
        reply = ask(one.proxy.flood, one.proxy, 20_000)
        echo = ask(two.proxy.echo, 1)
        assert 1 == echo.result(LIMIT)
        assert None is reply.result(LIMIT)
        assert 20_000 == ask(one.proxy.received).result(LIMIT)


@pytest.mark.parametrize("size", [0, 1, 4_000, 4_096, 65_536, 1_000_000, 50_000_000])
def test_payloads_of_any_size_both_ways(recorder, size):
    value = os.urandom(min(size, 4096)) * (size // 4096 or 1)
    assert value == ask(recorder.echo, value).result(LIMIT)
    recorder.note(value)
    assert [value] == ask(recorder.all).result(LIMIT)


def test_numpy_arrays_come_mapped_and_writable(context):
    numpy = pytest.importorskip("numpy")
    with Actor(Recorder(), context=context) as actor:
        array = numpy.arange(1_000_000.0)
        back = ask(actor.proxy.echo, {"array": array, "again": array[:10]}).result(LIMIT)["array"]
        assert (array == back).all()
        assert not back.flags.owndata
        back[0] = 5
        array.flags.writeable = False
        assert not ask(actor.proxy.echo, array).result(LIMIT).flags.writeable
        del back


def test_a_bound_makes_senders_wait(context, gate):
    with Actor(Recorder(), maxsize=3, context=context) as actor:
        actor.proxy.wait_for(gate)
        reached(gate)
        sent = []
        sender = threading.Thread(target=lambda: [sent.append(actor.proxy.note(i)) for i in range(10)])
        sender.start()
        eventually(lambda: len(sent) == 3)
        assert 3 == actor._mailbox.slots.taken() if actor._mailbox.slots.fd >= 0 else 3 == len(sent)
        gate.touch()
        sender.join(LIMIT)
        assert list(range(10)) == ask(actor.proxy.all).result(LIMIT)


def test_a_sender_that_waits_learns_of_the_death(context, gate):
    with Actor(Recorder(), maxsize=1, context=context) as actor:
        actor.proxy.wait_for(gate)
        reached(gate)
        errors = []
        sender = threading.Thread(target=_send_until_error, args=(actor.proxy, errors))
        sender.start()
        actor.kill()
        sender.join(LIMIT)
        assert [ActorDied] == errors


def _send_until_error(proxy, errors):
    try:
        while True:
            proxy.note(1)
    except ActorError as error:
        errors.append(type(error))


def test_a_cancel_wakes_the_thread_that_waits(recorder, gate):
    future = ask(recorder.wait_for, gate)
    reached(gate)
    canceller = threading.Thread(target=future.cancel)
    canceller.start()
    with pytest.raises(CancelledError):
        future.result(LIMIT)
    canceller.join()


def test_a_death_is_noticed_while_another_thread_waits_for_something_else(context, gate):
    with Actor(Recorder(), context=context) as busy, Actor(Recorder(), context=context) as victim:
        busy.proxy.wait_for(gate)
        reached(gate)
        busy.close()
        joiner = threading.Thread(target=busy.join)
        joiner.start()
        future = ask(victim.proxy.sleep, 1_000)
        victim.kill()
        with pytest.raises(ActorDied, match="SIGKILL"):
            future.result(LIMIT)
        gate.touch()
        joiner.join(LIMIT)


def test_join_ends_what_was_asked_also_where_the_end_was_known_before(context):
    with Actor(Recorder(), context=context) as actor:
        future = ask(actor.proxy.sleep, 1_000)
        actor.kill()
        eventually(lambda: actor.exitcode is not None)
        assert actor.join()
        assert concurrent.futures.Future.done(future)  # not its own, which would look for a reply


def test_a_reply_that_was_in_hand_is_not_lost_where_its_actor_is_joined(context, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    with Actor(Recorder(), context=context) as actor:
        future = ask(actor.proxy.echo, 1)
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(_replies.replies("").arrivals, "_resolve", interrupted)
            future.result(LIMIT)
    assert 1 == future.result(LIMIT)


def test_who_follows_does_not_wait_for_what_a_callback_does(recorder, led, monkeypatch):
    """Another thread hands out the reply, and does the callback."""
    monkeypatch.setattr(_replies, "_LOOK_AGAIN", LIMIT)
    done, waited = threading.Event(), []
    future = ask(recorder.sleep, 0.1)
    future._when_done(lambda _: waited.append(done.wait(LIMIT / 10)))
    assert 0.1 == future.result(LIMIT)
    done.set()
    eventually(lambda: waited)
    assert [True] == waited


def test_a_callback_may_wait_for_another_reply(recorder):
    results = []
    future = ask(recorder.sleep, 0.05)
    future.add_done_callback(lambda _: results.append(ask(recorder.echo, 3).result(LIMIT)))
    eventually(lambda: results == [3])


def test_a_callback_may_wait_long_while_its_thread_waits_for_that_very_reply(context):
    """Who looks for a reply, and not only sleeps, is not to sleep on when a callback has slept meanwhile."""
    with Actor(Recorder(), context=context) as slow, Actor(Recorder(), context=context) as other:
        for _ in range(20):
            for _ in range(5):
                ask(slow.proxy.echo).result(LIMIT)  # short waits, so that it looks
            future = ask(slow.proxy.echo)
            future._when_done(lambda _: ask(other.proxy.sleep, 0.002).result(LIMIT))
            with within(LIMIT / 10):  # it is returned also by who slept all the time
                assert None is future.result(LIMIT)


def test_wait_counts_each_reply_once(recorder):
    """It counts those that are done, and then is told of the others: none is to be both."""
    for _ in range(300):
        futures = [ask(recorder.echo, i) for i in range(8)]
        beside = threading.Thread(target=wait, args=(futures, LIMIT))
        beside.start()
        assert not wait(futures, LIMIT).not_done
        beside.join(LIMIT)


def test_a_signal_handler_may_wait_for_another_reply(context, on_alarm):
    with Actor(Recorder(), context=context) as one, Actor(Recorder(), context=context) as other:
        on_alarm(lambda *_: ask(other.proxy.sleep, 0.1).result(LIMIT))
        future = ask(one.proxy.sleep, 0.05)
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        with within(LIMIT / 10):  # it is returned also by who slept all the time
            assert 0.05 == future.result(LIMIT)


def test_a_signal_handler_may_ask_where_replies_are_being_read(recorder, monkeypatch):
    def read_and_hit(fd, buffers):
        count = readv(fd, buffers)
        monkeypatch.undo()
        asked.append(ask(recorder.echo, "of the handler").result(LIMIT))
        return count

    readv, asked = os.readv, []
    for i in range(20):
        futures = [ask(recorder.echo, i), ask(recorder.echo, -i)]
        monkeypatch.setattr(os, "readv", read_and_hit)
        assert [i, -i] == results(futures)
    assert 20 == len(asked)


def test_a_signal_handler_may_ask_where_its_thread_begins_to_lead(recorder, on_alarm, monkeypatch):
    class Hit(dict):
        def setdefault(self, *args):
            leader = super().setdefault(*args)
            monkeypatch.setattr(way, "_leader", {**self})
            signal.raise_signal(signal.SIGALRM)
            return leader

    way, asked, led = _replies.replies(""), [], []
    lead = way._lead
    monkeypatch.setattr(way, "_lead", lambda *args: (led.append({**way._leader}), lead(*args)))
    on_alarm(lambda *_: asked.append(ask(recorder.echo, 1).result(LIMIT)))
    future = ask(recorder.echo, 2)
    monkeypatch.setattr(way, "_leader", Hit(way._leader))
    assert 2 == future.result(LIMIT)
    assert [1] == asked
    assert all(leader == {"thread": threading.get_ident()} for leader in led) and led


def test_a_signal_handler_may_ask_where_its_thread_begins_to_follow(recorder, led, on_alarm, monkeypatch):
    class Hit(dict):
        def __setitem__(self, *args):
            super().__setitem__(*args)
            if not asked:
                asked.append("is being asked")
                signal.raise_signal(signal.SIGALRM)

    way, asked = _replies.replies(""), []
    on_alarm(lambda *_: asked.append(ask(recorder.sleep, 0.2).result(LIMIT)))
    future = ask(recorder.sleep, 0.05)
    monkeypatch.setattr(way, "_followers", Hit())
    assert 0.05 == future.result(LIMIT)
    assert asked[1:] == [0.2]


@pytest.mark.parametrize("call", ["create", "Inbox"])
def test_a_signal_handler_may_ask_where_the_first_ask_makes_what_it_needs(call):
    def make_and_hit(*args):
        setattr(_inbox, call, make)
        try:
            return make(*args)
        finally:
            asked.append(ask(actor.proxy.echo, "of the handler").result(LIMIT))

    def in_the_child():
        setattr(_inbox, call, make_and_hit)
        assert 1 == ask(actor.proxy.echo, 1).result(LIMIT)
        assert ["of the handler"] == asked
        os._exit(0)

    asked, make = [], getattr(_inbox, call)
    with Actor(Recorder()) as actor:
        pid = os.fork()
        if not pid:
            try:
                in_the_child()
            finally:
                os._exit(1)
        assert 0 == os.waitpid(pid, 0)[1]


def test_a_signal_handler_may_ask_again_and_again(context, on_alarm):
    def handler(*_):
        handled.append(ask(actor.proxy.echo, len(handled)).result(LIMIT))
        signal.setitimer(signal.ITIMER_REAL, 0.0003 + time.monotonic_ns() % 100 * 1e-6)

    handled = []
    with Actor(Recorder(), context=context) as actor:
        on_alarm(handler)
        signal.setitimer(signal.ITIMER_REAL, 0.001)
        for i in itertools.count():
            assert i == ask(actor.proxy.echo, i).result(LIMIT)
            if len(handled) > 300:
                break
        signal.setitimer(signal.ITIMER_REAL, 0)
    assert [*range(len(handled))] == handled


@pytest.mark.parametrize("cls", [AsksOnSignals, AsksBeforeItWaits, AsksWhileItClears])
def test_what_comes_while_the_signal_handler_of_an_idle_actor_waits_is_executed_behind_it(context, gate, cls):
    with Actor(Recorder(), context=context) as other, Actor(cls(other.proxy), context=context) as actor:
        pid = ask(actor.proxy.set_gate, gate).result(LIMIT)
        if cls is AsksOnSignals:
            os.kill(pid, signal.SIGUSR1)
        reached(gate)
        future = ask(actor.proxy.all)
        gate.touch()
        assert [None] == future.result(LIMIT / 10)


def test_callbacks_go_on_after_one_that_wanted_to_exit(recorder, monkeypatch):
    monkeypatch.setattr(logging.getLogger("pactor"), "disabled", True)  # what pytest would keep of it keeps the future
    first = ask(recorder.sleep, 0.05)
    first.add_done_callback(lambda _: sys.exit(3))
    second = ask(recorder.echo, 3)
    assert {first, second} == wait([first, second], LIMIT).done
    assert 3 == second.result()


def test_an_exception_that_is_false_is_raised_all_the_same(recorder):
    with pytest.raises(Falsy):
        ask(recorder.fail, Falsy()).result(LIMIT)


@pytest.fixture(params=[Interrupt, TimeoutError, ValueError])
def interrupted(request, on_alarm):
    """Has a signal handler raise all the time; returns what it raises."""

    def handler(*_):
        raise request.param("of the handler")

    on_alarm(handler)
    return request.param


def test_a_signal_handler_that_waits_and_raises_loses_no_reply_that_was_in_hand():
    def handler():
        ask_actors.interrupt.clear()
        assert 1 == ask(actor.proxy.alive).result(LIMIT)
        raise Interrupt

    with Actor(Fails()) as actor:
        future = ask(actor.proxy.interrupt)
        ask_actors.interrupt.append(handler)  # where the reply is loaded
        with pytest.raises(Interrupt):
            future.result(LIMIT)
        assert "loaded" == future.result(LIMIT / 10)


@pytest.mark.parametrize("size", [1_000_000, _blocks.LARGEST + 1])
@pytest.mark.parametrize("kind", ["bytes", "buffer"])
@pytest.mark.parametrize("step", ["attach", "loads", "give_back"])
def test_exceptions_wherever_a_large_reply_is_loaded_lose_nothing(monkeypatch, step, kind, size):
    def hit(*args):
        done = function(*args)
        if left:
            left.pop()
            raise KeyboardInterrupt
        return done

    replies, left = _replies.replies(""), []
    function = getattr(_wire, step)
    monkeypatch.setattr(_wire, step, hit)
    with Actor(Fails()) as actor:
        for _ in range(3):
            future = ask(actor.proxy.make_large, kind, size)
            left[:] = 1, 2
            for _ in range(2):
                with contextlib.suppress(KeyboardInterrupt):
                    future.result(LIMIT)
            left.clear()
            other = ask(actor.proxy.make_large, "zeros", size)
            eventually(lambda: unread(replies.fd))  # it was written, to other memory than that of the first
            assert bytes([7]) * size == bytes(future.result(LIMIT / 10))
            assert bytes(size) == other.result(LIMIT)
            del future, other
            gc.collect()
            assert ["fifo", "inbox"] == sorted(os.listdir(replies.mailbox)) and not replies.arrivals._attached
        assert ask(actor.proxy.blocks).result(LIMIT) <= 2  # each was given back


def test_a_large_reply_is_given_back_also_where_a_callback_raises(recorder):
    def interrupt(_):
        raise KeyboardInterrupt

    replies, value = _replies.replies(""), bytes(1_000_000)
    future = ask(recorder.echo, value)
    future._when_done(interrupt)
    with pytest.raises(KeyboardInterrupt):
        future.result(LIMIT)
    assert ["fifo", "inbox"] == sorted(os.listdir(replies.mailbox)) and not replies.arrivals._attached
    assert value == future.result(0)


def test_a_large_reply_is_given_back_also_where_another_thread_is_about_to_cancel(recorder):
    replies = _replies.replies("")
    future = ask(recorder.echo, bytes(1_000_000))
    assert future._claim("cancel")  # as far as it has come
    eventually(lambda: unread(replies.fd))
    assert not future.done()
    assert future.cancel()
    assert ["fifo", "inbox"] == sorted(os.listdir(replies.mailbox)) and not replies.arrivals._attached


def test_what_can_not_be_given_back_is_in_the_way_of_no_other_reply(recorder, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EACCES, "refused")

    replies, value = _replies.replies(""), bytes(1_000_000)
    future = ask(recorder.echo, value)
    with monkeypatch.context() as patched:
        patched.setattr(_blocks, "claim", refuse)
        assert value == future.result(LIMIT)
    assert 1 == ask(recorder.echo, 1).result(LIMIT) and not replies.arrivals._attached
    for name in {*os.listdir(replies.mailbox)} - {"fifo", "inbox"}:
        os.unlink(f"{replies.mailbox}/{name}")


def test_a_reply_that_is_interrupted_again_and_again_is_in_hand_once(recorder, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    future = ask(recorder.echo, 1)
    with monkeypatch.context() as patched:
        patched.setattr(pickle, "loads", interrupted)
        for _ in range(3):
            with pytest.raises(KeyboardInterrupt):
                future.result(LIMIT)
    assert 1 == len(_replies.replies("").arrivals.in_hand)
    assert 1 == future.result(LIMIT / 10)


def test_an_exception_right_before_the_result_is_set_loses_no_reply(recorder, monkeypatch):
    def finish(*_):
        monkeypatch.undo()
        raise Interrupt

    future = ask(recorder.echo, 1)
    monkeypatch.setattr(Future, "_finish", finish)
    with pytest.raises(Interrupt):
        future.result(LIMIT)
    assert 1 == future.result(LIMIT / 10)


@pytest.mark.parametrize("passed", [*itertools.product(range(4), repeat=2)])
def test_exceptions_wherever_a_reply_is_taken_lose_none(recorder, monkeypatch, gate, passed):
    take = _inbox.Inbox.take
    left = [*passed]

    def hit(inbox):
        body = take(inbox)
        if left and body is not None:
            left[0] -= 1
            if left[0] < 0:
                del left[0]
                raise Interrupt
        return body

    recorder.wait_for(gate)  # as every 64th ask reads what came
    futures = [ask(recorder.echo, number) for number in range(4)]
    gate.touch()
    size = _wire.HEADER_SIZE + _wire.REPLY_HEAD.size + len(pickle.dumps(0, 5))
    eventually(lambda: 4 * size == unread(_replies.replies("").fd))
    monkeypatch.setattr(_inbox.Inbox, "take", hit)
    for number, future in enumerate(futures):
        for _ in range(3):
            with contextlib.suppress(Interrupt):
                assert number == future.result(LIMIT / 10)


def test_an_exception_of_a_signal_handler_loses_no_reply_and_repeats_no_message(interrupted):
    with Actor(Recorder()) as actor:
        attempts = 0
        for seed in range(60):
            try:
                try:
                    signal.setitimer(signal.ITIMER_REAL, 0.0005 + seed % 7 * 0.0003)
                    while True:
                        attempts += 1
                        actor.proxy.note(attempts)
                        ask(actor.proxy.echo, attempts).result(LIMIT)
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            except interrupted:
                pass
            except RemoteError as error:  # it came while a reply was being loaded, which then failed
                assert "of the handler" in str(error)
            assert seed == ask(actor.proxy.echo, seed).result(LIMIT)
        noted = ask(actor.proxy.all).result(LIMIT)
        assert sorted(set(noted)) == noted


def test_many_askers_that_do_not_read_get_their_replies_when_they_do(monkeypatch, tmp_path):
    monkeypatch.setattr(_askers, "_MAX_OPEN", 2)
    askers = _askers.Askers(select.poll(), str(tmp_path), keeps_journal=False)
    all_replies = [_replies.Replies(_runtime.home().new_mailbox()) for _ in range(4)]
    try:
        for replies in all_replies:
            while _wire.write_now(replies._writer, _wire.NUDGE_FRAME):
                pass
            askers.reply(replies.mailbox.encode(), 7, _wire.VALUE, "spam")
        for replies in all_replies:
            while os.read(replies.fd, 1 << 20)[-3:] != _wire.NUDGE_FRAME:
                pass
        askers.end(LIMIT)
        for replies in all_replies:
            ((kind, frame),) = frames_in(os.read(replies.fd, 1 << 20))
            assert (_wire.VALUE, "spam") == (kind, pickle.loads(frame[_wire.REPLY_HEAD.size :]))
    finally:
        for replies in all_replies:
            replies.close()
            _runtime.remove(replies.mailbox)


def test_why_an_asker_ended_is_not_looked_for(monkeypatch, tmp_path):
    poll = select.poll()
    askers = _askers.Askers(poll, str(tmp_path), keeps_journal=False)
    replies = _replies.Replies(_runtime.home().new_mailbox())
    monkeypatch.setattr(_ending, "find", None)
    askers.reply(replies.mailbox.encode(), 7, _wire.VALUE, "spam")
    replies.close()
    ((fd, _),) = poll.poll(0)
    askers.attend(fd)
    assert [] == poll.poll(0)
    askers.reply(replies.mailbox.encode(), 8, _wire.VALUE, "spam")
    assert not os.path.exists(replies.mailbox)


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
@pytest.mark.parametrize("arguments", ["", "on_failure=Restart(0)"], ids=["resume", "restart"])
def test_an_asker_that_is_gone_does_not_end_an_actor_of_a_program_without_sigpipe(tmp_path, method, arguments):
    program = """
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        gate = sys.argv[0] + ".gate"
        def ask_and_exit(proxy):
            ask(proxy.echo).result()
            ask(proxy.wait_for, gate)
            os._exit(0)
        if __name__ == "__main__":
            with Actor(Recorder(), context=context, {arguments}) as actor:
                asker = context.Process(target=ask_and_exit, args=(actor.proxy,))
                asker.start()
                asker.join()
                open(gate, "w").close()
                assert "spam" == ask(actor.proxy.echo, "spam").result(20)
    """
    result = run_program(tmp_path, program.replace("{arguments}", arguments), method)
    assert (0, "") == (result.returncode, result.stderr)


def test_two_threads_that_decide_a_future_at_once_call_its_callbacks_once(recorder):
    future, calls = ask(recorder.echo), []
    future._when_done(calls.append)
    future._state = _future.PENDING
    future._finish(None, ActorDied("spam"))
    future._state = _future.PENDING  # as another thread has seen it, that decides now
    future._finish("spam", None)
    assert [future] == calls


def test_what_turns_out_to_be_large_is_pickled_once(recorder):
    """What gives itself away when it is pickled has nothing left the second time."""
    given = GivesAway(2_000)
    recorder.note(given)
    assert [] == given.rows
    assert 2_000 == len(ask(recorder.all).result(LIMIT)[0].rows)
    ask(recorder.note, 1).result(LIMIT)  # the way takes messages for small ones again
    assert 2_000 == len(ask(recorder.echo, GivesAway(2_000)).result(LIMIT).rows)


def test_what_there_is_no_room_for_yet_is_pickled_once(context, gate):
    with Actor(Recorder(), context=context) as actor:
        actor.proxy.wait_for(gate)
        reached(gate)
        sender = threading.Thread(target=lambda: [actor.proxy.note(GivesAway(20)) for _ in range(3_000)])
        sender.start()
        eventually(lambda: not _waiting.is_ready(actor.proxy.__channel__.file, select.POLLOUT))
        gate.touch()
        sender.join(LIMIT)
        assert {20} == {len(given.rows) for given in ask(actor.proxy.all).result(LIMIT)}


def test_a_future_can_not_be_sent_and_says_so(recorder):
    future = ask(recorder.echo)
    with pytest.raises(TypeError, match="a Future belongs to the process that asked"):
        recorder.note(future)
    with pytest.raises(TypeError, match="a Future belongs to the process that asked"):
        ask(recorder.note, [future])
    future.result(LIMIT)


def test_a_cancellation_of_the_method_s_own_is_not_the_asker_s(recorder):
    async def main():
        with pytest.raises(CancelledError, match="eggs"):
            await ask(recorder.fail, asyncio.CancelledError("eggs"))
        return asyncio.current_task().cancelling() if sys.version_info >= (3, 11) else 0

    assert 0 == asyncio.run(main())
    with pytest.raises(CancelledError):
        ask(recorder.fail, asyncio.CancelledError()).result(LIMIT)


@pytest.mark.parametrize("wait", [lambda future, actor: future.result(math.nan), lambda _, actor: actor.join(math.nan)])
def test_a_timeout_that_is_no_number_is_an_error(context, gate, wait):
    with Actor(Recorder(), context=context) as actor:
        future = ask(actor.proxy.wait_for, gate)
        with pytest.raises(ValueError, match="nan"):
            wait(future, actor)
        gate.touch()
        future.result(LIMIT)


def test_the_first_ask_to_an_actor_whose_program_is_gone_says_that_it_is(tmp_path):
    program = """
        if __name__ == "__main__":
            here, there = os.pipe()
            if os.fork():
                os.close(there)
                with open(here, "rb") as file:
                    proxy = pickle.load(file)
                while os.path.exists(os.path.dirname(proxy.__channel__.mailbox)):
                    time.sleep(0.01)
                try:
                    ask(proxy.echo)
                except ActorClosed:
                    print("closed")
            else:
                with Actor(Recorder(), context=context) as actor, open(there, "wb") as file:
                    pickle.dump(actor.proxy, file)
    """
    result = run_program(tmp_path, f"import pickle\n{textwrap.dedent(program)}")
    assert ("closed\n", "") == (result.stdout, result.stderr)


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_an_actor_that_is_forked_while_another_thread_asks_first_can_ask(tmp_path, method):
    """It inherits the lock of what that thread is importing, but not the thread."""
    program = """
        import threading, warnings

        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork where there are threads

        class Slow:  # a finder: it keeps the import waiting until the fork is under way
            def find_spec(self, name, path=None, target=None):
                if name == "pactor._replies":
                    sys.meta_path.remove(self)
                    importing.set()
                    until = time.monotonic() + 1
                    while not forking.is_set() and time.monotonic() < until:
                        time.sleep(0.001)

        class Asks:
            def ask(self, proxy):
                return ask(proxy.echo, "spam").result(20)

        if __name__ == "__main__":
            importing, forking = threading.Event(), threading.Event()
            with Actor(Recorder(), context=context) as recorder:
                sys.meta_path.insert(0, Slow())
                thread = threading.Thread(target=lambda: ask(recorder.proxy.echo).result())
                thread.start()
                importing.wait()
                with Actor(Asks(), context=context) as actor:
                    forking.set()
                    print(ask(actor.proxy.ask, recorder.proxy).result(20))
                thread.join()
    """
    result = run_program(tmp_path, program, method)
    assert ("spam\n", "") == (result.stdout, result.stderr)


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_threads_that_ask_first_and_make_actors_do_not_wait_for_each_other(tmp_path, method):
    """What is imported behind pactor may hold a lock of its own over each fork, as logging does."""
    program = """
        import threading, warnings
        import logging

        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork where there are threads

        if __name__ == "__main__":
            with Actor(Recorder(), context=context) as one:
                thread = threading.Thread(target=lambda: ask(one.proxy.echo).result())
                thread.start()
                with Actor(Recorder(), context=context) as other:
                    print(ask(other.proxy.echo, "spam").result(20))
                thread.join()
    """
    result = run_program(tmp_path, program, method)
    assert ("spam\n", "") == (result.stdout, result.stderr)
