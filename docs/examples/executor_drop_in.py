"""A program for a pool of threads, moved to an endpoint by one line.

Needs a broker and an endpoint that serves the plugin rhapsody. Run it as `python executor_drop_in.py`, or with the name of an
endpoint; without one, the broker chooses one that has the plugin.
"""

import concurrent.futures
import math
import sys

import orbit_zmq


def is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))


def main(endpoint: str) -> None:
    # with concurrent.futures.ThreadPoolExecutor() as executor:
    with orbit_zmq.Executor(endpoint) as executor:
        numbers = range(112_272_535_095_200, 112_272_535_095_300)
        primes = [number for number, prime in zip(numbers, executor.map(is_prime, numbers), strict=True) if prime]
        print(f"{len(primes)} primes: {', '.join(map(str, primes))}")

        futures = {executor.submit(pow, 2, exponent): exponent for exponent in range(5)}
        for future in concurrent.futures.as_completed(futures):
            assert future.result() == 2 ** futures[future]
        print(f"{len(futures)} powers")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "*")
