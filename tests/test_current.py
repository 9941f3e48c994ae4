"""What happens at an actor's start and end, and what one learns of another's."""

from __future__ import annotations

import contextlib
import functools
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap

import pytest
from current_actors import FailsOnStart, Group, Hooked, Knows, Replier, Watcher, WatchesTooEarly
from support import LIMIT, Counter, Recorder, eventually, runs

from pactor import Actor, ActorClosed, ActorDied, Restart, _ending, ask, current_actor, watch


def close(actor):
    actor.close()


def terminate(actor):
    ask(actor.proxy.pid).result(LIMIT)
    os.kill(actor.pid, signal.SIGTERM)


def leave(actor):
    actor.proxy.fail(SystemExit())


def fail(actor):
    actor.proxy.fail(ValueError())


def interrupt(actor):
    ask(actor.proxy.pid).result(LIMIT)
    os.kill(actor.pid, signal.SIGINT)


@pytest.mark.parametrize("end", [close, terminate, leave, fail, interrupt])
def test_on_start_comes_before_the_first_message_and_on_stop_at_the_end(context, tmp_path, end):
    log = tmp_path / "log"
    with Actor(Hooked(log), context=context, on_failure="stop") as actor:
        actor.proxy.write("message")
        end(actor)
    assert "init start message stop" == log.read_text().strip()


def test_both_are_called_again_after_a_failure_and_on_start_after_a_kill(context, tmp_path):
    log = tmp_path / "log"
    with Actor(Hooked(log), context=context, on_failure=Restart(math.inf, backoff=0)) as actor:
        actor.proxy.fail(ValueError())
        actor.proxy.kill()
        eventually(lambda: "from on_start" in ask(actor.proxy.all).result(LIMIT))
    # The object is pickled when it has been made.
    assert "init start stop start start stop" == log.read_text().strip()


def test_what_on_start_raises_is_told_by_the_first_ask(context):
    with Actor(FailsOnStart(), context=context, name="tired") as actor:
        with pytest.raises(ActorDied, match="'tired' could not start: ValueError: not today") as caught:
            ask(actor.proxy.pid).result(LIMIT)
        assert "in on_start" in str(caught.value.__cause__)


def test_what_on_stop_raises_is_logged_and_changes_nothing(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent("""
        from pactor import *
        from current_actors import FailsOnStop
        if __name__ == "__main__":
            with Actor(FailsOnStop(), name="sore") as actor:
                actor.proxy.note(1)
            print(actor.exitcode)
        """)
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["..", *sys.path])}
    result = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=LIMIT, env=environment)
    assert "0\n" == result.stdout
    assert "actor 'sore' (process " in result.stderr and "on_stop() raised" in result.stderr
    assert "ValueError: not again" in result.stderr


def test_hooks_may_ask_and_tell_others(context):
    with Actor(Counter(1), context=context) as counter:
        with Actor(Replier(counter.proxy), context=context) as actor:
            assert [1] == ask(actor.proxy.all).result(LIMIT)
        assert 11 == ask(counter.proxy.total).result(LIMIT)


def test_who_looks_while_the_owner_leaves_word_learns_what_the_owner_knows(monkeypatch):
    """Between its two looks the owner has left a note and removed the rest."""

    def find_nothing(path):
        _ending.write(os.path.dirname(path), _ending.Ending(False, "died at spam()"))

    # Forked, it stays to be looked at until its owner reaps it.
    with Actor(Counter(), context=multiprocessing.get_context("fork")) as actor:
        os.kill(actor.pid, signal.SIGKILL)
        eventually(lambda: not runs(actor.pid))
        monkeypatch.setattr(_ending._inbox, "executing", find_nothing)
        assert "died at spam()" == _ending.find(actor._mailbox.directory).reason
        monkeypatch.undo()


@pytest.mark.parametrize(
    ("end", "kind", "text"),
    [
        (
            lambda proxy: proxy.kill(),
            ActorDied,
            r"'watched' died: process \d+ was killed by SIGKILL while it executed k",
        ),
        (lambda proxy: proxy.exit(3), ActorDied, "exit code 3"),
        (lambda proxy: proxy.fail(ValueError("told")), ActorDied, r"stopped: fail\(\) raised ValueError: told"),
        (lambda proxy: None, ActorClosed, "'watched' is closed"),
    ],
    ids=["signal", "exit", "exception", "closed"],
)
def test_a_watcher_is_told_once_who_ended_and_why(context, end, kind, text):
    with (
        Actor(Watcher(), context=context) as watcher,
        Actor(Recorder(), name="watched", context=context, on_failure="stop") as watched,
    ):
        ask(watcher.proxy.see, watched.proxy).result(LIMIT)
        end(watched.proxy)
        watched.close()
        watched.join(LIMIT)
        (told,) = eventually(lambda: ask(watcher.proxy.all).result(LIMIT))
        with pytest.raises(kind, match=text):
            raise told[1]
        assert type(told[1]) is kind
        assert watched.proxy == told[0]
        ask(watcher.proxy.see, watched.proxy).result(LIMIT)  # it has ended already
        assert str(told[1]) == str(eventually(lambda: ask(watcher.proxy.all).result(LIMIT)[1:])[0][1])


def test_a_restart_is_no_end_but_giving_up_is(context):
    with (
        Actor(Watcher(), context=context) as watcher,
        Actor(Recorder(), context=context, on_failure=Restart(1, within=1000, backoff=0)) as watched,
    ):
        ask(watcher.proxy.see, watched.proxy).result(LIMIT)
        watched.proxy.kill()
        ask(watched.proxy.pid).result(LIMIT)
        assert [] == ask(watcher.proxy.all).result(LIMIT)
        watched.proxy.kill()
        ((_, reason),) = eventually(lambda: ask(watcher.proxy.all).result(LIMIT))
        assert "after 1 restart within 1000 s" in str(reason)


def test_bad_watches_raise_at_the_call():
    with pytest.raises(RuntimeError, match="inside of an actor"):
        watch(None, None)
    with Actor(Watcher()) as actor:
        for arguments in [(actor.proxy, print), (3, print), (actor.proxy, len)]:
            with pytest.raises(TypeError):
                ask(actor.proxy.watch_with, *arguments).result(LIMIT)
        with pytest.raises(ValueError, match="its own end"):
            ask(actor.proxy.watch_self).result(LIMIT)
        with Actor(Counter()) as other, pytest.raises(TypeError, match="argument"):
            ask(actor.proxy.see_to, other.proxy, "pid").result(LIMIT)  # takes no proxy and no reason


def test_current_actor_is_what_it_is_in(context):
    assert current_actor() is None
    with Actor(Knows, name="me", context=context) as actor:
        assert "KnowsProxy" == ask(actor.proxy.type_of_its_proxy).result(LIMIT)
        assert (None, "<CurrentActor 'me'>") == ask(actor.proxy.use).result(LIMIT)
        eventually(lambda: {"me", "enqueued", "later", "told"} == set(ask(actor.proxy.all).result(LIMIT)))


def test_what_a_dead_process_was_to_be_told_of_its_watches_is_not_told_to_the_next(context):
    """All parts fail at once: that is one failure of the group, not one each."""
    with Actor(Group, context=context, on_failure=Restart(1, within=1000, backoff=0)) as group:
        before = ask(group.proxy.proxies).result(LIMIT)
        busy = ask(group.proxy.sleep, 0.5)
        for part in before:
            part.kill()
        with contextlib.suppress(ActorDied):
            busy.result(LIMIT)
        eventually(lambda: _answer(group.proxy.proxies) not in (None, before))
        for part in ask(group.proxy.proxies).result(LIMIT):
            assert ask(part.pid).result(LIMIT)


def _answer(method):
    try:
        return ask(method).result(LIMIT)
    except ActorDied as error:
        assert "it is restarted" in str(error)
        return None


def test_the_names_of_methods_are_the_wrapped_classs_own():
    """What an Actor has beside what is documented begins with an underscore."""
    documented = {"proxy", "name", "pid", "exitcode", "is_alive", "close", "join", "kill"}
    with Actor(Counter()) as actor:
        names = {name for name in dir(actor) if not name.startswith("_")}
        assert names == documented | {"add", "total"}


def test_to_watch_in_init_is_too_early_and_told():
    with Actor(Counter()) as other, Actor(functools.partial(WatchesTooEarly, other.proxy)) as actor:
        with pytest.raises(ActorDied, match=r"RuntimeError: watch\(\) works .* from on_start\(\) on"):
            ask(actor.proxy.ended, 1, 2).result(LIMIT)


def test_a_group_is_restarted_together(context):
    with Actor(Group, context=context, on_failure=Restart(3, within=1000, backoff=0)) as group:
        before = ask(group.proxy.proxies).result(LIMIT)
        pids = [ask(part.pid).result(LIMIT) for part in before]
        before[0].kill()
        eventually(lambda: ask(group.proxy.proxies).result(LIMIT) != before)
        after = ask(group.proxy.proxies).result(LIMIT)
        assert not set(pids) & {ask(part.pid).result(LIMIT) for part in after}
        for part in before:
            with pytest.raises((ActorClosed, ActorDied)):
                ask(part.pid).result(LIMIT)
