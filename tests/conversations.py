"""Random conversations on instances short of memory, which keep what requests generate."""

from dataclasses import replace
from random import Random
from typing import Any

from tests.scenarios import Scenario, random_cluster, random_policies
from tests.small import PS
from traces.schema import Trace, build


def case_of(seed: int, most_requests: int = 30) -> Scenario:
    """Draw a scenario whose cluster caches outputs."""
    random = Random(f"conversations {seed}")
    block_tokens = random.choice([2, 4, 5, 8])
    trace = conversations(random, random.randint(1, most_requests), block_tokens * random.choice([1, 1, 2, 3]))
    cluster = replace(random_cluster(random, trace, block_tokens), prefix_cache=True, cache_outputs=True)
    return Scenario(trace, cluster, random_policies(random), random.randint(0, 1000))


def conversations(random: Random, requests: int, block_tokens: int) -> Trace:
    """Draw turns: most begin with the whole conversation before, some with a part of it, or ask the same again.

    A turn knows the one before by `parent`, by `session`, or not at all.
    """
    gaps = random.choice([(0, 1, 100), (7, 500, 3000), (1, 20_000)])
    most_output = random.choice([3, 12, 40, 90])
    names = ("arrival_s", "prompt_tokens", "output_tokens", "prefix_blocks", "parent", "think_s", "session")
    columns: dict[str, list[Any]] = {name: [] for name in names}
    whole: list[list[int]] = []  # of each request its prompt and output as ids, a last partial block included
    arrival_ps = next_id = 0
    for row in range(requests):
        before = random.randrange(row) if row and random.random() < 0.75 else -1
        kind = random.choice(["on", "on", "on", "on", "part", "again"])
        chain, prompt = [], 0
        if before >= 0 and kind == "again":
            chain, prompt = list(columns["prefix_blocks"][before]), columns["prompt_tokens"][before]
        elif before >= 0:
            prompt = columns["prompt_tokens"][before] + columns["output_tokens"][before]
            prompt = random.randint(1, prompt) if kind == "part" else prompt
            chain = whole[before][: prompt // block_tokens]
        more = random.choice([0, 1, random.randint(1, 3 * block_tokens)])
        prompt = max(1, prompt + more)
        lacking = max(0, prompt // block_tokens - len(chain))
        chain = chain + list(range(next_id, next_id + lacking))
        next_id += lacking
        output = random.choice([1, most_output, random.randint(1, most_output)])
        full = max(0, (prompt + output) // block_tokens - len(chain))
        whole.append(chain + list(range(next_id, next_id + full)))
        next_id += full
        arrival_ps += random.choice(gaps)
        values = {"arrival_s": arrival_ps * PS, "prompt_tokens": prompt, "output_tokens": output,
                  "prefix_blocks": chain, "parent": before,
                  "think_s": random.choice([0, 150, 4000]) * PS if before >= 0 else 0.0,
                  "session": columns["session"][before] if before >= 0 else f"s{row}"}  # fmt: skip
        for name, value in values.items():
            columns[name].append(value)
    known = random.choice(["parent", "parent", "session", "nothing"])
    dropped = {"parent": ("session",), "session": ("parent", "think_s"), "nothing": ("parent", "think_s", "session")}
    return build("conversations", {name: values for name, values in columns.items() if name not in dropped[known]},
                 block_tokens)
