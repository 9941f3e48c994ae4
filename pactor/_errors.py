"""Every exception that pactor raises, one small tree."""

from __future__ import annotations


class ActorError(Exception):
    """What went wrong between actors; the base of the errors below."""


class ActorClosed(ActorError):
    """The actor was closed: it takes no more messages, and what came too late was not executed."""


class ActorDied(ActorError):
    """The actor's process ended without being asked to.

    The text names the signal, the exit code or the exception. Where there was an exception, its remote traceback is
    the ``__cause__``.
    """


class DeadlockError(ActorError):
    """The reply can't come: actors wait for each other in a circle, or one waits for itself.

    Raised by `Future.result` in an actor's own thread. The text names the circle.
    """


class RemoteError(ActorError):
    """Stands for an exception or a value of the actor that could not travel to the asker.

    Exceptions of a method normally reach the asker as themselves. One that can't be pickled, or can't be loaded
    again, is told by this one: ``type_name`` is the name of its class, ``message`` its text, and ``traceback`` the
    remote traceback as text.
    """

    def __init__(self, type_name: str, message: str, traceback: str = "") -> None:
        super().__init__(type_name, message, traceback)
        self.type_name = type_name
        self.message = message
        self.traceback = traceback

    def __str__(self) -> str:
        return f"{self.type_name}: {self.message}"


class RemoteTraceback(Exception):
    """The traceback of another process as text: the ``__cause__`` of an exception that came from there.

    As in `concurrent.futures.process`: traceback objects can't be pickled, their text can.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return "\n" + self.text
