"""Neural networks in plain NumPy, as the book builds them: what the optimizers work for.

::

    from zdlfast import Adam
    from zdlfast.nn import Affine, ReLU, Sequential, Trainer

    network = Sequential(Affine(784, 100, rng=8), ReLU(), Affine(100, 10, rng=9))
    Trainer(network, Adam(), epochs=5).fit(x_train, t_train)

A network's ``params`` and ``gradient(x, t)`` are dicts of arrays, as ``optimizer.update`` takes
them. float32 stays float32 from the data to the gradients.

A gradient is that of the loss of the batch as it is given. The loss is the mean over the batch, so
gradients are means too, and ``lr`` means the same for every size of batch. With
``SoftmaxCrossEntropy("sum")`` both are sums and grow with the batch. The optimizer averages
nothing: it takes gradients as they come.
"""

from zdlfast.nn.gradient import gradient_check, numerical_gradient
from zdlfast.nn.initializers import He, Initializer, Normal, Xavier, Zeros
from zdlfast.nn.layers import (
    Affine,
    BatchNormalization,
    Dropout,
    Layer,
    ReLU,
    Sigmoid,
    Tanh,
)
from zdlfast.nn.losses import SoftmaxCrossEntropy
from zdlfast.nn.network import Sequential, dense_network
from zdlfast.nn.trainer import History, Trainer

__all__ = [
    "Affine",
    "BatchNormalization",
    "Dropout",
    "He",
    "History",
    "Initializer",
    "Layer",
    "Normal",
    "ReLU",
    "Sequential",
    "Sigmoid",
    "SoftmaxCrossEntropy",
    "Tanh",
    "Trainer",
    "Xavier",
    "Zeros",
    "dense_network",
    "gradient_check",
    "numerical_gradient",
]
