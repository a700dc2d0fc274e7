"""A blog on Flask-SQLAlchemy: a factory, a command, pages, and a stream."""

from threading import Thread

import click
from flask import Flask, abort, jsonify, request, stream_with_context
from flask.cli import with_appcontext
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import ForeignKey, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from turnwise.flask import setup


class Base(DeclarativeBase):
    pass


db = SQLAlchemy(model_class=Base)


class Author(db.Model):
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    posts: Mapped[list["Post"]] = relationship(back_populates="author")


class Post(db.Model):
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    author_id: Mapped[int] = mapped_column(ForeignKey("author.id"))
    author: Mapped[Author] = relationship(back_populates="posts")


@click.command("init-db")
@with_appcontext
def init_db():
    db.drop_all()
    db.create_all()
    click.echo("ready")


def create_app(database):
    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = database
    app.config["TESTING"] = True
    db.init_app(app)
    app.cli.add_command(init_db)
    setup(app)

    @app.get("/")
    def index():
        page = db.paginate(db.select(Post).order_by(Post.id.desc()), per_page=5)
        return jsonify(
            posts=[{"title": post.title, "by": post.author.name} for post in page],
            pages=page.pages,
            next=page.next_num,
        )

    @app.post("/authors")
    def register():
        author = Author(name=request.form["name"])
        db.session.add(author)
        try:
            db.session.commit()
        except Exception:
            db.session.rollback()
            abort(409)
        return {"id": author.id}, 201

    @app.post("/authors/<int:number>/posts")
    def create(number):
        author = db.get_or_404(Author, number)
        post = Post(title=request.form["title"], author=author)
        db.session.add(post)
        db.session.commit()
        return {"id": post.id}, 201

    @app.route("/posts/<int:number>", methods=["GET", "DELETE"])
    def read(number):
        post = db.get_or_404(Post, number)
        if request.method == "DELETE":
            db.session.delete(post)
            db.session.commit()
            return "", 204
        return {"title": post.title}

    def titles():
        for title in db.session.scalars(select(Post.title).execution_options(yield_per=2)):
            yield f"{title}\n"

    @app.get("/titles.txt")
    def export():
        return app.response_class(stream_with_context(titles()), mimetype="text/plain")

    @app.get("/fails")
    def fails():
        db.session.scalars(select(Post)).all()
        raise RuntimeError("on purpose")

    @app.get("/wrong")
    def wrong():
        session = db.session()
        session.scalar(select(Post.id))

        def count():
            with app.app_context():
                session.scalar(select(Post.id))

        thread = Thread(target=count)
        thread.start()
        thread.join()
        return "done"

    return app
