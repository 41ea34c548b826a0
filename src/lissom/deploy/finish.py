"""The float graph that every precision starts from, and the end that all of them share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lissom.codec.tensors import Quantized
from lissom.deploy.deployed import Binding, Deployed
from lissom.deploy.editing import Editor
from lissom.deploy.naming import name_by_rule
from lissom.network import Network

__all__ = ["Plain", "finish"]


@dataclass(frozen=True)
class Plain:
    """A network as a float graph: what every precision starts from."""

    network: Network
    editor: Editor
    quantized: Mapping[str, Quantized]
    notes: tuple[str, ...]
    keep_names: bool = False


def finish(editor: Editor, bindings: list[Binding], *, keep_names: bool = False, **fields: Any) -> Deployed:
    """Close the editor, name what it holds, and pair it with what its constants are.

    Args:
        editor: The graph.
        bindings: What its constants hold.
        keep_names: The graph is the user's own file: its nodes and values keep their names.
        fields: Of the result.
    """
    model = editor.close(keep_names=keep_names)
    origins = {} if keep_names else name_by_rule(model)
    present = {tensor.name for tensor in model.graph.initializer}
    held = tuple(binding for binding in bindings if binding.initializer in present)
    return Deployed(model, held, origins=origins, **fields)
