"""Benchmarks: pactor beside its peers. ``python -m benchmarks --help``"""
