import numpy as np
import torch

from lissom import edits
from lissom.deploy import deploy, verify
from lissom.deploy.keras import deploy_keras
from lissom.graph.capture import capture
from lissom.graph.groups import groups
from lissom.graph.slicing import remove
from lissom.inspection import inspect
from lissom.networks import open_network


def images(count=40):
    return torch.randn(count, 8, 8, 3, generator=torch.Generator().manual_seed(3))


def test_names_are_those_of_layers_and_variables(classifier):
    network = open_network(classifier)
    assert network.input_names == ("image",)
    assert network.output_names == ("head",)
    assert network.source.kind == "keras"
    assert list(edits.state_dict(network.module)) == [
        "stem.kernel", "stem.bias", "norm.gamma", "norm.beta", "norm.moving_mean", "norm.moving_variance",
        "deep.depthwise_kernel", "deep.pointwise_kernel", "deep.bias", "head.kernel", "head.bias",
    ]  # fmt: skip
    assert dict(network.module.named_buffers()).keys() >= {"norm.moving_mean", "norm.moving_variance"}


def test_answers_as_keras_does_and_leaves_the_model_as_it_was(classifier):
    before = [variable.numpy().copy() for variable in classifier.variables]
    network = open_network(classifier)
    with torch.no_grad():
        expected = classifier(images(), training=False)
        network.module.train()
        network.module(images())
        for parameter in network.module.parameters():
            parameter.zero_()
    assert torch.equal(open_network(classifier).outputs(images())[0], expected)
    assert all(np.array_equal(a, b.numpy()) for a, b in zip(before, classifier.variables, strict=True))
    assert all("call" not in vars(layer) for layer in classifier.layers)


def test_training_moves_weights_statistics_and_the_dropout(classifier):
    network = open_network(classifier)
    module = network.module.train()
    mean = module.norm.moving_mean.clone()
    torch.manual_seed(0)
    first, second = module(images()), module(images())
    assert not torch.equal(first, second)  # the dropout drew anew
    assert not torch.equal(module.norm.moving_mean, mean)
    first.log().mean().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    again = open_network(classifier).module.train()
    torch.manual_seed(0)
    assert torch.equal(again(images()), first)  # and draws the same with the same seed


def test_edits_train_and_copy_as_on_any_module(classifier):
    network = edits.copy(open_network(classifier))
    mask = torch.rand(3, 3, 3, 8, generator=torch.Generator().manual_seed(0)) > 0.5
    edits.attach(network.module, "stem.kernel", mask=mask)
    duplicate = edits.copy(network)
    assert torch.equal(duplicate.outputs(images())[0], network.outputs(images())[0])
    duplicate.module(images()).square().sum().backward()
    gradient = edits.latent(duplicate.module, "stem.kernel").grad
    assert bool((gradient[~mask] == 0).all())
    assert bool((gradient[mask] != 0).any())
    assert edits.latent(network.module, "stem.kernel").grad is None


def test_the_graph_names_layers_and_follows_channels_through_hwio_kernels(classifier):
    found = inspect(open_network(classifier))
    assert not found.unknown
    by_name = {group["name"]: group["members"] for group in found.groups}
    assert by_name["stem.kernel[3]"] == [
        "stem.kernel[3]", "stem.bias[0]", "norm.gamma[0]", "norm.beta[0]", "deep.depthwise_kernel[2]", "deep.pointwise_kernel[2]",
        "norm.moving_mean[0]", "norm.moving_variance[0]",
    ]  # fmt: skip
    kinds = {layer.name: (layer.kind, layer.macs) for layer in found.layers}
    assert kinds["stem.kernel"] == ("Conv2D", 64 * 27 * 8)
    assert kinds["head.kernel"] == ("Dense", 216 * 4)


def test_pruned_comes_out_as_keras_onnx_and_the_same_network(classifier, keras, tmp_path):
    network = open_network(classifier)
    graph = capture(network)
    removal = remove(network, graph, {group: np.arange(group.size) % 2 == 0 for group in groups(graph)})
    assert not removal.refused
    assert removal.network.module.stem.kernel.shape == (3, 3, 3, 4)
    data, parity = deploy_keras(removal.network, [(images(),)])
    assert parity.holds
    verify(deploy(removal.network), removal.network, [(images(),)])
    (tmp_path / "model.keras").write_bytes(data)
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert [layer.name for layer in loaded.layers] == [layer.name for layer in classifier.layers]
    assert loaded.get_layer("stem").filters == 4
    assert loaded.get_layer("deep").filters == 3
    again = open_network(tmp_path / "model.keras")
    assert torch.allclose(again.outputs(images())[0], removal.network.outputs(images())[0], atol=1e-6)


def test_the_keras_file_is_small_where_weights_are_and_always_the_same(classifier, tmp_path):
    network = edits.copy(open_network(classifier))
    whole, _ = deploy_keras(network, [(images(),)])
    for name in edits.selected(network.module):
        edits.attach(network.module, name, mask=edits.value(network.module, name).abs() > 0.1)
    masked, _ = deploy_keras(network, [(images(),)])
    assert len(masked) < len(whole)
    assert deploy_keras(network, [(images(),)])[0] == masked


def test_weights_that_nobody_named_are_found_again_in_the_smaller_model(keras, zoo):
    @keras.saving.register_keras_serializable(package="test")
    class Scale(keras.layers.Layer):
        def build(self, shape):
            self.first = self.add_weight(shape=(shape[-1],), initializer="ones")
            self.second = self.add_weight(shape=(1,), initializer="zeros")

        def call(self, x):
            return x * self.first + self.second

    layers = [keras.layers.Dense(8, activation="gelu", name="wide"), keras.layers.Dense(4, name="narrow"), Scale(name="scale")]
    network = open_network(zoo.settle(keras.Sequential([keras.Input((4,)), *layers])))
    assert {name for name, _ in network.parameters() if name.startswith("scale.")} == {"scale.variable", "scale.variable_"}
    graph = capture(network)
    removal = remove(network, graph, {group: np.arange(group.size) % 2 == 0 for group in groups(graph)})
    assert not removal.refused
    assert removal.network.module.wide.kernel.shape == (4, 4)
    inputs = torch.randn(8, 4)
    _, parity = deploy_keras(removal.network, [(inputs,)])
    assert parity.holds
