"""Research Registry: the REST API of a multi-site registry of MDMA-assisted therapy for depression."""

__version__ = "0.1.0"
