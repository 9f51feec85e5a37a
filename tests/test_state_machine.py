"""Random courses of a registry end as a simple model says. The long run is `python -m bench.state_machine`."""

from bench.state_machine import follow
from tests.world import Registry


def test_a_registry_does_what_its_model_does(registry: Registry) -> None:
    done = follow(registry, examples=6, steps=30, derandomize=True)
    assert done["courses"] >= 6
    assert done["stored"] > 10
    assert done["refused"] > 10
