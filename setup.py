import re
from pathlib import Path

from setuptools import setup

here = Path(__file__).parent
# Read, not imported and not executed: building a package must not run it.
version = re.search(r'^__version__ = "(.+)"$', (here / "pactor" / "__init__.py").read_text("utf-8"), re.MULTILINE)
assert version is not None, "pactor/__init__.py has no line __version__ = ..."

setup(
    name="pactor",
    version=version[1],
    description="A minimalist actor framework: wrap a plain object, it runs in a process of its own",
    long_description=(here / "README.rst").read_text("utf-8"),
    long_description_content_type="text/x-rst",
    author="the pactor authors",
    license_expression="MIT",
    license_files=["LICENSE"],
    keywords=["actor", "actor model", "concurrency", "multiprocessing", "parallelism", "message passing", "ipc"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Operating System :: POSIX",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Programming Language :: Python :: 3.14",
        "Programming Language :: Python :: 3.15",
        "Programming Language :: Python :: Implementation :: CPython",
        "Topic :: Software Development :: Libraries :: Python Modules",
        "Topic :: System :: Distributed Computing",
        "Typing :: Typed",
    ],
    python_requires=">=3.10",
    packages=["pactor"],
    package_data={"pactor": ["py.typed"]},
    entry_points={"console_scripts": ["pactor = pactor.__main__:main"]},
    extras_require={
        "bench": ["distributed", "matplotlib", "numpy", "pykka", "ray", "thespian", "xoscar"],
        "test": ["pytest>=8", "pytest-timeout>=2.3", "hypothesis>=6.100", "numpy"],
    },
)
