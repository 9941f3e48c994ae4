"""Messages that were accepted and are never executed: counted by their methods, and logged once."""

from __future__ import annotations

import os
import pickle
import re
import signal

import pytest
from edge_actors import Odd
from support import LIMIT, Recorder, eventually, reached
from test_actor import run_program

from pactor import Actor, ActorDied, Restart, _dead_letters, _wire, ask

PROGRAM = """
if __name__ == "__main__":
    gate = sys.argv[0] + ".gate"
    with Actor(Recorder(), name="addressee", context=context, **{arguments}) as actor:
        actor.proxy.wait_for(gate)
        reached(gate)
        {before}
        for i in range(30):
            actor.proxy.note(i)
        actor.proxy.echo(bytes(100_000))
        ask(actor.proxy.pid)
        {after}
        actor.join(20)
"""
RELEASE, KILL = "open(gate, 'w').close()", "os.kill(actor.pid, signal.SIGKILL)"


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
@pytest.mark.parametrize(
    ("before", "after", "arguments", "why"),
    [
        ("pass", KILL, "{}", r"died: process \d+ was killed by SIGKILL while it executed wait_for\(\)"),
        (
            "actor.proxy.fail(ValueError())",
            RELEASE,
            "dict(on_failure='stop')",
            r"stopped: fail\(\) raised ValueError",
        ),
        (
            "pass",
            f"actor.close(); {KILL}",
            "{}",
            r"died: process \d+ was killed by SIGKILL while it executed wait_for\(\)",
        ),
        ("pass", KILL, "dict(on_failure=Restart(0))", r"died: .*SIGKILL.*, after 0 restarts within 5 s"),
    ],
    ids=["killed", "stopped", "closed", "given up"],
)
def test_what_an_actor_did_not_execute_is_logged_in_one_line(tmp_path, method, before, after, arguments, why):
    program = PROGRAM.format(before=before, after=after, arguments=arguments)
    result = run_program(tmp_path, program, method)
    lines = [line for line in result.stderr.splitlines() if "did not execute" in line]
    assert 1 == len(lines), result.stderr
    assert re.search(f"actor 'addressee' {why}.*; messages that it did not execute: 31 ", lines[0]), lines[0]
    assert lines[0].endswith("(30 x note(), 1 x echo())")


@pytest.mark.parametrize("is_asked", [False, True], ids=["told", "asked"])
def test_a_death_in_a_method_is_logged_where_nobody_waits_for_it(context, caplog, is_asked):
    with Actor(Recorder(), name="addressee", context=context) as actor:
        if is_asked:
            assert isinstance(ask(actor.proxy.kill).exception(LIMIT), ActorDied)
        else:
            actor.proxy.kill()
    expected = f"actor 'addressee' died: process {actor.pid} was killed by SIGKILL while it executed kill()"
    assert [expected] * (not is_asked) == caplog.messages


def _kill_busy(actor, gate):
    actor.proxy.wait_for(gate)
    reached(gate)
    actor.kill()


def _exit(actor, gate):
    actor.proxy.exit_with(3)


@pytest.mark.parametrize("end", [_kill_busy, _exit])
@pytest.mark.parametrize("on_failure", ["resume", Restart()], ids=["resume", "restart"])
def test_an_end_that_was_meant_is_no_news(context, gate, capfd, caplog, end, on_failure):
    with Actor(Odd(), context=context, on_failure=on_failure) as actor:
        end(actor, gate)
        assert actor.join(LIMIT)
    assert not caplog.messages
    assert "" == capfd.readouterr().err


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_each_death_of_one_that_is_restarted_is_logged_the_last_one_too(tmp_path, method):
    program = """
        if __name__ == "__main__":
            policy = Restart(1, within=1000, backoff=0)
            with Actor(Recorder(), name="addressee", context=context, on_failure=policy) as actor:
                actor.proxy.kill()
                actor.proxy.kill()
                actor.join()
    """
    first, last = run_program(tmp_path, program, method).stderr.splitlines()
    for line, end in (first, "; it is restarted in 0 s"), (last, ", after 1 restart within 1000 s"):
        assert re.fullmatch(f"actor 'addressee' died: .* SIGKILL while it executed kill\\(\\){end}", line)


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_what_text_it_exits_with_is_shown(tmp_path, method):
    program = """
        from edge_actors import Odd
        if __name__ == "__main__":
            for how in (None, 3, "spam"):
                with Actor(Odd(), name="addressee", context=context) as actor:
                    actor.proxy.exit_with(how)
    """
    assert "spam\n" == run_program(tmp_path, program, method).stderr


@pytest.mark.parametrize("end", [KeyboardInterrupt, ValueError])
def test_what_is_left_when_the_program_is_interrupted_is_no_news(context, gate, caplog, end):
    with pytest.raises(end), Actor(Recorder(), context=context) as actor:
        actor.proxy.wait_for(gate)
        reached(gate)
        actor.proxy.note(1)
        os.kill(actor.pid, signal.SIGKILL)
        eventually(lambda: not actor._process.is_alive())
        raise end
    assert (end is ValueError) == ("did not execute: 1 (1 x note())" in caplog.text)


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
@pytest.mark.parametrize(
    ("end", "on_failure"),
    [
        ("actor.close()", "'stop'"),
        ("os.kill(actor.pid, signal.SIGTERM)", "'stop'"),
        ("actor.kill()", "'stop'"),
        ("pass", "'stop'"),
        ("pass", "Restart(0)"),
        ("actor.close()", "Restart()"),
    ],
    ids=["close", "terminate", "kill", "fail", "give up", "close supervised"],
)
def test_of_what_many_send_while_it_ends_none_is_missed(tmp_path, method, end, on_failure):
    program = f"""
    from edge_actors import Counts, Sends
    if __name__ == "__main__":
        gate, seen = sys.argv[0] + ".gate", sys.argv[0] + ".seen"
        senders = [Actor(Sends(), context=context) for _ in range(3)]
        with Actor(Counts(seen), context=context, on_failure={on_failure}) as actor:
            actor.proxy.wait_for(gate)
            if {end == "pass"}:
                actor.proxy.fail(ValueError())
            reached(gate)
            accepted = [ask(sender.proxy.note_many, actor.proxy, 1_500) for sender in senders]
            eventually(lambda: unread(actor.proxy.__channel__.file) > PAGE)
            eventually(lambda: all(sleeps(sender.pid) for sender in senders))  # for want of room
            {end}
            open(gate, "w").close()
            assert ends(actor)
        executed = int(open(seen).read()) if os.path.exists(seen) else 0
        print(sum(results(accepted)) - executed)
    """
    result = run_program(tmp_path, program, method)
    logged = re.findall(r"did not execute: (\d+) \(\d+ x note\(\)", result.stderr)
    assert [result.stdout.strip()] == (logged or ["0"])  # where all was sent before it ended, or refused


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
@pytest.mark.parametrize("on_failure", ["'resume'", "Restart()"])
def test_where_its_owner_is_killed_the_rest_of_the_program_hears_of_it(tmp_path, method, on_failure):
    program = f"""
    from edge_actors import Owner
    if __name__ == "__main__":
        gate = sys.argv[0] + ".gate"
        with Actor(Owner(), context=context) as owner:
            owned = ask(owner.proxy.make, {method!r}, on_failure={on_failure}).result(LIMIT)
            owned.wait_for(gate)
            reached(gate)
            for _ in range(30):
                owned.sleep(0.06)  # longer than it goes on without a look
            asked = ask(owned.echo)
            os.kill(owner.pid, signal.SIGKILL)
            owner.join(LIMIT)
            open(gate, "w").close()
            print(asked.exception(LIMIT))
    """
    result = run_program(tmp_path, program, method)
    assert re.match(r"actor 'owned' ended, as .* is gone\n", result.stdout)
    line = result.stdout.rstrip() + "; messages that it did not execute: {0} ({0} x sleep())"
    assert {line.format(29), line.format(30)} & {*result.stderr.splitlines()}, result.stderr


@pytest.mark.parametrize("count", [3, 100_000])
def test_a_flood_of_them_is_one_line_too(monkeypatch, count, caplog):
    names = ["a", "b", "c", "d", "e", "f", "g"]
    frames = [(_wire.ITEM, pickle.dumps((names[i % 7], (), {}), 5)) for i in range(min(count, 7_000))]
    frames *= count // len(frames) or 1
    monkeypatch.setattr(_dead_letters, "_left", lambda mailbox, let_go: iter(frames))
    _dead_letters.bury("", "actor 'x' is no more")
    (record,) = caplog.records
    text = record.getMessage()
    assert text.startswith("actor 'x' is no more; messages that it did not execute: ")
    assert len(text) < 200
    if count > 3:
        assert text.endswith(", ...)")
    else:
        assert text.endswith("3 (1 x a(), 1 x b(), 1 x c())")


class Explosive:
    """Loading it would be noticed."""

    def __reduce__(self):
        return pytest.fail, ("it was loaded",)


@pytest.mark.parametrize("size", [0, 100_000])
def test_the_method_is_named_without_loading_the_message(tmp_path, size):
    for kind, head in ((_wire.ITEM, b""), (_wire.ASK, _wire.ASK_HEAD.pack(1, 3) + b"abc")):
        frame = _wire.pack(str(tmp_path), kind, head, ("method", (Explosive(), bytes(size)), {}))
        assert "method" == _dead_letters.method_of(str(tmp_path), frame[2], frame[_wire.HEADER_SIZE :])


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (_wire.CLOSE, b""),
        (_wire.ITEM, b""),
        (_wire.ITEM, b"rubbish"),
        (_wire.ASK, b"x"),
        (_wire.ITEM | _wire.STORED, b"../../etc/passwd"),
        (_wire.ITEM | _wire.STORED, b"1.2"),
    ],
)
def test_rubbish_has_no_method(tmp_path, kind, body):
    assert _dead_letters.method_of(str(tmp_path), kind, body) is None


def test_an_actor_that_is_closed_in_peace_has_none(caplog):
    from pactor import Actor

    with Actor(Recorder()) as actor:
        for i in range(100):
            actor.proxy.note(i)
    assert [] == caplog.records


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_a_death_is_told_with_its_method_where_somebody_else_reaps(tmp_path, method):
    program = """
        if __name__ == "__main__":
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
            with Actor(Recorder(), name="victim", context=context) as actor:
                actor.proxy.wait_for(sys.argv[0] + ".gate")
                actor.proxy.kill()
                actor.proxy.note(1)
                asked = ask(actor.proxy.echo)
                open(sys.argv[0] + ".gate", "w").close()
                try:
                    asked.result(20)
                except ActorDied as error:
                    print(error)
    """
    result = run_program(tmp_path, program, method)
    assert re.fullmatch(r"actor 'victim' died: process \d+ .* while it executed kill\(\)\n", result.stdout)
    assert result.stderr.endswith("kill(); messages that it did not execute: 1 (1 x note())\n")
