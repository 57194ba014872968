"""A parameter sweep: a simulation for each combination of parameters, taken in as they end, the best one at the end.

Needs a broker and an endpoint that serves the plugin rhapsody. Run it as `python parameter_sweep.py`, or with the name of an
endpoint; without one, the broker chooses one that has the plugin.
"""

import csv
import itertools
import sys

import orbit_zmq


def logistic(rate: float, start: float, steps: int) -> float:
    """How many animals there are in the end, as a share of those that there is room for."""
    if not 0.0 <= rate <= 4.0:
        raise ValueError(f"with a rate of {rate} there are soon more than there is room for")
    share = start
    for _ in range(steps):
        share = rate * share * (1.0 - share)
    return share


def main(endpoint: str) -> None:
    grid = itertools.product([1.5, 2.5, 3.5, 4.5], [0.1, 0.2, 0.3], [1_000])
    tasks = {f"run{number:03}": parameters for number, parameters in enumerate(grid)}

    with orbit_zmq.Client() as client, open("sweep.csv", "w", newline="") as file:
        rhapsody = client.get_plugin(endpoint, "rhapsody")
        answers = rhapsody.submit_tasks([{"uid": uid, "function": logistic, "args": each} for uid, each in tasks.items()])

        table, best = csv.writer(file), ("", -1.0)
        for result in rhapsody.as_completed(answers):  # each as it ends, in any order
            uid, share = result["uid"], result["return_value"]
            table.writerow([*tasks[uid], result["state"], share])
            if share is not None and share > best[1]:
                best = uid, share

        failed = rhapsody.get_statistics()["states"]["FAILED"]
        print(f"{len(tasks)} runs, {failed} failed; the best has {tasks[best[0]]}: {best[1]:.4f}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "*")
