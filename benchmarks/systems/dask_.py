"""dask: actors of its distributed scheduler, on workers of this machine."""

from __future__ import annotations

from dask.distributed import Client, LocalCluster

from benchmarks.node import Node
from benchmarks.systems import System


class DaskNode(Node):
    def sender(self, other, method):
        return getattr(other, method)


class Dask(System):
    MODULE = "dask.distributed"
    SLOWER = 50
    UNABLE = dict.fromkeys(
        ["memory", "alive_500", "ring_100", "create_and_stop"], "its actors share the processes of workers"
    )

    def __init__(self):
        cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, processes=True)
        self._client = Client(cluster)
        self._cluster = cluster

    def start(self, count, writers=1):
        nodes = [self._client.submit(DaskNode, actor=True, pure=False).result() for _ in range(count)]
        for node in nodes:
            self.ask(node, "finished")
        return nodes

    def stop(self, nodes):
        pass  # with the last reference

    def close(self):
        self._client.close()
        self._cluster.close()

    def tell(self, node, method, *args):
        getattr(node, method)(*args)

    def ask(self, node, method, *args):
        return getattr(node, method)(*args).result()

    def ask_many(self, node, method, values):
        asked = getattr(node, method)
        return [future.result() for future in [asked(value) for value in values]]
