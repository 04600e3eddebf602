"""Runs a driver's checks. Prints each one's name, a tab, and what came of it: `ok`, or the error in one line."""

import asyncio
import inspect

CHECKS = []


def check(name):
    def keep(function):
        CHECKS.append((name, function))
        return function

    return keep


def same(found, wanted):
    if found != wanted:
        raise AssertionError(f"wrong: {found!r} instead of {wanted!r}")


def sqlstate_of(error):
    """The SQLSTATE wherever the driver, or what is built on it, keeps it."""
    while error is not None:
        state = getattr(error, "sqlstate", None) or getattr(getattr(error, "orig", None), "sqlstate", None)
        if state:
            return state
        error = error.__cause__
    return None


def fails(sqlstate, function, *arguments):
    try:
        function(*arguments)
    except Exception as error:
        return same(sqlstate_of(error), sqlstate)
    raise AssertionError(f"wrong: it did not fail with {sqlstate}")


async def fails_later(sqlstate, awaitable):
    try:
        await awaitable
    except Exception as error:
        return same(sqlstate_of(error), sqlstate)
    raise AssertionError(f"wrong: it did not fail with {sqlstate}")


def outcome(error):
    words = (str(error).strip() or type(error).__name__).splitlines()[0]
    # SQLAlchemy puts the class of the driver's error in front.
    words = words.rsplit("psycopg.errors.", 1)[-1]
    state = sqlstate_of(error)
    return " ".join(filter(None, [state, words])).replace("\t", " ")


def main():
    for name, function in CHECKS:
        try:
            done = function()
            if inspect.isawaitable(done):

                async def wait(done=done):
                    await asyncio.wait_for(done, 30)

                asyncio.run(wait())
            print(f"{name}\tok", flush=True)
        except Exception as error:
            print(f"{name}\t{outcome(error)}", flush=True)
