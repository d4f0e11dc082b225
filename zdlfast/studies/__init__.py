"""The experiments of the articles, one file each: ``python -m zdlfast.studies``.

Each module has three functions: ``compute(setup)`` does the experiment and returns a dataclass of
numbers and arrays, ``describe(result)`` says in a table and in words what was found,
``draw(result)`` makes the picture.
"""

#: What each study is about. Here, so that they can be listed without what they import.
STUDIES = {
    "trajectories": "paths of six optimizers down the valley x²/20 + y²",
    "optimizers": "one network trained by six optimizers from the same initial weights",
    "modern_optimizers": "every optimizer with a learning rate that the same search found for it",
    "minibatch": "gradient descent on one fixed batch, and on a fresh batch at every step",
    "initialization": "activations and learning with std 1, std 0.01, Xavier and He; and zeros",
    "batchnorm": "with and without batch normalization, over 16 scales of initial weights",
    "regularization": "overfitting on 300 images, with and without weight decay and dropout",
    "hyperparameters": "random search, grid search and Bayesian optimization at an equal budget",
    "low_bit_state": "training with state in 8 bits and in bfloat16, beside float32",
    "bias_correction": "Adam with its bias correction, and with that of the articles' prose",
}
