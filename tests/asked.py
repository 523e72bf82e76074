"""What a run of the tests was asked for."""


def all_of(mark, config):
    """Whether it is `pytest -m MARK`: then all cases with this mark run, and not only a few."""
    return config.getoption("markexpr") == mark
