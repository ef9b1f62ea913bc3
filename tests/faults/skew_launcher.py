"""Starts a component on a host whose clock is wrong: `skew_launcher.py SECONDS COMPONENT …`, run by path in the
folder of a fleet. Wall-clock time is shifted before anything of the product is imported, also in the ids, which are
made outside Python; the monotonic clock is right, as on every host."""

from __future__ import annotations

import datetime as datetimes
import sys
import time
from typing import Any
from uuid import UUID


def shift(seconds: float) -> None:
    """From here on this process believes that it is `seconds` later."""
    real, real_time, real_time_ns = datetimes.datetime, time.time, time.time_ns
    time.time = lambda: real_time() + seconds
    time.time_ns = lambda: real_time_ns() + round(seconds * 1e9)

    class Lenient(type):
        """What C code makes is of the real class."""

        def __instancecheck__(cls, value: object) -> bool:
            return isinstance(value, real)

    class Shifted(datetimes.datetime, metaclass=Lenient):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetimes.datetime.fromtimestamp(time.time(), tz)

        @classmethod
        def utcnow(cls) -> Any:
            return datetimes.datetime.fromtimestamp(time.time(), datetimes.UTC).replace(tzinfo=None)

    datetimes.datetime = Shifted  # type: ignore[misc]

    import uuid_utils.compat as ids  # noqa: PLC0415 - after the clock is wrong

    real_uuid7 = ids.uuid7

    def uuid7(*arguments: Any, **named: Any) -> UUID:
        """Milliseconds are the upper 48 bits; the order of what one process makes is kept."""
        made = real_uuid7(*arguments, **named)
        return UUID(int=made.int + (round(seconds * 1000) << 80))

    ids.uuid7 = uuid7


def main() -> None:
    shift(float(sys.argv[1]))
    sys.argv = ["selfheal", *sys.argv[2:]]
    from jobkit.cli.main import main as selfheal  # noqa: PLC0415

    sys.exit(selfheal())


main()
