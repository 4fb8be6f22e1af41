"""The perceptron: what stands inside it, in which units it answers, and what it refuses."""

import pytest
import torch

from hatband.nn import MLP, NoisyNetwork, find_head
from hatband.nn.measure.state import seeded

ACTIVATIONS = ["relu", "gelu", "silu", "tanh"]


def perceptron(device="cpu", **settings):
    with seeded(0):
        return MLP(3, 2, **{"widths": (7, 5), **settings}).to(device).eval()


@pytest.fixture
def x(device):
    return torch.randn(20, 3, generator=torch.Generator().manual_seed(1)).to(device)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@torch.no_grad()
def test_the_prediction_is_linear_in_the_features(device, x, activation):
    module = perceptron(device, activation=activation)
    phi = module.features(x)

    assert phi.shape == (20, 5)
    torch.testing.assert_close(module(x), phi @ module.head.weight.T + module.head.bias)


@pytest.mark.parametrize("noise_head", [False, True])
def test_its_head_is_found_by_itself(device, x, noise_head):
    found = find_head(perceptron(device, noise_head=noise_head), x)

    assert (found.name, found.is_affine) == ("head", True)


@torch.no_grad()
def test_inputs_are_standardised_inside(device, x):
    module = perceptron(device)
    expected = module(x)
    mean, scale = torch.tensor([1.0, -2.0, 30.0]), torch.tensor([4.0, 0.5, 1.0])
    module.set_inputs(mean, scale)

    torch.testing.assert_close(module(x * scale.to(device) + mean.to(device)), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_inputs_in_float64_keep_their_digits_far_from_zero():
    module, x = perceptron(), torch.randn(20, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = module(x)
    # 2^30 is exact in float32, where steps of x would be 128.
    module.set_inputs(torch.full((3,), 2.0**30), torch.ones(3))

    torch.testing.assert_close(module(x + 2.0**30), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_within_standard_units_it_answers_in_these_and_afterwards_in_those_of_y(device, x):
    module = perceptron(device, noise_head=True)
    mean, scale = torch.tensor([5.0, -1.0], device=device), torch.tensor([10.0, 0.1], device=device)
    fresh, fresh_noise = module(x), module.noise(x)
    with module.standard_target(mean, scale):
        torch.testing.assert_close(module(x), fresh)
    outside, noise = module(x), module.noise(x)

    torch.testing.assert_close(outside, fresh * scale + mean)
    torch.testing.assert_close(noise, fresh_noise * scale)
    with module.standard_target(mean, scale):
        torch.testing.assert_close(module(x), fresh, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(module.noise(x), fresh_noise)
    torch.testing.assert_close(module(x), outside)


def test_noise_is_the_same_everywhere_before_training(device, x):
    assert torch.equal(perceptron(device, noise_head=True).noise(x), torch.ones(20, 2, device=device))


def test_only_a_network_with_a_noise_head_says_how_large_the_noise_is(x):
    with pytest.raises(ValueError, match="noise_head=True"):
        perceptron().noise(x.cpu())
    assert isinstance(perceptron(noise_head=True), NoisyNetwork)


def test_dropout_acts_in_training_only(device, x):
    module = perceptron(device, dropout=0.5)

    assert torch.equal(module(x), module(x))
    assert not torch.equal(module.train()(x), module(x))


def test_weights_and_standardisation_are_state(device, x):
    module = perceptron(device).set_inputs(torch.ones(3), torch.full((3,), 2.0))
    other = MLP(3, 2, (7, 5)).to(device)
    other.load_state_dict(module.state_dict())

    assert torch.equal(other(x), module(x))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n_inputs": 0}, "n_inputs must be an integer >= 1; got 0"),
        ({"n_outputs": 1.5}, "n_outputs must be an integer >= 1; got 1.5"),
        ({"widths": ()}, "at least one hidden layer"),
        ({"widths": "64"}, "at least one hidden layer"),
        ({"widths": (8, 0)}, "widths must be an integer >= 1; got 0"),
        ({"activation": "swish"}, "activation must be one of"),
        ({"dropout": 1.0}, r"dropout must be a number in \[0.0, 1.0\); got 1.0"),
    ],
    ids=str,
)
def test_what_cannot_be_built_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        MLP(**{"n_inputs": 3, **wrong})
