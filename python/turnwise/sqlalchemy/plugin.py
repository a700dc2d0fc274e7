"""``create_engine("…?plugin=turnwise&turnwise_strict=true")``: installed as it is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy.engine import CreateEnginePlugin

from turnwise.errors import InvalidSettingError
from turnwise.sqlalchemy.installing import install

if TYPE_CHECKING:
    from sqlalchemy.engine import URL, Engine

_PREFIX = "turnwise_"
_WORDS = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}


class TurnwisePlugin(CreateEnginePlugin):
    """Takes the settings of ``install`` from the URL and the keywords: ``turnwise_strict=true``."""

    def __init__(self, url: URL, kwargs: dict[str, Any]) -> None:
        super().__init__(url, kwargs)
        self._found = [name for name in url.query if name.startswith(_PREFIX)]
        given: dict[str, Any] = {name: url.query[name] for name in self._found}
        given |= {name: kwargs.pop(name) for name in list(kwargs) if name.startswith(_PREFIX)}
        self._settings = {name.removeprefix(_PREFIX): _read(name, given[name]) for name in given}

    def update_url(self, url: URL) -> URL:
        """Take the options away, before a driver sees them."""
        return url.difference_update_query(self._found)

    def engine_created(self, engine: Engine) -> None:
        """Install."""
        install(engine, **self._settings)


def _read(name: str, value: Any) -> Any:
    if name == "turnwise_strict":
        known = value if isinstance(value, bool) else _WORDS.get(str(value).lower())
        if known is None:
            raise InvalidSettingError(f"{name} is true or false, not {value!r}")
        return known
    if name == "turnwise_timeout":
        try:
            return None if value is None else float(value)
        except (TypeError, ValueError):
            raise InvalidSettingError(f"{name} is a number of seconds, not {value!r}") from None
    if name in {"turnwise_begin", "turnwise_overrides"}:
        return value
    raise InvalidSettingError(
        f"there is no {name}: turnwise_strict, turnwise_begin and turnwise_timeout are known"
    )
