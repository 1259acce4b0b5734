"""What no input may do: raise anything but a UserError, hang, fill the memory, write outside its folder,
start a program, open a connection, or unpickle anything."""

from __future__ import annotations

import os
import resource
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evomerge.errors import UserError

SECONDS = 5.0
"""CPU time of one input; wall time would depend on who else uses the machine."""
BYTES = 3 * 2**30
"""Address space that one input may take besides what the process has."""

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {
    "os.chmod": (0,),
    "os.link": (0, 1),
    "os.mkdir": (0,),
    "os.remove": (0,),
    "os.rename": (0, 1),
    "os.rmdir": (0,),
    "os.symlink": (1,),
    "os.truncate": (0,),
    "shutil.rmtree": (0,),
}
_NEVER = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect", "pickle.find_class")


class BrokenError(AssertionError):
    """An input did what no input may do."""


class _Hang(BaseException):
    """Not an Exception, so that nothing takes it for a damaged file."""


class _Watch:
    """Notes what the audit events of Python say while an input is at work."""

    def __init__(self) -> None:
        self.folders: tuple[str, ...] | None = None
        self.seen: list[str] = []

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.folders is None:
            return
        if event in _NEVER:
            self.seen.append(f"{event} {arguments!r:.200}")
        elif event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITES:
            self._changed(event, arguments[0])
        elif event in _CHANGES:
            for i in _CHANGES[event]:
                self._changed(event, arguments[i])

    def _changed(self, event: str, path: object) -> None:
        folders, self.folders = self.folders, None  # looking at the path is no business of the input's
        try:
            if isinstance(path, str | bytes | os.PathLike):
                place = os.path.realpath(os.fsdecode(path))
                if (
                    not place.startswith((*(folders or ()), "/dev/null", "/proc/self/"))
                    and "/__pycache__" not in place
                ):
                    self.seen.append(f"{event} {place}")
        finally:
            self.folders = folders


_watch = _Watch()
_hooked = False


def guarded(run: Callable[[], object], folder: Path) -> bool:
    """Whether ``run`` went through; False where it refused its input with one clear message.

    Files may be written below ``folder``, and temporary ones of evomerge's own.

    Raises:
        BrokenError: It did anything else.
    """
    own = [
        str(Path(tempfile.gettempdir()).resolve() / f"evomerge-{kind}-") for kind in ("tokenizer", "config")
    ]
    try:
        with _limits(), _watched((os.path.realpath(folder) + os.sep, *own)):
            run()
    except UserError as exception:
        if not str(exception).strip() or not exception.reason.strip():
            raise BrokenError("the message is empty") from exception
        if _watch.seen:
            raise BrokenError("; ".join(_watch.seen)) from exception
        return False
    except _Hang as exception:
        raise BrokenError(f"took more than {SECONDS:g} s of CPU time") from exception
    except BrokenError:
        raise
    except BaseException as exception:
        if isinstance(exception, KeyboardInterrupt):
            raise
        raise BrokenError(f"{type(exception).__name__}: {exception}") from exception
    if _watch.seen:
        raise BrokenError("; ".join(_watch.seen))
    return True


@contextmanager
def _watched(folders: tuple[str, ...]) -> Iterator[None]:
    global _hooked  # noqa: PLW0603 (an audit hook stays for the life of the process)
    if not _hooked:
        sys.addaudithook(_watch.hook)
        _hooked = True
    _watch.seen, _watch.folders = [], folders
    try:
        yield
    finally:
        _watch.folders = None


@contextmanager
def _limits() -> Iterator[None]:
    def hang(*_: object) -> None:
        raise _Hang

    before = signal.signal(signal.SIGVTALRM, hang)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    room = used + BYTES if hard == resource.RLIM_INFINITY else min(used + BYTES, hard)
    resource.setrlimit(resource.RLIMIT_AS, (room, hard))
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGVTALRM, before)
