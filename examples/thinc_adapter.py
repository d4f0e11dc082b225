"""An adapter for thinc's Adam: ``zdlfast.patch(thinc_adapter.adapter)``.

thinc's own is a call of BLAS, whose last bits depend on the machine; this gives zdlfast's bits.
"""

from zdlfast.adapters import MethodAdapter, are_numbers, dtypes_of


def adam(patch, optimizer, ops, weights, gradient, lr_scale, key, nr_upd):
    """``Optimizer._adam``: a step of one parameter, whose state is found by its key."""

    def value(schedule):
        return schedule(optimizer.step, **optimizer._schedule_args(key))

    options = {
        "lr": value(optimizer.learn_rate) * lr_scale,
        "beta1": value(optimizer.b1),
        "beta2": value(optimizer.b2),
        "eps": value(optimizer.eps),
    }
    dtypes = dtypes_of([weights, gradient])
    own = patch.counterpart(ops, "Adam", **options, iter=nr_upd - 1)
    if own is None or not dtypes or not are_numbers(options.values(), dtypes):
        return patch.own(optimizer, ops, weights, gradient, lr_scale, key, nr_upd)
    for state in (optimizer.mom1, optimizer.mom2):
        if key not in state:
            state[key] = ops.alloc1f(weights.size)
    own.m = [optimizer.mom1[key].reshape(weights.shape)]
    own.v = [optimizer.mom2[key].reshape(weights.shape)]
    own.update([weights], [gradient])
    return weights, gradient


adapter = MethodAdapter(
    name="thinc",
    package="thinc",
    module="thinc.optimizers",
    versions=("9.0", "9.1"),
    methods={"Optimizer._adam": adam},
)
