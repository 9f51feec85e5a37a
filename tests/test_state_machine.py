"""Random courses of a registry end as a simple model says. The long run is `python -m bench.state_machine`."""

from bench.state_machine import follow
from tests.world import Registry


def test_a_registry_does_what_its_model_does(registry: Registry) -> None:
    done = follow(registry, examples=3, steps=40, derandomize=True)
    assert done["courses"] >= 3
    assert done["stored"] > 10
    assert done["refused"] > 10
    assert done["replayed"] > 0
