"""`install` on every kind of engine, and `uninstall`, which leaves nothing."""

from __future__ import annotations

import asyncio
import gc
import itertools
import weakref

import pytest
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import create_engine, event, text
from sqlalchemy.dialects import plugins
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session

from turnwise.errors import InvalidSettingError
from turnwise.sqlalchemy import interception, lost_writes
from turnwise.sqlalchemy.installing import install, is_installed, uninstall
from turnwise.sqlalchemy.plugin import TurnwisePlugin

POOL_EVENTS = ("close", "reset", "checkin", "checkout", "connect", "invalidate")


@pytest.fixture(autouse=True)
def _clean():
    """Engines of other tests that were collected leave their listeners to the next that comes."""
    gc.collect()
    other = create_engine("sqlite://")
    uninstall(install(other))
    other.dispose()


@pytest.fixture
def engine(tmp_path):
    engine = create_engine(f"sqlite:///{tmp_path}/app.db")
    use(engine)
    yield engine
    uninstall(engine)
    engine.dispose()


def use(engine):
    with engine.connect() as connection:
        connection.execute(text("CREATE TABLE IF NOT EXISTS item (id INTEGER PRIMARY KEY)"))
        connection.execute(text("DELETE FROM item"))
        connection.execute(text("INSERT INTO item VALUES (:id)"), [{"id": 1}, {"id": 2}])
        connection.execute(text("SELECT :id"), {"id": 1}).all()
        with connection.begin_nested():
            pass
        with pytest.raises(Exception, match="UNIQUE"):
            connection.execute(text("INSERT INTO item VALUES (1)"))
        connection.commit()


def traces(engine):
    """Everything that an installation could leave behind."""
    listeners = {name: list(getattr(engine.pool.dispatch, name)) for name in POOL_EVENTS}
    for name, listener in lost_writes._LISTENERS.items():
        listeners[name] = event.contains(Session, name, listener)
    with engine.connect() as connection:
        info = dict(connection.info)
        pragmas = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("busy_timeout", "foreign_keys", "synchronous")
        ]
    own = dict(vars(engine.dialect))
    return own, listeners, info, pragmas, engine.dialect._has_events


def test_uninstall_leaves_nothing(engine):
    before = traces(engine)
    install(engine, strict=True)
    use(engine)
    with Session(engine) as session:
        session.execute(text("INSERT INTO item VALUES (7)"))
        session.commit()
    assert traces(engine) != before
    uninstall(engine)
    assert traces(engine) == before
    use(engine)
    uninstall(engine)


def test_nothing_is_listened_to_on_the_way_of_a_statement(engine):
    """Listeners of statements would cost ten times as much."""
    install(engine)
    use(engine)
    assert not engine.dialect._has_events
    assert not engine._has_events


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_engines_come_and_go_in_any_order(tmp_path, order):
    engines = [create_engine(f"sqlite:///{tmp_path}/{number}.db") for number in range(3)]
    for engine in engines:
        use(engine)
    before = [traces(engine) for engine in engines]
    for engine in engines:
        install(engine)
    for number in order:
        use(engines[number])
        uninstall(engines[number])
        assert not is_installed(engines[number])
    assert [traces(engine) for engine in engines] == before
    for engine in engines:
        engine.dispose()


def test_a_foreign_wrapper_stays(engine):
    seen = []
    original = engine.dialect.do_execute

    def outside(*arguments):
        seen.append("outside")
        return installed(*arguments)

    install(engine)
    installed = engine.dialect.do_execute
    engine.dialect.do_execute = outside
    uninstall(engine)
    assert engine.dialect.do_execute is outside
    use(engine)
    assert seen
    engine.dialect.do_execute = original


def test_installing_twice_is_installing_once(engine):
    assert not is_installed(engine)
    assert install(engine) is engine
    first = interception.layer_of(engine.dialect, "guard")
    dialect = dict(vars(engine.dialect))
    install(engine)
    assert interception.layer_of(engine.dialect, "guard") is first
    assert dict(vars(engine.dialect)) == dialect
    install(engine, strict=True)
    assert interception.layer_of(engine.dialect, "guard").settings.strict is True
    assert is_installed(engine)
    uninstall(engine)
    assert not is_installed(engine)


def test_an_engine_with_options_shares(engine):
    other = engine.execution_options(isolation_level="AUTOCOMMIT")
    before = traces(engine)
    install(other)
    assert is_installed(engine)
    del other
    gc.collect()
    uninstall(engine)
    assert traces(engine) == before


def test_an_async_engine(tmp_path):
    async def main():
        engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/app.db")
        assert install(engine) is engine
        assert is_installed(engine)
        assert is_installed(engine.sync_engine)
        async with engine.begin() as connection:
            await connection.execute(text("CREATE TABLE item (id INTEGER PRIMARY KEY)"))
        uninstall(engine)
        assert not is_installed(engine)
        await engine.dispose()

    asyncio.run(main())


def flask_app(tmp_path, **config):
    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{tmp_path}/app.db"
    app.config["SQLALCHEMY_BINDS"] = {"other": f"sqlite:///{tmp_path}/other.db"}
    app.config |= config
    db = SQLAlchemy()
    db.init_app(app)
    return app, db


def closing(db):
    db.session.remove()
    for engine in db.engines.values():
        engine.dispose()


def test_flask_sqlalchemy(tmp_path):
    app, db = flask_app(tmp_path)
    with pytest.raises(RuntimeError, match="context"):
        install(db)
    with app.app_context():
        assert install(db) is db
        assert is_installed(db)
        assert all(is_installed(engine) for engine in db.engines.values())
        db.session.execute(text("SELECT 1"))
        uninstall(db)
        assert not any(is_installed(engine) for engine in db.engines.values())
        closing(db)


@pytest.mark.parametrize("target", [None, "sqlite://", Session(), object(), {}])
def test_what_is_no_engine_is_refused(target):
    for call in (install, uninstall, is_installed):
        with pytest.raises(TypeError, match="Engine"):
            call(target)


def test_settings_are_checked(engine):
    with pytest.raises(TypeError):
        install(engine, True)
    with pytest.raises(TypeError, match="sternly"):
        install(engine, sternly=True)
    with pytest.raises(TypeError, match="strict"):
        install(engine, strict="false")
    with pytest.raises(TypeError, match="overrides"):
        install(engine, overrides=["1205"])
    with pytest.raises(InvalidSettingError, match="begin"):
        install(engine, begin="later")
    with pytest.raises(InvalidSettingError, match="timeout"):
        install(engine, timeout=-1)
    assert not is_installed(engine)


def test_an_installed_engine_is_collected(tmp_path):
    engine = install(create_engine(f"sqlite:///{tmp_path}/app.db"))
    use(engine)
    engine.dispose()
    gone = weakref.ref(engine.dialect)
    del engine
    gc.collect()
    assert gone() is None


def test_an_unknown_database_is_guarded_as_far_as_it_goes():
    """Its errors are remembered, and a commit that failed is rolled back."""
    from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

    engine = create_engine("sqlite://")
    assert isinstance(engine.dialect, SQLiteDialect_pysqlite)
    engine.dialect.name = "elsewhere"
    install(engine)
    use(engine)
    uninstall(engine)
    engine.dispose()


@pytest.fixture
def plugin():
    """Registered as the entry point does it, which needs an installed package."""
    plugins.register("turnwise", "turnwise.sqlalchemy.plugin", "TurnwisePlugin")
    yield
    plugins.impls.pop("turnwise", None)


def settings_of(engine):
    return interception.layer_of(engine.dialect, "guard").settings


def test_the_plugin_in_the_url(plugin, tmp_path):
    url = f"sqlite:///{tmp_path}/app.db?plugin=turnwise&turnwise_strict=true"
    engine = create_engine(url + "&turnwise_begin=immediate&turnwise_timeout=1.5&timeout=3")
    assert settings_of(engine)[:3] == (True, "immediate", 1.5)
    assert "turnwise" not in str(engine.url)
    assert "timeout=3" in str(engine.url)
    use(engine)
    uninstall(engine)
    engine.dispose()


def test_the_plugin_by_keyword(plugin, tmp_path):
    url = f"sqlite:///{tmp_path}/app.db"
    engine = create_engine(url, plugins=["turnwise"], turnwise_strict=True)
    assert settings_of(engine)[:3] == (True, "auto", None)
    uninstall(engine)


def test_the_plugin_of_an_async_engine(plugin, tmp_path):
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/app.db?plugin=turnwise")
    assert is_installed(engine)
    uninstall(engine)


@pytest.mark.parametrize("where", ["URI", "ENGINE_OPTIONS"])
def test_the_plugin_of_flask_sqlalchemy(plugin, tmp_path, where):
    config = {
        "URI": {
            "SQLALCHEMY_DATABASE_URI": f"sqlite:///{tmp_path}/app.db?plugin=turnwise&turnwise_strict=1"
        },
        "ENGINE_OPTIONS": {
            "SQLALCHEMY_ENGINE_OPTIONS": {"plugins": ["turnwise"], "turnwise_strict": True}
        },
    }[where]
    app, db = flask_app(tmp_path, **config)
    with app.app_context():
        assert is_installed(db.engine)
        assert settings_of(db.engine).strict is True
        db.session.execute(text("SELECT 1"))
        closing(db)
        for engine in db.engines.values():
            uninstall(engine)


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("turnwise_strickt=true", "turnwise_strickt"),
        ("turnwise_strict=maybe", "turnwise_strict"),
        ("turnwise_begin=later", "begin"),
        ("turnwise_timeout=soon", "turnwise_timeout"),
    ],
)
def test_the_plugin_s_mistakes_are_named(plugin, query, named):
    with pytest.raises(InvalidSettingError, match=named):
        create_engine(f"sqlite://?plugin=turnwise&{query}")


def test_the_application_s_listeners_stay(engine):
    seen = []
    event.listen(engine, "before_cursor_execute", lambda *arguments: seen.append(arguments[2]))
    install(engine)
    use(engine)
    uninstall(engine)
    use(engine)
    assert seen.count("DELETE FROM item") == 2


def test_the_plugin_is_what_the_entry_point_names():
    from importlib import import_module
    from pathlib import Path

    project = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    line = project.partition('[project.entry-points."sqlalchemy.plugins"]\n')[2].splitlines()[0]
    assert line == 'turnwise = "turnwise.sqlalchemy.plugin:TurnwisePlugin"'
    assert import_module("turnwise.sqlalchemy.plugin").TurnwisePlugin is TurnwisePlugin
