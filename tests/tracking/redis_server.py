"""A private Redis: own folder, port, password and user, gone with the process that uses it."""

from __future__ import annotations

import os
import shutil
import signal

import pytest

from servers import HOST, MissingServerError, Server


class Redis(Server):
    """Debian's Redis, in memory alone."""

    dialect, users, end = "redis", ("redis",), signal.SIGKILL
    drivers = ()
    _maintenance = "0"

    @staticmethod
    def program() -> str:
        # One program, which asks how it was called; Debian's package of the tools starts no service.
        found = shutil.which("redis-server") or shutil.which("redis-check-rdb")
        if not found:
            raise MissingServerError(
                "Redis is missing: run tools/servers.sh as root, or install Debian's redis-tools"
            )
        return found

    def _initialise(self) -> None:
        os.symlink(self.program(), self.folder / "redis-server")

    def _server(self) -> list[str]:
        settings = {"port": str(self.port), "bind": HOST, "requirepass": self.password, "save": ""}
        settings["databases"] = "100"
        words = [word for name, value in settings.items() for word in (f"--{name}", value)]
        return [str(self.folder / "redis-server"), *words]

    def _prepare(self, client):
        return tuple(int(part) for part in client.info()["redis_version"].split("."))

    def raw(self, database: str, *, admin: bool = False, port: int | None = None):
        import redis

        class Client(redis.Redis):
            def cursor(self):
                return self

        client = Client(self.host, port or self.port, int(database), self.password)
        client.ping()
        return client

    def fresh(self) -> int:
        """The number of an empty database, which nobody else gets."""
        return next(self._numbers)

    def url(self, database: int) -> str:
        return f"redis://:{self.password}@{self.host}:{self.port}/{database}"


@pytest.fixture(scope="session")
def redis():
    """A private Redis."""
    try:
        server = Redis()
    except MissingServerError as error:
        pytest.fail(str(error), pytrace=False)
    yield server
    server.stop()
