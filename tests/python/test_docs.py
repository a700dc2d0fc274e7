"""Every snippet of README.md and docs/ runs.

`python` blocks of a page share one namespace; an `output` block is what the block before it
printed (`...` stands for anything). In a `console` block every line that begins with `$ ` runs in
bash and must succeed; what follows it is its output. `sh` blocks hold commands of the Makefile and
do not run.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sybil import Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.example import SybilFailure
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUN = {"python", "console", "output"}
NOT_RUN = {"sh", "text", "toml", "rust", "json", "csv", "sql"}
PRINTED = "_printed_by_the_last_block"

pytestmark = pytest.mark.docs


def compare(want, got):
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    if not doctest.OutputChecker().check_output(want.strip() + "\n", got.strip() + "\n", flags):
        raise AssertionError(f"expected:\n{want}\nprinted:\n{got}")


class CapturingEvaluator(PythonEvaluator):
    def __call__(self, example):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            super().__call__(example)
        example.namespace[PRINTED] = printed.getvalue()


def evaluate_output(example):
    assert PRINTED in example.namespace, "an output block follows a python block"
    compare(example.parsed, example.namespace.pop(PRINTED))


def evaluate_console(example):
    scripts = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": scripts + os.pathsep + os.environ["PATH"]}
    commands = re.split(r"^\$ ", example.parsed, flags=re.MULTILINE)
    assert commands[0] == "", "a console block begins with `$ `"
    for text in commands[1:]:
        command, _, want = text.partition("\n")
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"$ {command}\n{done.stdout}"
        if want.strip():
            compare(want, done.stdout)


def run(page):
    python = PythonCodeBlockParser()
    python.codeblock_parser = python.codeblock_parser_class("python", CapturingEvaluator())
    parsers = [
        python,
        CodeBlockParser("output", evaluate_output),
        CodeBlockParser("console", evaluate_console),
    ]
    ran = 0
    for example in Sybil(parsers).parse(page).examples():
        example.evaluate()
        ran += 1
    return ran


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_snippets_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = run(page)
    fences = re.findall(r"^```(\w+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(fences) <= RUN | NOT_RUN
    assert ran >= sum(language in RUN for language in fences)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_make_targets_and_links_exist(page):
    text = page.read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(?:sh|console)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    words = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    commands = "\n".join([*blocks, *re.findall(r"`[^`]+`", words)])
    for target in re.findall(r"\bmake ([a-z][a-z-]*)", commands):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert (page.parent / link).exists(), link


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_named_files_exist(page):
    named = re.findall(r"`((?:crates|bindings|python|tests|tools|docs)/[^`\s]*)`", page.read_text())
    assert [name for name in named if not list(ROOT.glob(name))] == []


@pytest.mark.parametrize(
    "page",
    [
        "```python\nassert 1 == 2\n```\n",
        "```python\nprint(1)\n```\n\n```output\n2\n```\n",
        "```console\n$ false | cat\n```\n",
        "```console\n$ echo one\ntwo\n```\n",
        "```python\n>>> 1 + 1\n3\n```\n",
    ],
)
def test_a_wrong_snippet_is_noticed(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written = tmp_path / "page.md"
    written.write_text(page, encoding="utf-8")
    with pytest.raises((AssertionError, SybilFailure)):
        run(written)


def test_bash_is_there():
    assert shutil.which("bash"), "console blocks run in bash"
