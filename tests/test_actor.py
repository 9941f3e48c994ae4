"""The Actor: made, owned, closed, and gone."""

from __future__ import annotations

import functools
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from plain_actors import (
    BreaksItsLog,
    EndsSlowly,
    FailsToStart,
    Forker,
    Frozen,
    Named,
    Owner,
    Registered,
    Slots,
    SlotsWithEnqueue,
    Strays,
    WithPrimitives,
)
from programs import METHODS, run
from support import LIMIT, Counter, Recorder, eventually, reached, runs

from pactor import Actor, ActorClosed, ActorDied, ActorError, Restart, _ending, _owned, _runtime, ask


@pytest.mark.parametrize(
    "target", [Counter(3), Counter, functools.partial(Counter, 3)], ids=["instance", "class", "partial"]
)
def test_wraps_an_instance_a_class_or_a_partial(context, target):
    with Actor(target, context=context) as actor:
        actor.proxy.add(2)
        assert (2 if target is Counter else 5) == ask(actor.proxy.total).result(LIMIT)


def test_works_on_a_copy():
    mine = Counter(1)
    with Actor(mine) as actor:
        actor.proxy.add()
        assert 2 == ask(actor.proxy.total).result(LIMIT)
    assert 1 == mine.value


def test_forwards_unknown_names_to_its_proxy():
    with Actor(Counter()) as actor:
        actor.add(2)
        assert 2 == ask(actor.total).result(LIMIT)
        assert "add" in dir(actor)
        with pytest.raises(AttributeError, match=r"Counter.*no method 'nothing'"):
            actor.nothing()


def test_default_names_count_and_given_ones_are_kept():
    with Actor(Named()) as one, Actor(Named()) as two, Actor(Named(), name="three") as three:
        assert ["Named-1", "Named-2", "three"] == [one.name, two.name, three.name]
        assert "three" in repr(three) and str(three.pid) in repr(three)


def test_runs_in_a_process_of_its_own(context):
    with Actor(Recorder(), context=context) as actor:
        assert actor.is_alive()
        assert actor.exitcode is None
        assert actor.pid == ask(actor.proxy.pid).result(LIMIT) != os.getpid()
        actor.close()
        assert actor.join(LIMIT)
        assert not actor.is_alive()
        assert 0 == actor.exitcode


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"name": 3}, TypeError),
        ({"maxsize": "3"}, TypeError),
        ({"maxsize": -1}, ValueError),
        ({"on_failure": "restart"}, ValueError),
        ({"maxsize": 10**9}, ValueError),
    ],
)
def test_bad_arguments_raise_and_leave_nothing(arguments, error):
    with pytest.raises(error):
        Actor(Counter(), **arguments)


class HasEnqueue:
    def enqueue(self):
        pass


@pytest.mark.parametrize("target", [[], 3, "text", HasEnqueue(), len, functools.partial(len), None])
def test_what_cannot_get_an_enqueue_raises_type_error(target):
    with pytest.raises(TypeError):
        Actor(target)


@pytest.mark.parametrize("cls", [Slots, SlotsWithEnqueue, Registered, Frozen])
def test_enqueue_finds_a_place_in_unusual_classes(context, cls):
    with Actor(cls, context=context) as actor:
        actor.proxy.add()
        eventually(lambda: ask(actor.proxy.total).result(LIMIT) == 3)


@pytest.mark.parametrize("target", [Recorder(), lambda: None, threading.Lock()], ids=["local", "lambda", "lock"])
def test_a_target_that_cannot_be_pickled_raises_in_the_caller(target):
    if isinstance(target, Recorder):
        target.handle = lambda: None
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
        Actor(target)


def test_a_target_may_hold_locks_queues_and_events_of_multiprocessing(context):
    target = WithPrimitives(context)
    with Actor(target, context=context) as actor:
        actor.proxy.use()
        assert "from the actor" == target.queue.get(timeout=LIMIT)
        assert target.event.wait(LIMIT)
    target.queue.close()
    target.queue.join_thread()


def test_an_actor_is_not_picklable_and_says_what_is():
    with Actor(Counter()) as actor, pytest.raises(TypeError, match=r"\.proxy"):
        pickle.dumps(actor)


def test_close_does_not_wait_for_room_in_a_full_mailbox(tmp_path):
    gate = tmp_path / "gate"
    with Actor(Recorder()) as actor:
        actor.proxy.wait_for(gate)
        flooder = threading.Thread(target=_flood_until_closed, args=(actor.proxy,))
        flooder.start()
        way = actor._way
        eventually(lambda: not way.try_send(b"\x03\0\x06"))  # nudges, until there is no room
        actor.close()
        gate.touch()
        assert actor.join(LIMIT)
        flooder.join(LIMIT)


def _flood_until_closed(proxy):
    with pytest.raises(ActorError):
        while True:
            proxy.note(0)


def test_sends_to_a_closed_actor_raise():
    actor = Actor(Counter(), name="gone")
    actor.close()
    for send in (actor.proxy.add, lambda: ask(actor.proxy.total)):
        with pytest.raises(ActorClosed, match="'gone' is closed"):
            send()
    actor.join()
    with pytest.raises(ActorClosed, match="'gone' is closed"):
        actor.proxy.add()


def test_join_says_whether_it_has_ended(tmp_path):
    gate = tmp_path / "gate"
    with Actor(Recorder()) as actor:
        actor.proxy.wait_for(gate)
        actor.close()
        assert not actor.join(timeout=0.01)
        gate.touch()
        assert actor.join(timeout=LIMIT)
        assert actor.join()


def test_join_receives_replies_that_are_still_due():
    actor = Actor(Recorder())
    futures = [ask(actor.proxy.echo, bytes(1000)) for _ in range(300)]
    actor.close()
    assert actor.join(LIMIT)
    assert [bytes(1000)] * 300 == [future.result(0) for future in futures]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_an_ask_to_a_killed_actor_fails_and_names_the_signal(context, number):
    with Actor(Recorder(), context=context, name="victim") as actor:
        with pytest.raises(ActorDied, match=rf"'victim' died.*{number.name}"):
            ask(actor.proxy.kill, number).result(LIMIT)
        assert actor.join(LIMIT)
        assert -number == actor.exitcode
        with pytest.raises(ActorDied, match=number.name):
            actor.proxy.note(1)


def test_kill_ends_it_at_once():
    with Actor(Recorder()) as actor:
        reply = ask(actor.proxy.sleep, 1000)
        actor.kill()
        with pytest.raises(ActorDied, match="SIGKILL"):
            reply.result(LIMIT)
        assert -signal.SIGKILL == eventually(lambda: actor.exitcode)


@pytest.mark.parametrize("code", [0, 3])
def test_sys_exit_in_a_method_ends_the_actor(code):
    with Actor(Recorder()) as actor:
        with pytest.raises(ActorDied, match=r"ended itself: fail\(\) raised SystemExit"):
            ask(actor.proxy.fail, SystemExit(code)).result(LIMIT)
        assert actor.join(LIMIT)
        assert code == actor.exitcode


def test_resume_goes_on_with_the_next_message(context):
    with Actor(Recorder(), context=context, name="clumsy") as actor:
        actor.proxy.fail(ValueError("what was told"))
        actor.proxy.note(1)
        assert [1] == ask(actor.proxy.all).result(LIMIT)


def test_stop_ends_the_actor_and_names_the_exception(context):
    with Actor(Recorder(), context=context, on_failure="stop") as actor:
        actor.proxy.fail(ValueError("what was told"))
        with pytest.raises(ActorDied, match=r"stopped: fail\(\) raised ValueError: what was told") as caught:
            ask(actor.proxy.all).result(LIMIT)  # either raises it
        assert "in fail" in str(caught.value.__cause__)
        assert actor.join(LIMIT)
        assert 1 == actor.exitcode


def test_stop_does_not_concern_what_an_asker_is_told():
    with Actor(Recorder(), on_failure="stop") as actor:
        with pytest.raises(ValueError):
            ask(actor.proxy.fail, ValueError()).result(LIMIT)
        assert 1 == ask(actor.proxy.echo, 1).result(LIMIT)


def test_another_process_is_told_why_an_actor_could_not_start(context):
    """Also one that comes to know of it at its first send."""
    with Actor(Recorder(), context=context) as other, Actor(FailsToStart, context=context, name="stillborn") as actor:
        assert actor.join(LIMIT)
        with pytest.raises(ActorDied, match="ValueError: no way") as caught:
            ask(other.proxy.tell, actor.proxy, 1).result(LIMIT)
        assert "in __init__" in str(caught.value.__cause__)


def test_an_actor_can_own_actors(context):
    with Actor(Owner(), context=context) as owner:
        proxy = ask(owner.proxy.make, context.get_start_method()).result(LIMIT)
        proxy.add(3)
        assert 3 == ask(proxy.total).result(LIMIT)
        _, child = ask(owner.proxy.pids).result(LIMIT)
    eventually(lambda: not runs(child))
    with pytest.raises(ActorClosed):
        ask(proxy.total).result(LIMIT)


def test_it_was_closed_for_others_also_while_its_mailbox_is_removed(context, monkeypatch):
    def unlink_and_look(path):
        unlink(path)
        found.append(_ending.find(mailbox))

    found, unlink = [], _runtime.unlink
    with Actor(Recorder(), context=context) as actor:
        mailbox = actor._mailbox.directory
        monkeypatch.setattr(_runtime, "unlink", unlink_and_look)
    assert {True} == {ending.closed for ending in found}


def test_a_reply_that_did_not_come_says_why_also_when_all_is_removed(context, tmp_path):
    gate = tmp_path / "gate"
    with Actor(Recorder(), context=context) as actor:
        actor.proxy.wait_for(gate)
        asked = ask(actor.proxy.echo)
        reached(gate)
        os.kill(actor.pid, signal.SIGTERM)
        gate.touch()
        actor._process.join(LIMIT)
        actor._bury()  # as join() does, but that may have received the end before
        with pytest.raises(ActorClosed, match="SIGTERM"):
            asked.result(LIMIT)


def test_actors_end_when_their_owner_is_killed(context):
    with Actor(Owner(), context=context) as owner:
        proxy = ask(owner.proxy.make, context.get_start_method()).result(LIMIT)
        _, child = ask(owner.proxy.pids).result(LIMIT)
        owner.kill()
        eventually(lambda: not runs(child))
        with pytest.raises(ActorError):
            ask(proxy.total).result(LIMIT)


def test_only_its_owner_closes_an_actor():
    with Actor(Counter()) as actor:
        pid = os.fork()
        if not pid:
            try:
                actor.close()
            except ActorError:
                os._exit(7)
            os._exit(1)
        assert 7 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert 0 == ask(actor.proxy.total).result(LIMIT)


def test_what_an_actor_forks_is_a_process_like_any_other(context):
    """It can be terminated, and asks and tells for itself, also the actor that it comes from."""
    with Actor(Forker(), context=context) as actor, Actor(Counter(), context=context) as counter:
        assert -signal.SIGTERM == ask(actor.proxy.terminate_child).result(LIMIT)
        assert 0 == ask(actor.proxy.child_asks, counter.proxy).result(LIMIT)
        assert 1 == ask(counter.proxy.total).result(LIMIT)
        assert [0, 0, 3, 1] == [ask(actor.proxy.child_exits, how).result(LIMIT) for how in (None, 0, 3, "spam")]


def test_an_actor_may_use_subprocess(context):
    with Actor(Forker(), context=context) as actor:
        assert "hello\n" == ask(actor.proxy.run).result(LIMIT)


def run_program(tmp_path, text, method="fork"):
    """Runs a program of its own, with `Actor` of that start method."""
    path = tmp_path / "program.py"
    path.write_text(
        "import multiprocessing, os, signal, sys, time\nfrom pactor import *\nfrom support import *\n"
        f"context = multiprocessing.get_context({method!r})\n" + textwrap.dedent(text)
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["..", *sys.path]), "PACTOR_DIR": str(tmp_path)}
    return subprocess.run(
        [sys.executable, "-W", "error", str(path)],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env=environment,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
@pytest.mark.parametrize(
    ("target", "policy", "texts"),
    [
        ("Recorder()", "resume", ["actor 'clumsy' (process ", "fail() raised; it goes on", "ValueError: told"]),
        ("Recorder()", "stop", ["actor 'clumsy' (process ", "fail() raised; it ends", "ValueError: told"]),
        ("functools.partial(Recorder, 1)", "resume", ["actor 'clumsy' (process ", "could not start", "TypeError: "]),
    ],
    ids=["resume", "stop", "start"],
)
def test_what_nobody_waits_for_is_shown_on_stderr(tmp_path, method, target, policy, texts):
    result = run_program(
        tmp_path,
        f"""
        import functools
        if __name__ == "__main__":
            with Actor({target}, name="clumsy", on_failure={policy!r}, context=context) as actor:
                try:
                    actor.proxy.fail(ValueError("told"))
                except ActorDied:
                    pass
        """,
        method,
    )
    assert [] == [text for text in texts if text not in result.stderr], result.stderr
    assert 1 == result.stderr.count("Traceback")
    assert "_loop.py" not in result.stderr or "could not start" in texts[1]


@pytest.mark.parametrize("how", ["return", "raise", "exit"])
def test_a_child_that_a_method_forks_is_not_the_actor(context, how):
    with Actor(Strays(), context=context) as actor:
        for i in range(20):
            actor.proxy.tick()
            if i == 5:
                actor.proxy.stray(how)
        assert [actor.pid] * 20 == ask(actor.proxy.all).result(LIMIT)


def test_those_that_ended_and_that_nobody_joined_are_let_go_of(context, monkeypatch):
    monkeypatch.setattr(_owned, "_MOST_ENDED", 3)
    monkeypatch.setattr(_owned, "_reap_at", 3)
    with Actor(Recorder(), context=context) as living:
        for _ in range(8):
            actor = Actor(Recorder(), context=context)
            actor.close()
            eventually(lambda actor=actor: actor.exitcode is not None)
            assert len(_owned._running) <= 4
        assert living in _owned._running
        assert 1 == ask(living.proxy.echo, 1).result(LIMIT)
    for actor in _owned._running[:]:
        actor.join()


def test_many_threads_learn_the_same_of_a_death(context):
    for _ in range(5):
        with Actor(Recorder(), context=context) as actor:
            errors = []

            def learn(future, actor=actor, errors=errors):
                errors.append(str(future.exception(LIMIT)))
                actor.join()
                errors.append(actor.exitcode)

            futures = [ask(actor.proxy.sleep, 1_000) for _ in range(4)]
            threads = [threading.Thread(target=learn, args=(future,)) for future in futures]
            for thread in threads:
                thread.start()
            actor.kill()
            for thread in threads:
                thread.join(LIMIT)
        *texts, code = sorted(set(errors), key=lambda error: (error == -signal.SIGKILL, error))
        assert -signal.SIGKILL == code
        (text,) = texts
        assert text.startswith(f"actor {actor.name!r} died: process {actor.pid} was killed by SIGKILL")


@pytest.mark.parametrize("policy", ["resume", Restart(backoff=0)])
def test_a_log_that_raises_ends_no_actor(context, policy):
    with Actor(BreaksItsLog(), context=context, on_failure=policy) as actor:
        actor.proxy.fail(ValueError("what was told"))
        assert 1 == ask(actor.proxy.echo, 1).result(LIMIT)


def test_who_waits_for_the_end_of_a_process_is_idle(context, tmp_path):
    gate = tmp_path / "gate"
    with Actor(functools.partial(EndsSlowly, gate), context=context) as actor:
        ask(actor.proxy.pid).result(LIMIT)
        actor.close()
        before = time.process_time()
        assert not actor.join(timeout=0.5)
        assert time.process_time() - before < 0.25
        (tmp_path / "gate.reached").touch()


def test_a_ctrl_c_right_before_the_start_leaves_the_next_one_possible(monkeypatch):
    block = signal.pthread_sigmask
    before = block(signal.SIG_BLOCK, ())

    def block_and_look(how, signals):
        before = block(how, signals)
        if signals == {signal.SIGINT}:  # Python looks for what came, and calls its handler, when it has blocked more
            raise KeyboardInterrupt
        return before

    monkeypatch.setattr(signal, "pthread_sigmask", block_and_look)
    with pytest.raises(KeyboardInterrupt):
        Actor(Counter())
    assert before == block(signal.SIG_BLOCK, ())


@pytest.mark.parametrize("method", METHODS)
def test_is_waited_for_before_what_was_to_come_at_exit_when_it_was_made(method, tmp_path):
    (tmp_path / "program.py").write_text(AT_EXIT)
    assert "written at exit" == " ".join(run("program.py", method, tmp_path).split())


AT_EXIT = """
import atexit
from pactor import Actor

class Writer:
    def write(self):
        print("written", flush=True)

if __name__ == "__main__":
    atexit.register(print, "at exit", flush=True)  # as the removal of a temporary directory
    Actor(Writer()).proxy.write()
"""


def test_says_nothing_at_the_end_of_the_interpreter_which_it_may_outlive(tmp_path):
    (tmp_path / "program.py").write_text(OUTLIVES)
    assert "" == run("program.py", "fork", tmp_path)


OUTLIVES = """
import gc, sys
from pactor import Actor, Mailbox, ask

class Counter:
    def count(self):
        return 1

mailbox = Mailbox(maxsize=3)
mailbox.put(1)
mailbox.get()
actors = [Actor(Counter(), maxsize=maxsize) for maxsize in (0, 2)]
ask(actors[0].proxy.count).result()
modules = {**sys.modules}
modules["all"] = modules
gc.freeze()  # no collection ends the circle
"""
