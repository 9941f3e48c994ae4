"""Large arrays: a block is written to shared memory once, and the actor that gets it maps it there.

Nobody has to name, to count or to free the shared memory: it is gone when the last array on it is.
"""

from contextlib import ExitStack

from pactor import Actor, ask

try:
    import numpy
except ImportError:
    numpy = None


class Smoother:
    def smooth(self, block):
        """Returns the means of neighbours: one row less than the block has."""
        return (block[1:] + block[:-1]) / 2


if __name__ == "__main__":
    if numpy is None:
        raise SystemExit(print("This example needs numpy, which is not installed here."))

    image = numpy.random.default_rng(seed=1).random((4_001, 1_000))
    with ExitStack() as actors:
        smoothers = [actors.enter_context(Actor(Smoother())) for _ in range(4)]
        replies = [
            # One row more than a block: each block needs its neighbour's first.
            ask(smoother.proxy.smooth, image[1_000 * i : 1_000 * (i + 1) + 1])
            for i, smoother in enumerate(smoothers)
        ]
        smoothed = numpy.concatenate([reply.result(timeout=30) for reply in replies])
    print(f"{image.nbytes / 1e6:.0f} MB out in {len(replies)} blocks, {smoothed.nbytes / 1e6:.0f} MB back")
    print(f"standard deviation before {image.std():.3f}, after {smoothed.std():.3f}")
