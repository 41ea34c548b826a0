import numpy as np
import pytest
import torch

from lissom import edits
from lissom.calibrate.batch_norm import recalibrate_batch_norm
from lissom.deploy import deploy, verify
from lissom.deploy.fold import fold_batch_norm
from lissom.deploy.keras import deploy_keras
from lissom.errors import DeployFailed
from lissom.graph.structure import apply_structure
from lissom.network import Bypass, Network
from lissom.networks import open_network
from lissom.networks.keras.save import keras_bytes


def norms_behind(keras, zoo, layer):
    """A normalisation behind ``layer``, and one behind an activation, which cannot be folded."""
    layers = keras.layers
    shape = {"1": (9, 3), "2": (8, 8, 3)}.get(layer.name[-1:], (8, 8, 3))
    image = keras.Input(shape)
    x = layers.BatchNormalization(name="norm")(layer(image))
    x = layers.BatchNormalization(name="late")(layers.ReLU()(x))
    return zoo.settle(keras.Model(image, layers.Flatten()(x)))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("Conv2D", {"filters": 5, "kernel_size": 3}),
        ("Conv2DTranspose", {"filters": 5, "kernel_size": 3}),
        ("DepthwiseConv2D", {"kernel_size": 3, "depth_multiplier": 2}),
        ("SeparableConv2D", {"filters": 5, "kernel_size": 3}),
        ("Dense", {"units": 5}),
    ],
)
def test_a_normalisation_behind_a_layer_becomes_part_of_it(keras, zoo, kind, options, bias):
    layer = getattr(keras.layers, kind)(name="layer", use_bias=bias, **options)
    network = edits.copy(open_network(norms_behind(keras, zoo, layer)))
    x = torch.randn(4, 8, 8, 3)
    before = network.outputs(x)[0]
    folded = fold_batch_norm(network.module, network.example_inputs)
    assert [(pair.layer, pair.norm) for pair in folded] == [("layer", "norm")]
    assert torch.allclose(network.outputs(x)[0], before, atol=1e-5)
    assert "norm.gamma" not in network.module.state_dict()


def test_the_deployed_file_has_no_normalisation_behind_a_convolution(classifier):
    network = open_network(classifier)
    deployed = deploy(network)
    verify(deployed, network, [(torch.randn(32, 8, 8, 3),)])
    assert not {"Sqrt", "Reciprocal", "Sub"} & {node.op_type for node in deployed.model.graph.node}
    assert "stem.folded.kernel" in {tensor.name for tensor in deployed.model.graph.initializer}


def test_statistics_become_those_of_the_data(keras):
    model = keras.Sequential([keras.Input((1,)), keras.layers.BatchNormalization(name="norm")])
    module = open_network(model).module
    assert recalibrate_batch_norm(module, [(torch.tensor([[1.0], [3.0]]),), (torch.tensor([[5.0], [7.0]]),)]) == 1
    assert module.norm.moving_mean.item() == 4.0
    assert module.norm.moving_variance.item() == 1.0


def test_a_layer_that_was_removed_lets_its_input_pass_in_keras_too(keras, zoo):
    layers = keras.layers
    image = keras.Input((6,))
    hidden = layers.Dense(6, name="block", activation="relu")(image)
    network = open_network(zoo.settle(keras.Model(image, layers.Dense(3, name="head")(layers.Add()([image, hidden])))))
    shorter = edits.copy(network)
    apply_structure(shorter.module, [Bypass("block")])
    x = torch.randn(32, 6)
    _, parity = deploy_keras(shorter, [(x,)])
    assert parity.holds
    assert not torch.allclose(shorter.outputs(x)[0], network.outputs(x)[0])


def test_what_no_layer_of_keras_is_comes_out_as_onnx_alone(keras, zoo):
    network = edits.copy(open_network(zoo.settle(keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="head")]))))
    network.module.head = torch.nn.Sequential(torch.nn.Linear(4, 1), torch.nn.Linear(1, 3))
    with pytest.raises(DeployFailed, match="no layer of Keras is what stands now in the place of head"):
        keras_bytes(network)
    verify(deploy(network), network, [(torch.randn(32, 4),)])


def test_a_network_of_torch_has_no_keras_file():
    with pytest.raises(DeployFailed, match="needs a network that came from Keras; this one is a module"):
        keras_bytes(Network(torch.nn.Linear(3, 2), (torch.zeros(2, 3),)))


def test_models_with_several_inputs_and_outputs_keep_their_names(keras, zoo):
    layers = keras.layers
    inputs = {"left": keras.Input((4,), name="left"), "right": keras.Input((3,), name="right")}
    mixed = layers.Concatenate()([inputs["right"], inputs["left"]])
    outputs = [layers.Dense(2, name="class")(mixed), layers.Dense(1, name="score")(mixed)]
    model = zoo.settle(keras.Model(inputs, outputs))
    network = open_network(model)
    assert network.input_names == ("left", "right")
    assert network.output_names == ("class", "score")
    left, right = torch.randn(32, 4), torch.randn(32, 3)
    expected = model({"left": left, "right": right})
    assert all(torch.equal(got, want) for got, want in zip(network.outputs(left, right), expected, strict=True))
    assert deploy_keras(network, [(left, right)])[1].holds
    verify(deploy(network), network, [(left, right)])


def test_a_class_of_its_own_keeps_its_shapes_and_says_so(keras):
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.first, self.second = keras.layers.Dense(6, name="first"), keras.layers.Dense(2, name="second")

        def call(self, x):
            return self.second(keras.ops.relu(self.first(x)))

    model = Own()
    model(np.zeros((2, 4), np.float32))
    network = edits.copy(open_network(model, input_shapes=["4"]))
    edits.attach(network.module, "first.kernel", mask=torch.rand(4, 6) > 0.5)
    verify(deploy(network), network, [(torch.randn(32, 4),)])
    with pytest.raises(DeployFailed, match="Own is a class of its own"):
        keras_bytes(network)


def test_open_lengths_are_those_of_the_data_and_stay_open_where_nothing_loops(keras, zoo):
    layers = keras.layers
    convolution = zoo.settle(
        keras.Sequential([keras.Input((None, 4)), layers.Conv1D(5, 3), layers.GlobalAveragePooling1D(), layers.Dense(2)])
    )
    network = open_network(convolution, data=np.zeros((8, 11, 4), np.float32))
    assert network.example_inputs[0].shape == (2, 11, 4)
    verify(deploy(network), network, [(torch.randn(32, 9, 4),)])
    recurrent = zoo.settle(keras.Sequential([keras.Input((None, 4)), layers.LSTM(5, name="memory"), layers.Dense(2)]))
    network = open_network(recurrent, input_shapes=["3x4"])
    assert network.notes == (
        "memory runs a fixed number of steps in the deployed file, which takes 3x4: data or --input say how many",
    )
    verify(deploy(network), network, [(torch.randn(32, 3, 4),)])
