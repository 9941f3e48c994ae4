"""Restarts: what survives the death of an actor's process, and what does not."""

from __future__ import annotations

import collections
import contextlib
import functools
import gc
import itertools
import math
import os
import pickle
import random
import resource
import signal
import threading
import time

import pytest
from fault_support import files_in
from programs import METHODS, run
from restart_actors import (
    ENTRY,
    FOREVER,
    Asks,
    Counting,
    Deadly,
    Delays,
    DiesInRepair,
    ExitsAtStart,
    FailsAtFirst,
    FailsAtGate,
    Hoarder,
    Holds,
    Journal,
    KilledByPayload,
    Logger,
    NeverStarts,
    RestartingOwner,
    send,
)
from support import LIMIT, Counter, Recorder, ends, eventually, limited, reached, results, runs

from pactor import Actor, ActorClosed, ActorDied, Mailbox, Restart, _askers, ask


def kills(proxy, number=signal.SIGKILL):
    proxy.kill(number)


def raises(proxy):
    proxy.fail(ValueError("what was told"))


def exits(proxy):
    proxy.exit(0)


@pytest.mark.parametrize("fail", [kills, functools.partial(kills, number=signal.SIGSEGV), raises, exits])
def test_a_restart_keeps_the_mailbox_and_begins_with_the_original_object(context, fail):
    with Actor(Counting(10), context=context, on_failure=FOREVER) as actor:
        actor.proxy.add(1)
        before = ask(actor.proxy.pid)
        fail(actor.proxy)
        for i in range(100):
            actor.proxy.note(i)
        assert [*range(100)] == ask(actor.proxy.all).result(LIMIT)
        assert 10 == ask(actor.proxy.total).result(LIMIT)
        assert before.result(LIMIT) != actor.pid == ask(actor.proxy.pid).result(LIMIT)


@pytest.mark.parametrize("target", [Counting, functools.partial(Counting, 3)])
def test_a_class_or_a_partial_is_called_again(context, target):
    with Actor(target, context=context, on_failure=FOREVER) as actor:
        actor.proxy.add(1)
        actor.proxy.kill()
        assert (0 if target is Counting else 3) == ask(actor.proxy.total).result(LIMIT)


def test_the_ask_in_execution_ends_with_the_signal_and_the_method(context):
    with Actor(Recorder(), context=context, on_failure=Restart(backoff=1000), name="victim") as actor:
        executing, queued = ask(actor.proxy.kill), ask(actor.proxy.pid)
        with pytest.raises(ActorDied, match=r"'victim' died: process \d+ was killed by SIGKILL while it executed kill"):
            executing.result(LIMIT)  # at once: the backoff is long
        assert not queued.done()
        actor.close()  # which ends it
        assert queued.result(LIMIT)


def test_an_ask_in_execution_with_a_large_argument_leaves_no_payload(context):
    with Actor(KilledByPayload(), context=context, on_failure=FOREVER) as actor:
        with pytest.raises(ActorDied, match=r"SIGKILL while it executed take\(\)|SIGKILL"):
            ask(actor.proxy.take, Deadly(bytes(100_000))).result(LIMIT)
        assert 1 == ask(actor.proxy.take, 1).result(LIMIT)
        names = os.listdir(actor._mailbox.directory)
        assert [] == [name for name in names if name[0].isdigit()]


def test_what_an_asker_did_not_take_before_the_death_it_gets_after(context):
    """Replies that are kept back, as nobody reads, are not lost with the process."""
    with Actor(Recorder(), context=context, on_failure=FOREVER) as actor:
        futures = [ask(actor.proxy.repeat, f"{i:3}", 1000) for i in range(40)]  # more than what fits into a FIFO
        pid = actor.pid
        actor.proxy.kill()
        eventually(lambda: actor.pid != pid)
        assert [f"{i:3}" * 1000 for i in range(40)] == [future.result(LIMIT) for future in futures]


def test_more_failures_than_allowed_end_it_and_everyone_learns_why(context, caplog):
    with Actor(Recorder(), context=context, on_failure=Restart(2, within=1000, backoff=0), name="looping") as actor:
        for _ in range(3):
            actor.proxy.kill()
        with pytest.raises(ActorDied, match=r"'looping' died: .*SIGKILL.* after 2 restarts within 1000 s"):
            ask(actor.proxy.pid).result(LIMIT)  # either raises it
        assert actor.join(LIMIT)
        assert -signal.SIGKILL == actor.exitcode
        with pytest.raises(ActorDied, match="after 2 restarts"):
            actor.proxy.note(1)


def test_failures_that_are_long_enough_apart_do_not_end_it():
    with Actor(Recorder(), on_failure=Restart(1, within=0.05, backoff=0.1)) as actor:
        for _ in range(4):
            with pytest.raises(ActorDied):
                ask(actor.proxy.kill).result(LIMIT)
        assert ask(actor.proxy.pid).result(LIMIT) == actor.pid


def test_a_failing_start_is_tried_again(context, tmp_path):
    (tmp_path / "one").touch()
    (tmp_path / "two").touch()
    target = functools.partial(FailsAtFirst, tmp_path)
    with Actor(target, context=context, on_failure=Restart(2, within=1000, backoff=0)) as actor:
        assert 1 == ask(actor.proxy.value).result(LIMIT)


def test_a_start_that_always_fails_is_told_with_its_exception(tmp_path):
    for i in range(9):
        (tmp_path / str(i)).touch()
    target = functools.partial(FailsAtFirst, tmp_path)
    with Actor(target, on_failure=Restart(2, within=1000, backoff=0)) as actor:
        with pytest.raises(ActorDied, match="could not start: OSError: not yet, after 2 restarts") as caught:
            ask(actor.proxy.value).result(LIMIT)
        assert "in __init__" in str(caught.value.__cause__)


def test_close_executes_what_is_queued_also_over_restarts_and_their_pauses(context, tmp_path):
    log = tmp_path / "log"
    with Actor(Logger(log), context=context, on_failure=Restart(5, within=1000, backoff=1000)) as actor:
        for i in range(3):
            actor.proxy.write(i)
            actor.proxy.kill()
        actor.proxy.write(3)
    assert "0123" == log.read_text()
    assert 0 == actor.exitcode


def test_kill_ends_it_for_good(context):
    with Actor(Recorder(), context=context, on_failure=FOREVER) as actor:
        executing = ask(actor.proxy.sleep, 1000)
        actor.kill()
        with pytest.raises(ActorDied, match="SIGKILL"):
            executing.result(LIMIT)
        assert actor.join(LIMIT)
        assert -signal.SIGKILL == actor.exitcode


def test_kill_ends_it_in_a_pause_too(context):
    with Actor(Recorder(), context=context, on_failure=Restart(backoff=1000)) as actor:
        with pytest.raises(ActorDied):
            ask(actor.proxy.kill).result(LIMIT)
        actor.kill()
        assert actor.join(LIMIT)
        assert -signal.SIGKILL == actor.exitcode


@pytest.mark.parametrize("whom", ["actor", "supervisor"])
def test_sigterm_is_a_polite_close_and_no_failure(context, whom):
    with Actor(Recorder(), context=context, on_failure=FOREVER) as actor:
        ask(actor.proxy.pid).result(LIMIT)
        os.kill(actor.pid if whom == "actor" else actor._process.pid, signal.SIGTERM)
        assert actor.join(LIMIT)
        assert 0 == actor.exitcode
        with pytest.raises(ActorClosed, match="SIGTERM"):
            actor.proxy.note(1)


@pytest.mark.parametrize("method", METHODS)
def test_what_it_forks_can_be_terminated_from_its_first_moment(method, tmp_path):
    """Though its supervisor has a handler of SIGTERM too, and a fork gives back both."""
    (tmp_path / "program.py").write_text(TERMINATES_A_CHILD)
    assert "-15" == run("program.py", method, tmp_path).strip()


TERMINATES_A_CHILD = """
import os, signal

early = []
os.register_at_fork(after_in_child=lambda: early and os.kill(os.getpid(), signal.SIGTERM))  # before pactor's own

from pactor import Actor, Restart, ask

class Forker:
    def fork(self):
        early.append(True)
        pid = os.fork()
        if not pid:
            os._exit(0)
        early.clear()
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

if __name__ == "__main__":
    with Actor(Forker(), on_failure=Restart()) as actor:
        print(ask(actor.proxy.fork).result(timeout=60))
"""


def test_sys_exit_is_no_failure(context):
    with Actor(Recorder(), context=context, on_failure=FOREVER) as actor:
        with pytest.raises(ActorDied, match="ended itself"):
            ask(actor.proxy.fail, SystemExit(3)).result(LIMIT)
        assert actor.join(LIMIT)
        assert 3 == actor.exitcode


def test_an_exception_of_an_asked_method_is_no_failure(context):
    with Actor(Counting(1), context=context, on_failure=FOREVER) as actor:
        actor.proxy.add()
        with pytest.raises(ValueError):
            ask(actor.proxy.fail, ValueError()).result(LIMIT)
        assert 2 == ask(actor.proxy.total).result(LIMIT)


def test_a_killed_supervisor_takes_its_actor_with_it(context):
    with Actor(Recorder(), context=context, on_failure=FOREVER) as actor:
        pid = ask(actor.proxy.pid).result(LIMIT)
        os.kill(actor._process.pid, signal.SIGKILL)
        eventually(lambda: not runs(pid))
        with pytest.raises(ActorDied, match=r"supervisor|owned it"):
            ask(actor.proxy.pid).result(LIMIT)


def test_the_owners_death_ends_a_restartable_actor(context):
    with Actor(RestartingOwner(), context=context) as owner:
        proxy, pids = ask(owner.proxy.make, context.get_start_method()).result(LIMIT)
        owner.kill()
        eventually(lambda: not any(map(runs, pids)))
        with pytest.raises(ActorDied):
            ask(proxy.pid).result(LIMIT)


def test_a_bounded_mailbox_keeps_its_bound_over_restarts(context, tmp_path):
    gate = tmp_path / "gate"
    with Actor(Recorder(), context=context, on_failure=FOREVER, maxsize=2) as actor:
        for _ in range(5):
            actor.proxy.note(1)
            actor.proxy.kill()
        actor.proxy.wait_for(gate)
        reached(gate)
        actor.proxy.note(1)
        actor.proxy.note(2)
        sender = threading.Thread(target=actor.proxy.note, args=(3,))
        sender.start()
        sender.join(0.1)
        assert sender.is_alive()
        gate.touch()
        sender.join(LIMIT)
        assert [1, 2, 3] == ask(actor.proxy.all).result(LIMIT)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"max_restarts": "3"}, TypeError),
        ({"within": None}, TypeError),
        ({"backoff": -1}, ValueError),
        ({"backoff": math.inf}, ValueError),
        ({"max_restarts": math.nan}, ValueError),
    ],
)
def test_restart_takes_what_can_be_right(arguments, error):
    with pytest.raises(error):
        Restart(**arguments)
    with pytest.raises(TypeError):
        Actor(Counter(), on_failure=Restart)


def test_a_hundred_kills_under_load_lose_what_was_executing_at_most(context, tmp_path):
    kills, count, senders = (100, 66_667, 3) if context.get_start_method() == "fork" else (20, 10_000, 3)
    path, gate = tmp_path / "journal", tmp_path / "gate"
    with Actor(functools.partial(Journal, path), context=context, on_failure=FOREVER) as actor:
        processes = [context.Process(target=send, args=(actor.proxy, i, count, gate)) for i in range(senders)]
        for process in processes:
            process.start()
        asks, unanswered = itertools.count(), []
        over = threading.Event()

        def keep_asking():
            while not over.is_set():
                number = next(asks)
                try:
                    assert number == ask(actor.proxy.echo, number).result(LIMIT)
                except ActorDied:
                    pass
                except BaseException as error:
                    unanswered.append(error)

        asker = threading.Thread(target=keep_asking)
        asker.start()
        done = 0
        for _ in range(kills):
            time.sleep(random.random() * 0.02)
            pid = actor.pid
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            eventually(lambda pid=pid: actor.pid != pid)
            done += 1
        gate.touch()
        for process in processes:
            process.join()
        over.set()
        asker.join()
    got = {sender: [] for sender in range(senders)}
    for sender, number in ENTRY.iter_unpack(path.read_bytes()):
        got[sender].append(number)
    assert [] == unanswered
    assert next(asks) > 1
    for numbers in got.values():
        assert sorted(set(numbers)) == numbers
    sent = [int((tmp_path / f"gate.{sender}").read_text()) for sender in range(senders)]
    assert 0 <= sum(sent) - sum(map(len, got.values())) <= done >= kills * 0.9


def test_waiting_for_its_end_is_not_over_at_a_restart(context, tmp_path):
    with Actor(Recorder(), context=context, on_failure=FOREVER) as actor:
        pid = ask(actor.proxy.pid).result(LIMIT)
        actor.proxy.kill()
        assert not actor.join(timeout=0.2)
        assert actor.is_alive()
        assert pid != ask(actor.proxy.pid).result(LIMIT) == actor.pid


@pytest.mark.parametrize("acquainted", [False, True])
def test_the_next_process_gets_no_replies_to_the_dead_one(context, tmp_path, acquainted):
    gate = tmp_path / "gate"
    with (
        Actor(Recorder(), context=context) as slow,
        Actor(Recorder(), context=context) as other,
        Actor(Asks(), context=context, on_failure=FOREVER) as asker,
    ):
        if acquainted:
            assert 1 == ask(asker.proxy.ask_for_echo, slow.proxy, 1).result(LIMIT)
        with pytest.raises(ActorDied):
            ask(asker.proxy.ask_and_die, slow.proxy, gate).result(LIMIT)
        reached(gate)
        blocking = ask(asker.proxy.ask_for_echo, slow.proxy, 2)
        gate.touch()  # what the dead one asked is answered now
        assert 2 == blocking.result(LIMIT)
        assert 3 == ask(asker.proxy.ask_for_echo, other.proxy, 3).result(LIMIT)
        assert 4 == ask(asker.proxy.ask_for_echo, slow.proxy, 4).result(LIMIT)


def test_replies_that_were_computed_arrive_also_when_it_is_given_up(context):
    with Actor(Recorder(), context=context, on_failure=Restart(0)) as actor:
        futures = [ask(actor.proxy.repeat, f"{i:3}", 1000) for i in range(40)]  # more than what fits into a FIFO
        actor.proxy.fail(ValueError("what was told"))
        assert actor.join(LIMIT)
        assert [f"{i:3}" * 1000 for i in range(40)] == [future.result(LIMIT) for future in futures]


def test_replies_kept_for_one_asker_are_written_down_until_he_takes_them(context):
    """What he does not take does not keep what others took."""
    with (
        Actor(Recorder(), context=context, on_failure=FOREVER) as actor,
        Actor(Hoarder(), context=context) as hoarder,
    ):
        ask(hoarder.proxy.ask_much, actor.proxy).result(LIMIT)
        mine = [ask(actor.proxy.echo, f"{i:03000}") for i in range(100)]
        assert [f"{i:03000}" for i in range(100)] == results(mine)
        directory = actor._mailbox.directory
        eventually(lambda: 1 == len([name for name in os.listdir(directory) if name.startswith("journal")]))
        hoarder.kill()
        hoarder.join()
        eventually(lambda: [] == [name for name in os.listdir(directory) if name.startswith("journal")])


def test_sigterm_ends_it_also_where_the_message_in_execution_fails(context, tmp_path):
    gate = tmp_path / "gate"
    with Actor(FailsAtGate(), context=context, on_failure=FOREVER) as actor:
        actor.proxy.fail_at(gate)
        reached(gate)
        os.kill(actor.pid, signal.SIGTERM)
        gate.touch()
        assert actor.join(LIMIT)
        with pytest.raises((ActorClosed, ActorDied)):
            actor.proxy.note(1)


def test_close_ends_one_that_never_starts(context):
    with Actor(NeverStarts, context=context, on_failure=FOREVER) as actor:
        value = ask(actor.proxy.value)
        first = actor.pid
        eventually(lambda: actor.pid != first)
    with pytest.raises(ActorDied, match="could not start: OSError: no database"):
        value.result(LIMIT)


def test_a_program_that_ignores_its_children_has_restartable_actors_too(context):
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        actor = Actor(Recorder(), context=context, on_failure=FOREVER)
        actor.proxy.kill()
        assert 1 == ask(actor.proxy.echo, 1).result(LIMIT)
    finally:
        signal.signal(signal.SIGCHLD, before)
    actor.close()  # not before: multiprocessing keeps a process that it could not reap
    assert actor.join(LIMIT)


def test_a_lock_of_a_killed_process_goes_with_it(context):
    """Its supervisor has none of the same description."""
    with Actor(DiesInRepair(), context=context, maxsize=2, on_failure=FOREVER) as actor:
        pid = ask(actor.proxy.pid).result(LIMIT)
        ask(actor.proxy.die_in_repair).result(LIMIT)
        slots = os.open(f"{actor._mailbox.directory}/slots", os.O_RDONLY | os.O_NONBLOCK)
        os.read(slots, 1)  # as a sender does that is killed then
        os.close(slots)
        eventually(lambda: actor.pid != pid)
        actor.proxy.note("spam")
        assert ["spam"] == ask(actor.proxy.all).result(LIMIT)


def test_what_is_written_down_for_an_asker_is_not_much_more_than_what_he_has_not_taken(tmp_path):
    journal, unsent = _askers._Journal(str(tmp_path / "journal.1"), b"asker"), collections.deque(maxlen=10)
    for number in range(1_000):
        unsent.append(b"%1000d" % number)
        journal.add(unsent[-1], unsent)
        assert os.path.getsize(journal.path) < 100 * 1_100
        with open(journal.path, "rb") as file, contextlib.suppress(EOFError):
            kept = []
            while True:
                kept.append(pickle.load(file))
        assert [(b"asker", frame) for frame in unsent] == kept[-len(unsent) :]
    assert ["journal.1"] == os.listdir(tmp_path)


def test_what_can_not_be_written_down_whole_is_not_at_all(tmp_path):
    journal, unsent = _askers._Journal(str(tmp_path / "journal.1"), b"asker"), [b"1" * 100]
    journal.add(unsent[-1], unsent)
    with limited(resource.RLIMIT_FSIZE, 1_050), pytest.raises(OSError, match="no room"):
        for _ in range(20):
            unsent.append(b"2" * 100)
            journal.add(unsent[-1], unsent)
    unsent.append(b"3")
    journal.add(unsent[-1], unsent)
    with open(journal.path, "rb") as file:
        kept = [pickle.load(file) for _ in unsent[:-1]]
        assert b"" == file.read()
    assert (b"asker", b"3") == kept[-1]


@pytest.mark.parametrize("how", ["init", "on_start"])
def test_sys_exit_at_the_start_is_no_failure(context, how):
    with Actor(functools.partial(ExitsAtStart, how), context=context, on_failure=FOREVER) as actor:
        assert ends(actor)
        assert 5 == actor.exitcode
        with pytest.raises(ActorDied, match="ended itself"):
            ask(actor.proxy.value).result(LIMIT)


@pytest.mark.parametrize("on_failure", ["resume", FOREVER], ids=["resume", "restart"])
def test_a_target_may_hold_a_mailbox_that_nobody_else_has(context, on_failure):
    with Actor(Holds(Mailbox()), context=context, on_failure=on_failure) as actor:
        gc.collect()
        assert "spam" == ask(actor.proxy.put_and_get, "spam").result(LIMIT)
        if on_failure != "resume":
            actor.proxy.kill()
            assert "eggs" == ask(actor.proxy.put_and_get, "eggs").result(LIMIT)


def test_an_actor_keeps_no_mailbox_that_it_sends(context):
    with Actor(Holds(Mailbox()), context=context) as actor:
        assert ask(actor.proxy.sends_and_forgets).result(LIMIT)


def test_at_a_close_the_supervisor_is_told_before_the_actor_can_end(context, monkeypatch):
    """To tell one that is gone would end a program that does not ignore SIGPIPE."""
    with Actor(Recorder(), context=context, on_failure=FOREVER) as actor:
        signal_actor, told = actor._signal, []

        def note(number):
            told.append((number, actor.exitcode, actor.proxy.__channel__.ending))
            signal_actor(number)

        monkeypatch.setattr(actor, "_signal", note)
        actor.close()
        assert [(0, None, None)] == told


def test_what_its_timers_held_goes_with_them_and_what_is_queued_stays(context, gate):
    with Actor(Delays(), context=context, on_failure=FOREVER) as actor:
        actor.proxy.note_later(100_000)
        actor.proxy.wait_for(gate)
        reached(gate)
        assert 1 == len(files_in(actor.proxy))
        actor.proxy.kill()
        with Actor(Recorder(), context=context) as other:
            other.proxy.tell(actor.proxy, bytes(100_000))  # its file, of one that has ended, stays
        actor.proxy.wait_for(gate.with_name("second"))
        assert 2 == len(files_in(actor.proxy))
        gate.touch()
        reached(gate.with_name("second"))
        assert [] == files_in(actor.proxy)
        gate.with_name("second").touch()
        assert [bytes(100_000)] == ask(actor.proxy.all).result(LIMIT)


def test_its_pid_is_known_when_it_has_ended_too(context):
    with Actor(Recorder(), context=context, on_failure=FOREVER) as actor:
        pid = ask(actor.proxy.pid).result(LIMIT)
    assert pid == actor.pid


def test_an_exit_in_a_method_is_a_death_also_with_0_and_while_it_closes(context, gate, tmp_path):
    seen = tmp_path / "seen"
    with Actor(Logger(seen), context=context, on_failure=FOREVER) as actor:
        actor.proxy.wait_for(gate)
        reached(gate)
        actor.proxy.exit(0)
        actor.proxy.write("x")
        actor.close()
        gate.touch()
        assert ends(actor)
    assert "x" == seen.read_text()
