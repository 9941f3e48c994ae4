"""Ray, on this machine alone."""

from __future__ import annotations

import asyncio
import os

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray

from benchmarks.node import Node
from benchmarks.systems import System


@ray.remote(num_cpus=0)
class RayNode(Node):
    def sender(self, other, method):
        return getattr(other, method).remote


class Ray(System):
    MODULE = "ray"
    SLOWER = 50
    UNABLE = {
        "ring_100": "not run: to start 100 processes takes most of the limit",
        "alive_500": "not run: to start 500 processes takes most of the limit",
        "create_and_stop": "its stop can't be waited for",
    }

    def __init__(self):
        ray.init(include_dashboard=False, log_to_driver=False, configure_logging=False)

    def start(self, count, writers=1):
        nodes = [RayNode.remote() for _ in range(count)]
        ray.get([node.finished.remote() for node in nodes])
        return nodes

    def stop(self, nodes):
        for node in nodes:
            ray.kill(node)

    def close(self):
        ray.shutdown()

    def tell(self, node, method, *args):
        getattr(node, method).remote(*args)

    def ask(self, node, method, *args):
        return ray.get(getattr(node, method).remote(*args))

    def ask_many(self, node, method, values):
        asked = getattr(node, method)
        return ray.get([asked.remote(value) for value in values])

    def gather_many(self, node, method, values):
        async def gather():
            asked = getattr(node, method)
            return await asyncio.gather(*[asked.remote(value) for value in values])

        return asyncio.run(gather())
