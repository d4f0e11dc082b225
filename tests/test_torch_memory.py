"""Optimizers for torch find the memory of every tensor in every step, whatever became of it."""

import gc

import pytest

torch = pytest.importorskip("torch")

from torch_table import copies  # noqa: E402

import zdlfast.torch  # noqa: E402


def other_data(tensor):
    tensor.data = tensor.data * 2.0


def other_storage(tensor):
    with torch.no_grad():
        tensor.set_(tensor.detach() * 2.0)


def grown_storage(tensor):
    """Its elements move: storage is too small for what was asked for."""
    tensor.untyped_storage().resize_(1 << 24)


def shared(tensor):
    tensor.share_memory_()


def swapped(tensor):
    kind = type(tensor)
    other = tensor.detach() * 2.0
    if kind is torch.nn.Parameter:
        other = torch.nn.Parameter(other)
    torch.utils.swap_tensors(tensor, other)


def view_of_a_buffer(tensor):
    buffer = torch.zeros(3 * tensor.numel() + 1)
    buffer[1 : tensor.numel() + 1] = tensor.detach().flatten()
    tensor.data = buffer[1 : tensor.numel() + 1].view(tensor.shape)


def strided(tensor):
    tensor.data = torch.stack([tensor.detach()] * 2, -1)[..., 0]


def transposed(tensor):
    tensor.data = tensor.detach().T.contiguous().T


def unaligned(tensor):
    buffer = bytearray(tensor.numel() * 4 + 1)
    moved = torch.frombuffer(buffer, dtype=torch.float32, offset=1).view(tensor.shape)
    moved.copy_(tensor.detach())
    tensor.data = moved


CHANGES = [
    other_data, other_storage, grown_storage, shared, swapped, view_of_a_buffer, strided,
    transposed, unaligned,
]  # fmt: skip
CLASSES = [
    ("SGD", {"momentum": 0.9}),
    ("Adam", {"amsgrad": True}),
    ("RMSprop", {"centered": True, "momentum": 0.9}),
]


def set_gradients(params, seed):
    random = torch.Generator().manual_seed(seed)
    for param in params:
        param.grad = torch.randn(param.shape, generator=random)


@pytest.mark.parametrize("what", ["param", "grad", "state"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize(("name", "options"), CLASSES, ids=[name for name, _ in CLASSES])
def test_a_tensor_is_updated_where_it_is_now(name, options, change, what):
    if change is swapped and what == "grad":
        pytest.skip("torch swaps no gradient")
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(40, 30)), torch.nn.Parameter(torch.randn(30, 40))]
    theirs = copies(ours)
    pairs = [
        (ours, getattr(zdlfast.torch, name)(ours, **options)),
        (theirs, getattr(torch.optim, name)(theirs, **options)),
    ]
    for step in range(4):
        for params, optimizer in pairs:
            set_gradients(params, step)
            if step:
                tensors = {
                    "param": [params[0]],
                    "grad": [params[0].grad],
                    "state": [v for v in optimizer.state[params[0]].values() if v.ndim],
                }[what]
                before = [tensor.detach() for tensor in tensors]
                for tensor in tensors:
                    change(tensor)
                # What no longer belongs to the tensor stays as it is.
                left = [
                    (old, old.clone())
                    for old, tensor in zip(before, tensors, strict=True)
                    if old.data_ptr() != tensor.data_ptr()
                ]
                optimizer.step()
                assert all(torch.equal(old, copy) for old, copy in left)
            else:
                optimizer.step()
        for mine, its in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("which", ["param", "grad", "exp_avg", "step"])
def test_a_storage_that_was_freed_is_an_error(which):
    params = [torch.nn.Parameter(torch.ones(50)), torch.nn.Parameter(torch.ones(50))]
    optimizer = zdlfast.torch.Adam(params)
    set_gradients(params, 0)
    optimizer.step()
    tensor = {"param": params[1], "grad": params[1].grad}.get(which)
    if tensor is None:
        tensor = optimizer.state[params[1]][which]
    before = params[0].detach().clone()
    tensor.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match="it was freed"):
        optimizer.step()
    assert torch.equal(params[0], before)
    assert optimizer.state[params[0]]["step"].item() == 1.0


def test_memory_that_tensors_share_is_updated_in_their_order():
    def train(module):
        torch.manual_seed(1)
        buffer = torch.randn(100)
        params = [torch.nn.Parameter(buffer[start : start + 60]) for start in (0, 20, 40)]
        optimizer = module.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.1)
        for step in range(5):
            set_gradients(params, step)
            optimizer.step()
        return buffer

    torch.testing.assert_close(train(zdlfast.torch), train(torch.optim))


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_a_gradient_may_be_the_parameter_itself(name):
    def train(module):
        param = torch.nn.Parameter(torch.linspace(-1.0, 1.0, 50))
        optimizer = getattr(module, name)([param], lr=0.1)
        for _ in range(3):
            param.grad = param.detach()
            optimizer.step()
        return param

    torch.testing.assert_close(train(zdlfast.torch), train(torch.optim))


def test_negative_bits_are_heeded():
    """A tensor may stand for the negative of what lies in its memory."""

    def train(module, shape):
        torch.manual_seed(2)
        param = torch.nn.Parameter(torch.ones(shape))
        optimizer = module.Adam([param], lr=0.1)
        for _ in range(3):
            grad = torch.randn(shape, dtype=torch.complex64).conj().imag
            assert grad.is_neg()
            param.grad = grad
            optimizer.step()
        return param

    for shape in ((), (1,), (1, 1), (5,), (3, 4)):
        torch.testing.assert_close(train(zdlfast.torch, shape), train(torch.optim, shape))


def test_an_expanded_gradient_is_read_as_it_is():
    def train(module):
        param = torch.nn.Parameter(torch.ones(4, 5))
        optimizer = module.Adam([param], lr=0.1)
        param.grad = torch.tensor(2.0).expand(4, 5)
        optimizer.step()
        return param

    torch.testing.assert_close(train(zdlfast.torch), train(torch.optim))


@pytest.mark.parametrize("kind", [torch.channels_last, torch.contiguous_format])
def test_layouts_may_differ_between_parameter_gradient_and_state(kind):
    def train(module):
        torch.manual_seed(3)
        param = torch.nn.Parameter(torch.randn(4, 3, 5, 5).to(memory_format=kind))
        optimizer = module.Adam([param], lr=0.1)
        for memory_format in (torch.channels_last, torch.contiguous_format):
            param.grad = torch.randn(4, 3, 5, 5).to(memory_format=memory_format)
            optimizer.step()
        return param

    ours = train(zdlfast.torch)
    assert ours.is_contiguous(memory_format=kind)
    torch.testing.assert_close(ours, train(torch.optim))


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(30_000,), (10, 30, 10, 10)])
def test_large_state_starts_at_a_place_of_a_page_of_its_own(kind, shape):
    param = torch.nn.Parameter(torch.randn(shape, dtype=kind))
    if len(shape) == 4:
        param.data = param.data.to(memory_format=torch.channels_last)
    param.grad = torch.randn_like(param)
    optimizer = zdlfast.torch.Adam([param], amsgrad=True)
    optimizer.step()
    slots = [value for value in optimizer.state[param].values() if value.ndim]
    apart = [(slot.data_ptr() - param.data_ptr()) % 4096 for slot in slots]
    assert apart == [1024, 2048, 3072]
    assert all(slot.stride() == param.stride() and slot.shape == param.shape for slot in slots)


def test_a_finalizer_that_moves_tensors_does_no_harm():
    """Python code may run when garbage is collected, which a step may be the cause of."""
    params = [torch.nn.Parameter(torch.ones(10)) for _ in range(50)]
    optimizer = zdlfast.torch.Adam(params)

    class Mover:
        def __del__(self):
            for param in params:
                param.data = param.data.clone()

    def litter():
        mover = Mover()
        mover.itself = mover

    before = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for step in range(20):
            set_gradients(params, step)
            litter()
            optimizer.step()
    finally:
        gc.set_threshold(*before)
        gc.collect()
    assert optimizer.state[params[0]]["step"].item() == 20.0
    assert torch.isfinite(torch.stack(list(params))).all()
