"""Optimizers for torch in the hands of what calls them: torch's own tools, and libraries."""

import pytest

torch = pytest.importorskip("torch")

import numpy as np  # noqa: E402

import zdlfast.torch  # noqa: E402


def regression():
    torch.manual_seed(0)
    return torch.nn.Linear(4, 4), torch.randn(8, 4)


def train(module, step, steps=4):
    """The parameters after some steps of Adam, and the optimizer."""
    model, inputs = regression()
    optimizer = module.Adam(model.parameters(), lr=0.1)
    for _ in range(steps):
        step(model, optimizer, inputs)
    return list(model.parameters()), optimizer


def assert_same_training(step):
    (ours, optimizer), (theirs, _) = train(zdlfast.torch, step), train(torch.optim, step)
    for mine, its in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-5)
    return ours, optimizer


def test_a_compiled_model_trains():
    def step(model, optimizer, inputs):
        optimizer.zero_grad()
        torch.compile(model, backend="eager")(inputs).square().mean().backward()
        optimizer.step()

    assert_same_training(step)


def test_a_step_within_a_compiled_function_is_done():
    def step(model, optimizer, inputs):
        @torch.compile(backend="eager")
        def whole():
            optimizer.zero_grad()
            model(inputs).square().mean().backward()
            optimizer.step()

        whole()

    ours, optimizer = train(zdlfast.torch, step)
    theirs, _ = train(zdlfast.torch, step_eagerly)
    assert all(torch.equal(mine, its) for mine, its in zip(ours, theirs, strict=True))
    assert optimizer.state[ours[0]]["step"].item() == 4.0


def step_eagerly(model, optimizer, inputs):
    optimizer.zero_grad()
    model(inputs).square().mean().backward()
    optimizer.step()


def test_a_scaler_skips_a_step_with_infinite_gradients():
    scaler, factors = torch.amp.GradScaler("cpu"), iter([1.0, float("inf"), 1.0, 1.0] * 2)

    def step(model, optimizer, inputs):
        optimizer.zero_grad()
        scaler.scale(model(inputs).square().mean() * next(factors)).backward()
        scaler.step(optimizer)
        scaler.update()

    ours, optimizer = assert_same_training(step)
    assert optimizer.state[ours[0]]["step"].item() == 3.0


def test_clipped_gradients_and_averaged_models_go_with_it():
    def step(model, optimizer, inputs):
        if not hasattr(optimizer, "average"):
            optimizer.average = torch.optim.swa_utils.AveragedModel(model)
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        optimizer.average.update_parameters(model)

    _, optimizer = assert_same_training(step)
    assert optimizer.average.n_averaged == 4


def test_parametrized_weights_are_updated():
    def step(model, optimizer, inputs):
        if not hasattr(optimizer, "normed"):
            optimizer.normed = torch.nn.utils.parametrizations.weight_norm(model)
            optimizer.param_groups[0]["params"] = list(model.parameters())
        step_eagerly(model, optimizer, inputs)

    assert_same_training(step)


def test_step_from_a_hook_of_the_backward_pass():
    """As those do who save the memory of gradients: one optimizer for each parameter."""

    def finish(module):
        model, inputs = regression()
        optimizers = {param: module.SGD([param], lr=0.1) for param in model.parameters()}

        def update(param):
            optimizers[param].step()
            optimizers[param].zero_grad()

        for param in model.parameters():
            param.register_post_accumulate_grad_hook(update)
        for _ in range(3):
            model(inputs).square().mean().backward()
        return list(model.parameters())

    for mine, its in zip(finish(zdlfast.torch), finish(torch.optim), strict=True):
        torch.testing.assert_close(mine, its)


# ---------------------------------------------------------------- libraries, where they are there


@pytest.mark.filterwarnings("ignore")
def test_skorch_trains_and_searches_with_it():
    skorch = pytest.importorskip("skorch")
    from sklearn.model_selection import GridSearchCV

    random = np.random.default_rng(0)
    inputs = random.normal(size=(60, 5)).astype(np.float32)
    targets = (inputs[:, 0] > 0).astype(np.int64)

    def fit(optimizer):
        torch.manual_seed(0)
        net = skorch.NeuralNetClassifier(
            torch.nn.Sequential(torch.nn.Linear(5, 2), torch.nn.LogSoftmax(-1)),
            criterion=torch.nn.NLLLoss,
            optimizer=optimizer,
            max_epochs=5,
            verbose=0,
        )
        return net.fit(inputs, targets)

    ours, theirs = fit(zdlfast.torch.Adam), fit(torch.optim.Adam)
    np.testing.assert_allclose(ours.predict_proba(inputs), theirs.predict_proba(inputs), 1e-4)
    search = GridSearchCV(ours, {"lr": [0.01, 0.1], "optimizer__betas": [(0.8, 0.9)]}, cv=2)
    assert search.fit(inputs, targets).best_params_["optimizer__betas"] == (0.8, 0.9)


@pytest.mark.filterwarnings("ignore")
def test_stable_baselines_trains_saves_and_loads_with_it(tmp_path):
    baselines = pytest.importorskip("stable_baselines3")

    def train(optimizer):
        policy = {"optimizer_class": optimizer}
        model = baselines.PPO(
            "MlpPolicy", "CartPole-v1", policy_kwargs=policy, n_steps=64, seed=0, device="cpu"
        )
        return model.learn(128)

    ours, theirs = train(zdlfast.torch.Adam), train(torch.optim.Adam)
    # The last digit of a weight may change an action, and with it all that comes after.
    counts = [
        {state["step"].item() for state in model.policy.optimizer.state.values()}
        for model in (ours, theirs)
    ]
    assert counts[0] == counts[1] == {20.0}
    ours.save(tmp_path / "model")
    loaded = baselines.PPO.load(tmp_path / "model", env=ours.get_env())
    assert type(loaded.policy.optimizer) is zdlfast.torch.Adam
    loaded.learn(64)


@pytest.mark.filterwarnings("ignore")
def test_lightning_trains_with_it():
    lightning = pytest.importorskip("lightning")

    class Model(lightning.LightningModule):
        def __init__(self, module):
            super().__init__()
            self.module, (self.model, self.inputs) = module, regression()

        def training_step(self, batch, place):
            return self.model(batch).square().mean()

        def train_dataloader(self):
            return torch.utils.data.DataLoader(self.inputs, batch_size=2)

        def configure_optimizers(self):
            optimizer = self.module.Adam(self.model.parameters(), lr=0.1)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]

    found = []
    for module in (zdlfast.torch, torch.optim):
        model = Model(module)
        lightning.Trainer(
            max_epochs=2,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            gradient_clip_val=0.5,
        ).fit(model)
        found.append(list(model.parameters()))
    for mine, its in zip(*found, strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-5)
