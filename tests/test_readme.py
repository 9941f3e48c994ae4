"""The README: each of its programs runs and prints what it says, and its commands are there."""

from __future__ import annotations

import importlib.util
import itertools
import os
import re
import shlex
import textwrap

import pytest
from programs import METHODS, ROOT, run

README = (ROOT / "README.rst").read_text("utf-8")

#: Pairs of a language and a text. A `text` is the output of the program before it; as in doctest, `...` is anything.
BLOCKS = [
    (language, textwrap.dedent(text))
    for language, text in re.findall(r"^\.\. code-block:: (\w+)\n\n((?:    .*\n|\n)+)", README, re.MULTILINE)
]
PROGRAMS = [
    pytest.param(
        program.rstrip() + "\n",
        output.strip() if following == "text" else None,
        id=re.search(r"(?<=^class )\w+|^\w+(?= =)", program, re.MULTILINE)[0],
    )
    for (language, program), (following, output) in itertools.pairwise([*BLOCKS, ("", "")])
    if language == "python"
]
COMMANDS = [line for language, text in BLOCKS if language == "shell" for line in text.splitlines() if line]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("program", "output"), PROGRAMS)
def test_a_program_runs_and_prints_what_the_readme_says(program, output, method, tmp_path):
    if "import numpy" in program:
        pytest.importorskip("numpy")
    (tmp_path / "program.py").write_text(program, "utf-8")
    printed = run("program.py", method, tmp_path, fails="Restart(" in program).strip()
    if output is not None:
        assert re.fullmatch(re.escape(output).replace(r"\.\.\.", ".*"), printed), printed


def test_every_code_block_is_looked_at():
    languages = [language for language, _ in BLOCKS]
    assert README.count("code-block::") == len(languages)
    assert "::\n\n    " not in README.replace(".. code-block::", "")
    assert {"python", "text", "shell"} == set(languages)
    # What states an output stands right behind a program.
    assert all(before == "python" for before, language in itertools.pairwise(languages) if language == "text")


def test_two_commands_are_all_the_set_up_and_are_there():
    demo, tests = (shlex.split(command, comments=True) for command in COMMANDS)
    assert ["python3", "-m", "pactor"] == demo
    assert importlib.util.find_spec("pactor.__main__")
    assert ["bash", ".ci/run"] == tests
    assert os.access(ROOT / tests[1], os.X_OK)


def test_the_first_program_is_the_first_example():
    assert (ROOT / "examples" / "counter.py").read_text("utf-8").endswith(PROGRAMS[0].values[0])


def test_what_it_names_exists():
    for path in re.findall(r"``([\w.]+/|[\w.]+\.rst)``", README):
        assert (ROOT / path).exists(), path
    import pactor

    for name in re.findall(r"pactor\.([A-Z]\w+)", README):
        assert hasattr(pactor, name), name


def test_it_is_valid_restructuredtext():
    core = pytest.importorskip("docutils.core")
    # At a warning, docutils raises; PyPI shows nothing but plain text then.
    core.publish_doctree(README, settings_overrides={"halt_level": 2, "report_level": 2, "syntax_highlight": "none"})
