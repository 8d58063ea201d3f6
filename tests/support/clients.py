"""Doubles of the client library's surroundings: an asynchronous client that blocks, and a policy without pauses."""

import inspect

from cellstate import AsyncStream, RetryPolicy

POLICY = RetryPolicy(first_pause=0.0, deadline=20.0)  # no pauses: nothing sleeps here


class Blocking:
    """An AsyncClient or AsyncStream with the methods of its synchronous twin, so that one test serves both."""

    def __init__(self, wrapped, loop):
        self._wrapped, self._loop = wrapped, loop

    def __getattr__(self, name):
        value = getattr(self._wrapped, name)
        return self._method(value) if callable(value) else value

    def __enter__(self):
        return self._loop.run_until_complete(self._wrapped.__aenter__()) and self

    def __exit__(self, *raised):
        self._loop.run_until_complete(self._wrapped.__aexit__(*raised))

    def _method(self, method):
        def call(*arguments, **options):
            plain = [[(stream._wrapped, x) for stream, x in a] if method.__name__ == "batch" else a for a in arguments]
            result = method(*plain, **options)
            result = self._loop.run_until_complete(result) if inspect.isawaitable(result) else result
            return Blocking(result, self._loop) if isinstance(result, AsyncStream) else result

        return call
