"""Methods that return futures: their replies come when those are done, and the actor goes on meanwhile."""

from __future__ import annotations

import concurrent.futures
import contextlib
import math
import multiprocessing
import os
import signal

import pytest
from ask_actors import Fails
from later_actors import Forwarder, Limited
from support import LIMIT, Recorder, ends, eventually, reached, results, sleeps
from test_actor import run_program

from pactor import Actor, ActorClosed, ActorDied, RemoteError, Restart, _loop, _waiting, ask
from pactor._later import Unanswered, unanswered

FOREVER = Restart(max_restarts=math.inf, backoff=0)


@pytest.fixture
def worker(context):
    with Actor(Forwarder(), context=context) as actor:
        yield actor


@pytest.fixture
def forwarder(context, worker):
    with Actor(Forwarder(worker.proxy), context=context) as actor:
        yield actor


def test_the_actor_goes_on_while_another_works_for_it(forwarder, worker, gate):
    forwarded = [ask(forwarder.proxy.forward, worker.proxy.wait_for, gate)]
    reached(gate)
    forwarded += [ask(forwarder.proxy.forward, worker.proxy.echo, i) for i in range(100)]
    assert "meanwhile" == ask(forwarder.proxy.echo, "meanwhile").result(LIMIT)
    assert not any(future.done() for future in forwarded)
    gate.touch()
    assert [None, *range(100)] == results(forwarded)


def test_a_reply_that_was_read_when_an_exception_came_is_passed_on_at_once(context, forwarder, worker, gate):
    with Actor(Fails(), context=context) as other:
        owed = ask(forwarder.proxy.forward, worker.proxy.wait_for, gate)
        reached(gate)
        assert "hit" == ask(forwarder.proxy.hit, other.proxy, gate).result(LIMIT)
        assert owed.result(LIMIT / 10) is None


def test_a_result_that_comes_during_a_long_message_is_sent_behind_it(forwarder, worker):
    for _ in range(3):
        forwarded = ask(forwarder.proxy.forward, worker.proxy.echo, "x")
        forwarder.proxy.sleep(0.1)  # longer than the loop goes on without a look around
        assert "x" == forwarded.result(LIMIT)


def test_a_chain_of_actors_keeps_none_of_them_waiting(context):
    with contextlib.ExitStack() as stack:
        chain = ()
        for _ in range(5):
            chain = (stack.enter_context(Actor(Forwarder(*chain), context=context)).proxy,)
        assert [i + 4 for i in range(200)] == results([ask(chain[0].along, i) for i in range(200)])


def test_a_circle_of_asks_is_none_where_nobody_waits(forwarder, worker):
    """Each goes on, so the one can ask the other, who asks it."""
    assert 1 == ask(forwarder.proxy.forward, worker.proxy.forward, forwarder.proxy.echo, 1).result(LIMIT)
    assert 2 == ask(forwarder.proxy.ask_itself, 2).result(LIMIT)


def test_any_future_of_concurrent_futures_will_do(forwarder):
    assert list(range(20)) == results([ask(forwarder.proxy.from_a_thread, i) for i in range(20)])
    assert "x" == ask(forwarder.proxy.done, "x").result(LIMIT)
    with pytest.raises(KeyError, match="spam"):
        ask(forwarder.proxy.fail_in_a_thread).result(LIMIT)


def test_a_signal_handler_of_an_idle_actor_may_set_the_result(forwarder):
    future = ask(forwarder.at_a_signal, "value")
    ask(forwarder.echo).result(LIMIT)
    eventually(lambda: sleeps(forwarder.pid))
    os.kill(forwarder.pid, signal.SIGUSR1)
    assert "value" == future.result(LIMIT / 10)


def test_one_future_may_answer_many(forwarder):
    asks = [ask(forwarder.proxy.the_same) for _ in range(10)]
    forwarder.proxy.end_never()
    assert ["at last"] * 10 == results(asks)


def test_one_future_may_fail_many_and_each_learns_where(forwarder):
    asks = [ask(forwarder.proxy.the_same) for _ in range(5)]
    forwarder.proxy.fail_never()
    texts = {str(future.exception(LIMIT).__cause__) for future in asks}
    assert len(texts) == 1


def test_what_the_other_raised_is_raised(forwarder, worker):
    with pytest.raises(KeyError, match="spam") as caught:
        ask(forwarder.proxy.forward, worker.proxy.fail, KeyError("spam")).result(LIMIT)
    assert "in fail" in str(caught.value.__cause__)


def test_a_future_that_is_cancelled_is_an_error(forwarder, worker):
    with pytest.raises(concurrent.futures.CancelledError, match=r"cancelled\(\) was cancelled"):
        ask(forwarder.proxy.cancelled, worker.proxy.echo).result(LIMIT)


def test_the_death_of_the_other_is_told(forwarder, worker):
    with pytest.raises(ActorDied, match="died"):
        ask(forwarder.proxy.forward, worker.proxy.exit, 3).result(LIMIT)
    assert "x" == ask(forwarder.proxy.echo, "x").result(LIMIT)


def test_a_future_inside_of_something_is_not_waited_for(forwarder, worker):
    with pytest.raises((TypeError, RemoteError), match=r"nested\(\) returned \[<Future"):
        ask(forwarder.proxy.nested, worker.proxy.echo).result(LIMIT)


def test_what_a_told_method_returns_is_nobodys(forwarder, worker):
    forwarder.proxy.forward(worker.proxy.note, 1)
    assert 1 == ask(forwarder.proxy.echo, 1).result(LIMIT)
    assert [1] == ask(worker.proxy.all).result(LIMIT)


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
@pytest.mark.parametrize(
    ("cls", "how", "arguments"),
    [
        ("Forwarder", "forward", "worker.proxy.fail, KeyError('spam')"),
        ("Forwarder", "fail_in_a_thread", ""),
        ("AsyncForwarder", "forward", "worker.proxy.fail, KeyError('spam')"),
        ("AsyncForwarder", "forward_in_a_coroutine", "worker.proxy.fail, KeyError('spam')"),
    ],
)
def test_what_a_told_method_returns_fails_as_the_method_does(tmp_path, method, cls, how, arguments):
    program = f"""
    from later_actors import AsyncForwarder, Forwarder
    if __name__ == "__main__":
        with Actor(Forwarder(), context=context) as worker:
            with Actor({cls}(), name="stops", context=context, on_failure="stop") as actor:
                actor.proxy.{how}({arguments})
                print(ask(actor.proxy.the_same).exception(LIMIT))
            with Actor({cls}(), context=context) as actor:
                actor.proxy.{how}({arguments})
                print(ask(actor.proxy.done, "goes on").result(LIMIT))
    """
    result = run_program(tmp_path, program, method)
    assert f"actor 'stops' stopped: {how}() raised KeyError: 'spam'\ngoes on\n" == result.stdout
    assert f"{how}() raised; it ends" in result.stderr


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_whoever_worked_for_it_ends_none_that_was_told(forwarder, error):
    forwarder.proxy.failed(error())
    assert 1 == ask(forwarder.proxy.echo, 1).result(LIMIT)
    assert 2 == ask(forwarder.proxy.echo, 2).result(LIMIT)


def test_beside_a_thread_that_reads_the_replies(forwarder, worker, gate):
    forwarder.proxy.wait_in_a_thread(worker.proxy.wait_for, gate)
    reached(gate)
    forwarded = [ask(forwarder.proxy.forward, worker.proxy.echo, i) for i in range(10)]
    assert "x" == ask(forwarder.proxy.echo, "x").result(LIMIT)
    gate.touch()
    assert list(range(10)) == results(forwarded)
    assert list(range(10)) == results([ask(forwarder.proxy.forward, worker.proxy.echo, i) for i in range(10)])


def test_idle_it_uses_no_processor(forwarder, worker, gate):
    """A reply that is to come later is no reason to look for it again and again."""
    forwarded = ask(forwarder.proxy.forward, worker.proxy.wait_for, gate)
    reached(gate)
    ask(forwarder.proxy.echo).result(LIMIT)
    before = os.times().elapsed, _used(forwarder.pid)
    eventually(lambda: os.times().elapsed - before[0] > 0.5)
    assert _used(forwarder.pid) - before[1] < 0.2
    gate.touch()
    forwarded.result(LIMIT)


def _used(pid):
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# The end


def test_close_waits_for_what_is_owed(context, worker, gate):
    with Actor(Forwarder(), context=context) as actor:
        asked = [ask(actor.proxy.forward, worker.proxy.wait_for, gate), ask(actor.proxy.from_a_thread, 1)]
        reached(gate)
        actor.close()
        assert not actor.join(timeout=0.05)
        gate.touch()
        assert [None, 1] == results(asked)
        assert actor.join(LIMIT)
        assert 0 == actor.exitcode


def test_an_actor_that_is_flooded_while_it_closes_still_sends_what_it_owes(monkeypatch, gate):
    monkeypatch.setattr(_loop, "_MOST_REFUSED", 10)
    fork = multiprocessing.get_context("fork")
    with Actor(Recorder(), context=fork) as other, Actor(Forwarder(), context=fork, name="flooded") as actor:
        owed = ask(actor.proxy.from_a_thread_at, gate)
        reached(gate)
        actor.close()
        for _ in range(50):
            other.proxy.tell(actor.proxy, "late")
        ask(other.proxy.echo).result(LIMIT)
        gate.touch()
        assert owed.result(LIMIT) is None


def test_an_actor_that_looks_for_what_comes_soon_while_it_closes_sees_what_is_done(monkeypatch):
    monkeypatch.setattr(_waiting.Patience, "SHORT", 1.0)
    monkeypatch.setattr(_waiting, "SLICE", 1.0)
    monkeypatch.setattr(_waiting, "busy_until", 0.0)
    for _ in range(10):  # as it may look right before or right behind the nudge
        with Actor(Forwarder(), context=multiprocessing.get_context("fork")) as actor:
            owed = ask(actor.proxy.from_a_thread, "done")
            assert "meanwhile" == ask(actor.proxy.echo, "meanwhile").result(LIMIT)
            actor.close()
            assert "done" == owed.result(LIMIT)
            assert ends(actor)


def test_what_is_done_when_sigterm_comes_is_replied(context, gate):
    with Actor(Forwarder(), context=context) as actor:
        done = ask(actor.proxy.from_a_thread, "done")
        actor.proxy.sleep(0.1)  # it is done meanwhile
        actor.proxy.wait_for(gate)
        reached(gate)
        os.kill(actor.pid, signal.SIGTERM)
        gate.touch()
        assert "done" == done.result(LIMIT)


def test_while_it_closes_asks_end_at_once(context, worker, gate):
    with Actor(Recorder(), context=context) as gatekeeper, Actor(Forwarder(), context=context) as actor:
        owed = ask(actor.proxy.forward, gatekeeper.proxy.wait_for, gate)
        reached(gate)
        actor.close()
        for _ in range(3):
            with pytest.raises(ActorClosed):
                ask(worker.proxy.forward, actor.proxy.echo).result(LIMIT)
        assert not owed.done()
        gate.touch()
        assert owed.result(LIMIT) is None


def test_a_circle_that_is_closed_ends(context, gate):
    """What it owes depends on an ask that comes behind its close."""
    with Actor(Forwarder(), context=context) as one, Actor(Forwarder(), context=context) as other:
        owed = ask(one.proxy.forward, other.proxy.sleep_and_forward, gate, one.proxy.echo)
        reached(gate)
        one.close()
        gate.touch()
        with pytest.raises(ActorClosed):
            owed.result(LIMIT)


@pytest.mark.parametrize("policy", ["resume", FOREVER], ids=["resume", "restart"])
def test_sigterm_does_not_wait(context, policy):
    with Actor(Forwarder(), context=context, on_failure=policy) as actor:
        owed = ask(actor.proxy.never)
        ask(actor.proxy.echo).result(LIMIT)
        os.kill(actor.pid, signal.SIGTERM)
        with pytest.raises(ActorClosed, match="SIGTERM"):
            owed.result(LIMIT)
        assert actor.join(LIMIT)


def test_its_death_ends_what_it_owed(context):
    with Actor(Forwarder(), context=context) as actor:
        owed = [ask(actor.proxy.never) for _ in range(5)]
        ask(actor.proxy.echo).result(LIMIT)
        actor.kill()
        for future in owed:
            with pytest.raises(ActorDied):
                future.result(LIMIT)


@pytest.mark.parametrize("fail", ["kill", "raise"])
def test_a_restart_ends_what_it_owed_with_actor_died(context, fail):
    with Actor(Forwarder(), context=context, on_failure=FOREVER) as actor:
        done = [ask(actor.proxy.done, i) for i in range(20)]
        owed = [ask(actor.proxy.never) for _ in range(20)]
        ask(actor.proxy.echo).result(LIMIT)
        if fail == "kill":
            os.kill(actor.pid, signal.SIGKILL)
        else:
            actor.proxy.fail(ValueError("spam"))
        for future in owed:
            with pytest.raises(ActorDied, match="it is restarted, without this message"):
                future.result(LIMIT)
        assert list(range(20)) == results(done)
        assert "x" == ask(actor.proxy.done, "x").result(LIMIT)


def test_asks_of_several_processes_are_each_ended(context, worker):
    """Each asker is told, and told of its own asks."""
    with (
        Actor(Forwarder(), context=context, on_failure=FOREVER) as actor,
        Actor(Forwarder(), context=context) as other,
    ):
        owed = [ask(actor.proxy.never)]
        owed += [ask(asker.proxy.forward, actor.proxy.never) for asker in (worker, other)]
        for asker in (worker, other):
            assert 1 == ask(asker.proxy.forward, actor.proxy.echo, 1).result(LIMIT)
        actor.proxy.kill()
        for future in owed:
            with pytest.raises(ActorDied, match="it is restarted"):
                future.result(LIMIT)


def test_where_an_ask_can_not_be_written_down_it_ends_with_the_reason(context):
    with Actor(Limited(), context=context, on_failure=FOREVER) as actor:
        ask(actor.proxy.echo).result(LIMIT)  # it knows the way back
        with pytest.raises(OSError, match="open files"):
            ask(actor.proxy.never_without_descriptors).result(LIMIT)
        assert 1 == ask(actor.proxy.done, 1).result(LIMIT)


def test_what_is_written_down_can_be_read_by_another(tmp_path):
    asks = Unanswered(str(tmp_path))
    places = [asks.add(asker, number) for asker in (b"one", b"other") for number in range(5)]
    for place in places[::2]:
        asks.remove(place)
    expected = [(b"one", 1), (b"one", 3), (b"other", 0), (b"other", 2), (b"other", 4)]
    assert expected == sorted(unanswered(str(tmp_path)))
    assert [] == list(unanswered(str(tmp_path)))
    assert [] == list(tmp_path.iterdir())


def test_what_was_written_down_takes_no_more_room_than_what_is_owed(tmp_path):
    asks = Unanswered(str(tmp_path))
    for number in range(1000):
        place = asks.add(b"asker", number)
        asks.remove(place)
    assert 0 == sum(path.stat().st_size for path in tmp_path.iterdir())
    places = [asks.add(b"asker", number) for number in range(100)]
    for _ in range(50):
        for place in places[:50]:
            asks.remove(place)
        places[:50] = [asks.add(b"asker", number) for number in range(50)]
    assert 100 * 16 == (tmp_path / "unanswered").stat().st_size


def test_what_found_no_room_to_be_written_down_is_forgotten(tmp_path, monkeypatch):
    asks = Unanswered(str(tmp_path))
    asks.add(b"one", 1)
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:3]))
    with pytest.raises(OSError, match="no room"):
        asks.add(b"other", 2)
    monkeypatch.undo()
    asks.add(b"third", 3)
    assert [(b"one", 1), (b"third", 3)] == list(unanswered(str(tmp_path)))


@pytest.mark.parametrize("cut", [1, 3, 5])
def test_what_was_cut_by_a_kill_is_left_out(tmp_path, cut):
    asks = Unanswered(str(tmp_path))
    asks.add(b"one", 1)
    with open(tmp_path / "askers", "ab") as file:
        file.write(b"\x05\x00other"[:cut])  # it was to be the next, and no record names it yet
    assert [(b"one", 1)] == list(unanswered(str(tmp_path)))
