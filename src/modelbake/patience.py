"""Trying again what may have failed for a moment only: how often, and after which wait."""

from __future__ import annotations

import email.utils
import random
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from modelbake.errors import ModelbakeError, SourceUnreachableError

T = TypeVar("T")

LONGEST_WAIT = 20.0
# A server that asks for more patience than this is better tried again by the user.
MAX_RETRY_AFTER = 60.0


class TransientError(SourceUnreachableError):
    """A failure that may pass: 429, 5xx, a cut or refused connection. `retry_after` is in seconds."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class CancelledDownloadError(ModelbakeError):
    """Another file's failure, or the user, ended the download."""


def pause(stop: threading.Event, seconds: float) -> None:
    """Wait that long, or until `stop`."""
    stop.wait(seconds)


def _nothing_gained() -> bool:
    return False


@dataclass
class Patience:
    """Tries again after TransientError until `limit` tries in a row gained nothing."""

    limit: int
    stop: threading.Event
    _fruitless: int = field(default=0, init=False)

    def run(self, attempt: Callable[[], T], gained: Callable[[], bool] = _nothing_gained) -> T:
        """What `attempt` returns; `gained` is asked after each one that failed. Raises SourceUnreachableError at the limit,
        CancelledDownloadError after `stop`."""
        self._fruitless = 0
        failed: list[TransientError] = []
        try:
            return self._once(attempt, gained)
        except TransientError as error:
            failed.append(error)
        # Not before it is needed: it takes as long to load as a first try takes, which mostly succeeds.
        import tenacity

        def once() -> T:
            if failed:
                raise failed.pop()
            return self._once(attempt, gained)

        tries = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(TransientError),
            stop=lambda _: self._fruitless >= self.limit,
            wait=lambda state: self._wait(state.outcome.exception() if state.outcome else None),
            sleep=lambda seconds: pause(self.stop, seconds),
            reraise=True,
        )
        try:
            result: T = tries(once)
        except TransientError as error:
            raise SourceUnreachableError(f"{error} (gave up after {self.limit} tries that brought nothing)") from error
        return result

    def _once(self, attempt: Callable[[], T], gained: Callable[[], bool]) -> T:
        if self.stop.is_set():
            raise CancelledDownloadError("The download was stopped.")
        try:
            return attempt()
        except TransientError:
            self._fruitless = 0 if gained() else self._fruitless + 1
            raise

    def _wait(self, error: BaseException | None) -> float:
        """What the server asked for, else half a second doubled at each fruitless try, a quarter more or less by chance."""
        if isinstance(error, TransientError) and error.retry_after is not None:
            return error.retry_after
        return min(LONGEST_WAIT, 0.5 * 2.0**self._fruitless) * random.uniform(0.75, 1.25)


def retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header, which is a number or an HTTP date (RFC 9110, 10.2.3)."""
    if value is None:
        return None
    if re.fullmatch(r"[ \t]*[0-9]+[ \t]*", value):
        return min(float(value), MAX_RETRY_AFTER)
    try:
        moment = email.utils.parsedate_to_datetime(value).timestamp()
    except (ValueError, OverflowError, TypeError, IndexError):
        return None
    return min(max(0.0, moment - time.time()), MAX_RETRY_AFTER)
