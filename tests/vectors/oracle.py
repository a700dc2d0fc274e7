"""An independent account of the numbers in rng.json, delays.json, adaptive.json, fingerprint.json
and advisory_key.json.

Written from the published descriptions alone (splitmix64 and xoshiro256++ by Blackman and Vigna,
FNV-1a by Fowler, Noll and Vo, the formulas of DESIGN section 5), with Python's own integers and
doubles. Shares no code with the core.

    python tests/vectors/oracle.py            compare, exit status 1 if a number differs
    python tests/vectors/oracle.py --write    write the numbers into the files
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MASK = (1 << 64) - 1
HERE = Path(__file__).resolve().parent


def splitmix64(state: int) -> Iterator[int]:
    """https://prng.di.unimi.it/splitmix64.c"""
    while True:
        state = (state + 0x9E3779B97F4A7C15) & MASK
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        yield z ^ (z >> 31)


def rotate_left(x: int, k: int) -> int:
    return ((x << k) | (x >> (64 - k))) & MASK


def xoshiro256plusplus(words: list[int]) -> Iterator[int]:
    """https://prng.di.unimi.it/xoshiro256plusplus.c"""
    s = list(words)
    while True:
        yield (rotate_left((s[0] + s[3]) & MASK, 23) + s[0]) & MASK
        t = (s[1] << 17) & MASK
        s[2] ^= s[0]
        s[3] ^= s[1]
        s[1] ^= s[2]
        s[0] ^= s[3]
        s[2] ^= t
        s[3] = rotate_left(s[3], 45)


def seeded(seed: int) -> Iterator[int]:
    words = splitmix64(seed)
    return xoshiro256plusplus([next(words) for _ in range(4)])


def uniform(draws: Iterator[int], low: int, high: int) -> int:
    """A whole number from low to high, both included, by multiplication."""
    return low + (next(draws) * (high - low + 1) >> 64)


def nearer(known: int, told: int) -> int:
    return known + (told - known) // 10 if told > known else known - (known - told) // 10


def adaptive(policy: dict[str, Any], seed: int, events: Iterable[tuple[str, int]]) -> Iterator[Any]:
    """The sleep (of a failure) and the learned state after each event; times and holds in ns."""
    draws = seeded(seed)
    limit = max(int(policy["max_delay_ns"]), 50_000)
    mu, h, s = min(5_000_000, limit), 5_000_000, 0
    raised = first = last = None
    for event, value in events:
        delay = None
        if event == "failed":
            if last is None or value - last > 2 * mu:
                first = last = value
            last = max(last, value)
            if raised is None or value - raised >= mu // 2:
                raised = value
                mu = min(mu + mu // 10, max(8 * h, s // 2, (last - first) // 8), limit)
            delay = uniform(draws, mu // 2, mu + mu // 2)
        else:
            hold = min(max(value, 100_000), 8 * h)
            if last is not None:
                s = nearer(s, min(last - first, 8 * max(8 * h, s)))
            first = last = None
            h = nearer(h, hold)
            mu = min(max(mu * 1000 // 1331, h // 2), max(8 * h, s // 2), limit)
        yield delay, mu, h, s


def delays(policy: dict[str, Any], seed: int) -> Iterator[int]:
    if policy["jitter"] == "adaptive":
        now = [0]
        for delay, *_ in adaptive(policy, seed, (("failed", now[0]) for _ in itertools.count())):
            now[0] += delay
            yield delay
    base = int(policy["initial_delay_ns"])
    cap = int(policy["max_delay_ns"])
    factor = float(policy["backoff_factor"])
    kind = policy["jitter"]
    draws = seeded(seed)
    ceiling = float(base)
    previous = base
    while True:
        v = int(ceiling)
        if kind == "none":
            delay = v
        elif kind == "additive":
            delay = v + uniform(draws, 0, base)
        elif kind == "equal":
            delay = v // 2 + uniform(draws, 0, v // 2)
        elif kind == "full":
            delay = uniform(draws, 0, v)
        else:
            delay = uniform(draws, base, min(cap, 3 * previous))
        yield delay
        previous = delay
        ceiling = min(float(cap), ceiling * factor)


def fnv1a(text: str) -> int:
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = ((value ^ byte) * 0x100000001B3) & MASK
    return value


def take(numbers: Iterator[int], count: int) -> list[str]:
    return [str(next(numbers)) for _ in range(count)]


def expected(name: str, vector: dict[str, Any]) -> Any:
    if name == "rng":
        draws = seeded(int(vector["seed"]))
        if "below" in vector:
            limit = int(vector["below"])
            return [str(next(draws) * limit >> 64) for _ in vector["expect"]]
        return take(draws, len(vector["expect"]))
    if name == "delays":
        return take(delays(vector["policy"], int(vector["seed"])), int(vector["count"]))
    if name == "adaptive":
        events = [(name, int(value)) for event in vector["events"] for name, value in event.items()]
        learned = adaptive(vector["policy"], int(vector["seed"]), events)
        names = ("delay_ns", "mean_ns", "hold_ns", "others_ns")
        return [
            {name: str(value) for name, value in zip(names, row, strict=True) if value is not None}
            for row in learned
        ]
    if name == "advisory_key":
        number = int(hashlib.sha256(vector["written"].encode()).hexdigest()[:16], 16)
        return str(number - (number >> 63 << 64))
    return str(fnv1a(vector["sql"]))


def self_test() -> None:
    """The first outputs of the authors' C programs, as their other translations cite them."""
    assert take(xoshiro256plusplus([1, 2, 3, 4]), 3) == ["41943041", "58720359", "3588806011781223"]
    assert next(splitmix64(1234567)) == 6457827717110365317
    assert fnv1a("a") == 0xAF63DC4C8601EC8C
    assert fnv1a("foobar") == 0x85944171F73967E8


def dump(about: str, vectors: list[dict[str, Any]]) -> str:
    lines = ",\n".join(json.dumps(vector) for vector in vectors)
    return f'{{\n"about": {json.dumps(about)},\n"vectors": [\n{lines}\n]\n}}\n'


def check(write: bool = False) -> list[str]:
    """Names the vectors whose numbers differ."""
    self_test()
    wrong = []
    for name in ("rng", "delays", "adaptive", "fingerprint", "advisory_key"):
        path = HERE / f"{name}.json"
        content = json.loads(path.read_text())
        for index, vector in enumerate(content["vectors"]):
            value = expected(name, vector)
            if vector["expect"] != value:
                wrong.append(f"{path.name} vector {index}: {vector['rule']}")
                vector["expect"] = value
        if write:
            path.write_text(dump(content["about"], content["vectors"]))
    return wrong


if __name__ == "__main__":
    found = check(write="--write" in sys.argv[1:])
    sys.stdout.write("".join(f"{line}\n" for line in found))
    sys.exit(bool(found) and "--write" not in sys.argv[1:])
