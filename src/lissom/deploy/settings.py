"""Deploy: how a network becomes a file that runs, as a value that stands in a recipe."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic

from lissom.job import value_class

__all__ = ["Deploy", "Precision", "Ranges", "Types"]

Precision = Literal["float32", "float16", "int8", "int8-dynamic"]
Types = Literal["auto", "U8S8", "S8S8", "U8U8", "U8S7", "U8S4", "U4S4"]
Ranges = Literal["auto", "minmax", "percentile", "std", "mse", "kl"]


@value_class
class Deploy:
    """How a network becomes a file that runs.

    Args:
        target: A row of the table of targets: ``"this-machine"`` (integer types chosen by measuring on this CPU),
            ``"onnxruntime-cpu"``, ``"openvino"``, ``"tensorrt"`` or ``"portable"``.
        precision: ``"float32"``; ``"float16"`` (weights stored in half the bytes, computed in float32); ``"int8"`` (weights and
            activations, the ranges of activations from data); or ``"int8-dynamic"`` (matrix products, the ranges of
            activations taken as they come; weights that have 4 bits in blocks keep these).
        types: Integer types of activations and weights, with their bits: ``"U8S8"``, ``"S8S8"``, ``"U8U8"``, ``"U8S7"``
            (7-bit weights, for CPUs whose 8-bit sums saturate), ``"U8S4"`` (4-bit weights, two to a byte, computed by the
            8-bit kernels) or ``"U4S4"`` (no kernel has it: the file is computed in float); with 4 bits the first and the last
            layer keep 8. ``"auto"`` leaves it to the target.
        ranges: How activation ranges are taken from what was observed: ``"minmax"``, ``"percentile"``, ``"std"``
            (mean ± k standard deviations), ``"mse"`` (least squared error) or ``"kl"`` (least divergence); ``"auto"``
            tries them on the calibration data and takes the one whose outputs are nearest.
        spread: The share of values that ``"percentile"`` keeps (0.9999), or the number of standard deviations that
            ``"std"`` keeps on each side (5 at 8 bits); None for these.
        smooth: Whether differences between the channels that a matrix product reads move into its weights
            (:func:`lissom.deploy.smoothing.smooth`): it makes transformers, whose channels differ much, several times as exact.
            None smooths where the network has layer normalisations.
        samples: How many calibration samples are used at most.
        keep_float: Globs over node and weight names that stay in float32, and what they read with them.
        opset: The ONNX operator set of the file; None for the target's.

    Example:
        >>> Deploy(precision="int8").target
        'this-machine'
    """

    target: str = "this-machine"
    precision: Precision = "float32"
    types: Types = "auto"
    ranges: Ranges = "auto"
    spread: Annotated[float, pydantic.Field(gt=0)] | None = None
    smooth: bool | None = None
    samples: Annotated[int, pydantic.Field(ge=1)] = 128
    keep_float: tuple[str, ...] = ()
    opset: Annotated[int, pydantic.Field(ge=18, le=24)] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fields that differ from their defaults, as YAML takes them."""
        fields: dict[str, Any] = pydantic.TypeAdapter(type(self)).dump_python(self, mode="json", exclude_defaults=True)
        return fields
