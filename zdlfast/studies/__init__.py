"""The experiments of the articles, one file each: ``python -m zdlfast.studies``.

Each module has a one-line ``SUMMARY`` and three functions: ``compute(setup)`` does the experiment
and returns a dataclass of numbers and arrays, ``describe(result)`` says in a table and in words
what was found, ``draw(result)`` makes the picture.
"""

NAMES = [
    "trajectories",
    "optimizers",
    "minibatch",
    "initialization",
    "batchnorm",
    "regularization",
    "hyperparameters",
    "bias_correction",
]
