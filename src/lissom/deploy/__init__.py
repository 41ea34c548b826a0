"""Deploy: a network becomes a file that runs, and is proved to answer as the network does.

What the rest of lissom calls:

    deploy(network, settings=Deploy(), calibration=None) -> Deployed
        ``calibration`` is an iterable of tuples of tensors or arrays, one tuple a batch, as the network takes them
        (a list, or anything that can be iterated more than once; a generator is kept in memory). It is needed for
        ``precision="int8"`` and for nothing else.
    Deployed.save(path)                      the ONNX file, whole or not at all
    Deployed.to_bytes() -> bytes             the same bytes, always the same for the same network and settings
    Deployed.archive(effort) -> bytes        ``model.lissom``: its tensors coded, and the graph as network section
    verify(deployed, network, inputs, runtime="onnxruntime", threads=1) -> Parity, or ParityFailed
    skeleton.split(model) -> (bytes, tensors)   and   skeleton.restore(bytes, tensors) -> bytes of model.onnx
"""

from lissom.deploy.deployed import Binding, Deployed
from lissom.deploy.pipeline import deploy
from lissom.deploy.settings import Deploy
from lissom.deploy.verify import Parity, verify

__all__ = ["Binding", "Deploy", "Deployed", "Parity", "deploy", "verify"]
