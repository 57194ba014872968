"""A workflow of radical.asyncflow whose tasks run on an endpoint: the backend says where, the rest is as it was.

Needs `pip install 'orbit-zmq[rhapsody]' radical.asyncflow`, a broker and an endpoint that serves the plugin rhapsody. Run it as
`python asyncflow.py`, or with the name of an endpoint; without one, it runs where the plugin is.
"""

import asyncio
import random
import sys

import rhapsody
from radical.asyncflow import WorkflowEngine

import orbit_rhapsody  # noqa: F401 - Rhapsody knows the backend `orbit_zmq` by it


async def main(endpoint: str) -> None:
    backend = await rhapsody.get_backend("orbit_zmq", endpoint=endpoint, backends=["concurrent"])
    flow = await WorkflowEngine.create(backend=backend)

    @flow.executable_task
    async def prepare() -> str:
        return "/bin/echo 1000"

    @flow.function_task
    async def simulate(seed: int, printed: str) -> float:
        """How far a walk of so many random steps gets."""
        steps = random.Random(seed)
        return abs(sum(steps.choice((-1.0, 1.0)) for _ in range(int(printed))))

    @flow.function_task
    async def report(*distances: float) -> str:
        return f"The longest of {len(distances)} walks got {max(distances):.0f} steps far."

    prepared = prepare()
    walks = [simulate(seed, prepared) for seed in range(8)]
    print(await report(*walks))  # each waits for those whose results it takes
    await flow.shutdown()


asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "*"))
