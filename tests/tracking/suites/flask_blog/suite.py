"""What the authors of the blog test."""

import pytest
from app import Author, Post, create_app, db
from sqlalchemy import func, select


@pytest.fixture
def app(tmp_path):
    app = create_app(f"sqlite:///{tmp_path / 'blog.db'}")
    with app.app_context():
        db.create_all()
        ada = Author(name="ada")
        db.session.add_all([ada, Author(name="grace"), Post(title="first", author=ada)])
        db.session.commit()
    yield app
    with app.app_context():
        db.engine.dispose()


@pytest.fixture
def client(app):
    return app.test_client()


@pytest.fixture(name="inside")
def client_inside_of_a_pushed_context(app):
    with app.app_context():
        yield app.test_client()


def count(app):
    with app.app_context():
        return db.session.scalar(select(func.count(Post.id)))


def test_index(client, no_open_sessions):
    assert client.get("/").json == {
        "posts": [{"title": "first", "by": "ada"}],
        "pages": 1,
        "next": None,
    }


def test_register(client, app, no_open_sessions):
    assert client.post("/authors", data={"name": "joan"}).status_code == 201
    assert client.post("/authors", data={"name": "joan"}).status_code == 409
    with app.app_context():
        assert db.session.scalar(select(func.count(Author.id))) == 3


def test_posts(client, app, no_open_sessions):
    assert client.post("/authors/2/posts", data={"title": "second"}).json == {"id": 2}
    assert client.post("/authors/9/posts", data={"title": "x"}).status_code == 404
    assert count(app) == 2
    assert client.get("/posts/2").json == {"title": "second"}
    assert client.delete("/posts/2").status_code == 204
    assert client.get("/posts/2").status_code == 404
    assert count(app) == 1


def test_pages(client, no_open_sessions):
    for number in range(11):
        client.post("/authors/1/posts", data={"title": f"post {number}"})
    assert client.get("/?page=2").json["next"] == 3
    assert len(client.get("/?page=3").json["posts"]) == 2
    assert client.get("/?page=9").status_code == 404


def test_stream(client, no_open_sessions):
    for number in range(4):
        client.post("/authors/1/posts", data={"title": f"post {number}"})
    assert len(client.get("/titles.txt").text.splitlines()) == 5
    with client.get("/titles.txt", buffered=False) as response:
        assert next(iter(response.response)) in (b"first\n", "first\n")


def test_a_failing_view(client, no_open_sessions):
    with pytest.raises(RuntimeError, match="on purpose"):
        client.get("/fails")


def test_command(app, no_open_sessions):
    assert app.test_cli_runner().invoke(args=["init-db"]).output == "ready\n"
    assert count(app) == 0


def test_request_context(app, no_open_sessions):
    with app.test_request_context("/"):
        assert db.session.get(Post, 1).author.name == "ada"


def test_inside_of_a_pushed_context(inside):
    assert inside.post("/authors/2/posts", data={"title": "second"}).status_code == 201
    assert inside.get("/posts/2").json == {"title": "second"}
    assert db.session.get(Post, 2).author.name == "grace"
    assert len(inside.get("/").json["posts"]) == 2


def test_inside_of_a_pushed_context_after_the_test(inside):
    assert db.session.get(Post, 1).title == "first"
    assert inside.get("/posts/1").json == {"title": "first"}
    assert inside.delete("/posts/1").status_code == 204


def test_client_in_a_with_block(app):
    with app.test_client() as client:
        assert client.get("/posts/1").status_code == 200
        assert client.get("/posts/1").status_code == 200
