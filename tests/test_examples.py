"""The examples: each runs under every start method, and prints something."""

from __future__ import annotations

import pytest
from programs import METHODS, ROOT, run

EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.py"))

#: What an example has to come to.
RESULTS = {
    "counter.py": "15\n",
    "crawler.py": "100 pages\n",
    "monitors.py": "Disk was ",
    "numpy_blocks.py": "32 MB out in 4 blocks, 32 MB back\n",
    "pipeline.py": "the squares of 1 to 100 add up to 338350\n",
    "primes.py": "There are 17984 primes below 200000.\n",
    "rate_limiter.py": "0.39 seconds or more: True\n",
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_runs_under_every_start_method(example, method, tmp_path):
    if example == "numpy_blocks.py":
        pytest.importorskip("numpy")
    assert RESULTS[example] in run(str(ROOT / "examples" / example), method, tmp_path)


def test_without_numpy_its_example_says_so(tmp_path):
    (tmp_path / "numpy.py").write_text("raise ImportError")
    example = tmp_path / "example.py"
    example.write_text((ROOT / "examples" / "numpy_blocks.py").read_text("utf-8"), "utf-8")
    assert "numpy, which is not installed" in run("example.py", "fork", tmp_path)


def test_an_example_is_short():
    for example in EXAMPLES:
        assert len((ROOT / "examples" / example).read_text("utf-8").splitlines()) < 60, example
