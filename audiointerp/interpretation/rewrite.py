"""Rewrite a network so that every nonlinearity is a layer, as the rescale rule needs.

The network is traced by torch.fx, as a whole or part by part. Nonlinear functions such as
``F.relu`` become layers. Operations without a rule, such as the product of two activations, are
refused by name before anything is computed.
"""

from __future__ import annotations

import copy
import math
import operator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from audiointerp.interpretation.rescale import (
    ELEMENTWISE,
    LINEAR,
    MAXIMA,
    Elementwise,
    UnsupportedLayerError,
)
from audiointerp.model.layers import MaxOverTime
from audiointerp.speed.inference import attributes_kept

ELEMENTWISE_FUNCTIONS: frozenset[str] = frozenset(
    {
        *("relu", "relu_", "relu6", "gelu", "sigmoid", "sigmoid_", "tanh", "tanh_", "silu"),
        *("hardswish", "hardsigmoid", "hardtanh", "hardtanh_", "elu", "elu_", "celu", "selu"),
        *("leaky_relu", "leaky_relu_", "softplus", "softsign", "mish", "logsigmoid"),
        *("threshold", "tanhshrink", "softshrink", "hardshrink", "clamp", "clamp_", "clip"),
        *("clamp_min", "clamp_max", "abs", "exp", "log", "log1p", "sqrt", "square", "rsqrt"),
        *("sin", "cos", "erf", "pow", "reciprocal"),
    }
)
"""Names of functions and tensor methods of one variable."""

LINEAR_FUNCTIONS: frozenset[str] = frozenset(
    {
        *("add", "add_", "iadd", "sub", "sub_", "isub", "neg", "rsub", "sum", "mean", "cumsum"),
        *("cat", "concat", "stack", "reshape", "view", "flatten", "unflatten", "squeeze"),
        *("unsqueeze", "permute", "transpose", "t", "movedim", "contiguous", "clone", "expand"),
        *("repeat", "chunk", "split", "unbind", "getitem", "narrow", "select", "index_select"),
        *("roll", "flip", "pad", "interpolate", "upsample", "avg_pool1d", "avg_pool2d"),
        *("adaptive_avg_pool1d", "adaptive_avg_pool2d", "dropout", "dropout1d", "dropout2d"),
        *("conv1d", "conv2d", "linear", "to", "float", "double", "half", "type_as", "detach"),
        *("feature_alpha_dropout", "alpha_dropout", "swapaxes", "view_as", "reshape_as", "unfold"),
        *("getattr", "batch_norm", "zeros_like", "ones_like", "repeat_interleave", "tile"),
    }
)
"""Names of functions and tensor methods that are linear in their input."""

PRODUCTS: frozenset[str] = frozenset(
    {
        *("mul", "mul_", "imul", "matmul", "bmm", "mm", "einsum", "truediv", "div", "div_"),
        *("itruediv", "multiply", "divide", "baddbmm", "addcmul"),
    }
)
"""Linear where one factor does not depend on the input, without a rule where both do."""

NONLINEAR: frozenset[str] = frozenset(
    {
        *("softmax", "log_softmax", "softmin", "gumbel_softmax", "logsumexp", "layer_norm"),
        *("group_norm", "instance_norm", "local_response_norm", "normalize", "norm", "std", "var"),
        *("scaled_dot_product_attention", "multi_head_attention_forward", "prod", "cumprod"),
        *("max", "amax", "min", "amin", "maximum", "minimum", "sort", "topk", "median", "glu"),
        *("pow", "where", "lp_pool1d", "lp_pool2d", "cosine_similarity"),
    }
)
"""Names of functions that have no rule, but for maxima over some axes."""

_COPYING: frozenset[str] = frozenset(
    {
        *(
            "add",
            "sub",
            "neg",
            "rsub",
            "mul",
            "multiply",
            "truediv",
            "div",
            "divide",
            "sum",
            "mean",
        ),
        *("cat", "concat", "stack", "clone", "matmul", "bmm", "conv1d", "conv2d", "linear"),
        *("avg_pool1d", "avg_pool2d", "max_pool1d", "max_pool2d", "amax", "interpolate"),
        *("batch_norm", "cumsum", "roll", "flip", "repeat", "index_select"),
        *(name for name in ELEMENTWISE_FUNCTIONS if not name.endswith("_")),
    }
)
"""Names of functions that return new memory; others may return a view of what they were given."""

_VIEWING = (
    nn.AlphaDropout,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Flatten,
    nn.Identity,
    nn.Unflatten,
)
"""Layers that return in evaluation mode what they were given, or a view of it."""

_OVERWRITES = "which overwrites a tensor that is read again"

_SHAPES = frozenset({"size", "shape", "dim", "ndim", "len", "numel", "device", "dtype"})
_MAXIMA = frozenset({"max", "amax"})
_POOLS = {
    "max_pool1d": nn.MaxPool1d,
    "max_pool2d": nn.MaxPool2d,
    "adaptive_max_pool1d": nn.AdaptiveMaxPool1d,
    "adaptive_max_pool2d": nn.AdaptiveMaxPool2d,
}
_RULES = (nn.ReLU, *ELEMENTWISE, *MAXIMA, Elementwise)


@dataclass(frozen=True)
class Rewritten:
    """A network for the rescale rule.

    Attributes
    ----------
    network : Module
        With a layer for every nonlinearity that was found; the very network where there was none
        to replace.
    unseen : tuple of str
        Parts whose own code could not be traced, with the reason.
    """

    network: nn.Module
    unseen: tuple[str, ...] = ()


def rewrite(network: nn.Module, method: str = "SHAP's rescale rule") -> Rewritten:
    """Return a network whose nonlinearities are layers.

    Parameters
    ----------
    network : Module
        In evaluation mode. It is not changed; layers and weights are shared.
    method : str
        What it is for, as it reads in an error.

    Returns
    -------
    Rewritten

    Raises
    ------
    UnsupportedLayerError
        If an operation has no rule; all of them are named.
    """
    work = _Work()
    made = work.rewrite(network, "")
    if work.refused:
        raise UnsupportedLayerError(
            f"{method} has no rule for " + "; ".join(work.refused) + ". Its values "
            "would not add up: take another method, such as saliency, Grad-CAM or LIME"
        )
    return Rewritten(made, tuple(work.unseen))


class MaxOver(nn.Module):
    """Maximum over some axes, by a layer that has a rule.

    Parameters
    ----------
    axes : tuple of int
        Without the batch axis 0.
    keepdim : bool
    """

    def __init__(self, axes: tuple[int, ...], keepdim: bool) -> None:
        super().__init__()
        self.axes = axes
        self.keepdim = keepdim
        self.max = MaxOverTime()

    def forward(self, x: Tensor) -> Tensor:
        """Return the maximum; the other axes stay in order."""
        axes = sorted(axis % x.ndim for axis in self.axes)
        others = [axis for axis in range(x.ndim) if axis not in axes]
        sizes = [x.shape[axis] for axis in others]
        rows = math.prod(sizes[1:])
        flat = x.permute(*others, *axes).reshape(sizes[0], rows, -1)
        top = self.max(flat).reshape(sizes)
        for axis in axes if self.keepdim else ():
            top = top.unsqueeze(axis)
        return top


class _Tracer(fx.Tracer):
    """Looks into every module but the layers of torch and of this package."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, MaxOver) or _is_layer(m)


def _is_layer(module: nn.Module) -> bool:
    source = type(module).__module__
    return not any(module.children()) and source.startswith(("torch.nn.", "audiointerp."))


@dataclass
class _Work:
    refused: list[str] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)

    def rewrite(self, module: nn.Module, name: str) -> nn.Module:
        """Return a module with layers for its functions, itself where there is nothing to do."""
        if _is_layer(module):
            self._check_layer(module, name)
            return module
        try:
            with attributes_kept(module):
                # The tracer files constants as attributes, which the graph module takes along.
                traced = fx.GraphModule(module, _Tracer().trace(module))
        except Exception as error:
            # Tracing runs the user's Python on placeholders, which may fail in any way. Then
            # nothing is known of the module's own code, but its parts may be traced.
            if not type(module).__module__.startswith("audiointerp."):
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                self.unseen.append(f"{_path(name)}{type(module).__name__} ({reason})")
            return self._rewrite_parts(module, name)
        return self._rewrite_graph(module, traced, name)

    def _rewrite_parts(self, module: nn.Module, name: str) -> nn.Module:
        made = {
            child: self.rewrite(part, f"{name}.{child}" if name else child)
            for child, part in module.named_children()
        }
        parts = dict(module.named_children())
        changed = {child: part for child, part in made.items() if part is not parts[child]}
        if not changed:
            return module
        # A shallow copy: weights and other layers are the same objects.
        twin = copy.copy(module)
        twin._modules = {**module._modules, **changed}
        return twin

    def _rewrite_graph(self, module: nn.Module, traced: fx.GraphModule, name: str) -> nn.Module:
        graph = traced.graph
        depends = _dependent(graph)
        layers: dict[fx.Node, nn.Module] = {}
        replaced: dict[fx.Node, fx.Node] = {}
        for node in graph.nodes:
            if node.op == "call_module":
                layer = module.get_submodule(node.target)
                path = f"{name}.{node.target}" if name else node.target
                self._check_layer(layer, path)
                if getattr(layer, "inplace", False) and not _is_last_reader(node, module):
                    self._refuse(f"the layer {path!r} ({type(layer).__name__}), {_OVERWRITES}")
            elif node.op in ("call_function", "call_method") and node in depends:
                layer = self._layer_of(node, depends, module, name)
                if layer is not None:
                    layers[node] = layer
                    replaced |= {user: node for user in _values_of(node)}
        if not layers or self.refused:
            return module
        for number, (node, layer) in enumerate(layers.items()):
            target = f"_rewritten_{number}"
            traced.add_module(target, layer)
            with graph.inserting_before(node):
                call = graph.call_module(target, (_input_of(node),))
            node.replace_all_uses_with(call)
            for user in [user for user, source in replaced.items() if source is node]:
                user.replace_all_uses_with(call)
                graph.erase_node(user)
            graph.erase_node(node)
        graph.lint()
        traced.recompile()
        return traced.eval()

    def _layer_of(
        self, node: fx.Node, depends: set[fx.Node], module: nn.Module, name: str
    ) -> nn.Module | None:
        """Return the layer to put in place of a call, None for one that is linear."""
        function = _name_of(node)
        factors = [each for each in node.all_input_nodes if each in depends]
        if function in _SHAPES or function in LINEAR_FUNCTIONS or not factors:
            return None
        if function in PRODUCTS and len(factors) == 1 and _is_linear(node, factors[0]):
            return None
        if function in ELEMENTWISE_FUNCTIONS and len(factors) == 1 and _first(node) is factors[0]:
            if _is_in_place(node, function) and not _is_last_reader(node, module):
                owner = _owner(node, module, name)
                self._refuse(f"{function}() in {owner}{_place(node)}, {_OVERWRITES}")
            return _elementwise(node, function)
        if function in _POOLS and len(factors) == 1 and not _returns_indices(node):
            return _POOLS[function](*node.args[1:], **_without(node.kwargs, "return_indices"))
        if function in _MAXIMA and len(factors) == 1:
            layer = _maximum(node, function)
            if layer is not None:
                return layer
        product = function in PRODUCTS and (len(factors) > 1 or node.args.count(factors[0]) > 1)
        what = "the product of two activations" if product else f"{function}()"
        where = f"{what} in {_owner(node, module, name)}{_place(node)}"
        if function in PRODUCTS or function in NONLINEAR:
            self._refuse(where)
        else:
            self.unseen.append(where)
        return None

    def _check_layer(self, layer: nn.Module, name: str) -> None:
        if not type(layer).__module__.startswith("torch.nn.") or any(layer.children()):
            return
        norms = nn.BatchNorm1d | nn.BatchNorm2d
        if isinstance(layer, norms) and layer.running_mean is None:
            self._refuse(f"{type(layer).__name__} {name!r}, which normalises by the batch itself")
        elif type(layer) not in {*_RULES, *LINEAR}:
            self._refuse(f"the layer {name!r} ({type(layer).__name__})")

    def _refuse(self, what: str) -> None:
        if what not in self.refused:
            self.refused.append(what)


def _dependent(graph: fx.Graph) -> set[fx.Node]:
    """Return the nodes whose values, not only shapes, depend on the input."""
    depends: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder":
            depends.add(node)
        elif node.op != "output" and any(each in depends for each in node.all_input_nodes):
            shape = node.op in ("call_function", "call_method") and _name_of(node) in _SHAPES
            attribute = node.target is getattr and node.args[1] in _SHAPES
            if not (shape or attribute):
                depends.add(node)
    return depends


def _name_of(node: fx.Node) -> str:
    if node.op == "call_method":
        return str(node.target)
    return str(getattr(node.target, "__name__", node.target))


def _first(node: fx.Node) -> Any:
    return node.args[0] if node.args else next(iter(node.kwargs.values()), None)


def _input_of(node: fx.Node) -> fx.Node:
    return node.args[0] if node.args else node.kwargs["input"]


def _is_linear(node: fx.Node, factor: fx.Node) -> bool:
    """Return whether a product or quotient has the activation once, and not as a divisor."""
    places = [argument is factor for argument in node.args]
    divides = _name_of(node) in ("truediv", "div", "div_", "itruediv", "divide")
    return sum(places) == 1 and not (divides and not places[0])


def _is_in_place(node: fx.Node, function: str) -> bool:
    return function.endswith("_") or bool(node.kwargs.get("inplace"))


def _is_last_reader(node: fx.Node, module: nn.Module) -> bool:
    """Return whether nothing else reads the memory that an operation in place overwrites."""
    read = [_input_of(node)]
    while read:
        source = read.pop()
        if len(source.users) > 1:
            return False
        if not _is_new_memory(source, module):
            read += source.all_input_nodes
    return True


def _is_new_memory(node: fx.Node, module: nn.Module) -> bool:
    if node.op == "call_module":
        layer = module.get_submodule(node.target)
        return not (isinstance(layer, _VIEWING) or getattr(layer, "inplace", False))
    if node.op in ("call_function", "call_method"):
        return _name_of(node) in _COPYING and not node.kwargs.get("inplace")
    return False


def _elementwise(node: fx.Node, function: str) -> nn.Module:
    inplace = function.endswith("_")
    plain = function.removesuffix("_")
    kwargs = _without(node.kwargs, "inplace", "input", "out")
    arguments = node.args[1:]
    if plain == "relu":
        return nn.ReLU()
    if node.op == "call_method":
        return Elementwise(_Method(plain), arguments, kwargs)
    target = node.target
    if inplace:
        target = getattr(functional, plain, None) or getattr(torch, plain)
    return Elementwise(target, arguments, kwargs)


@dataclass(frozen=True)
class _Method:
    """A tensor's method as a function."""

    name: str

    def __call__(self, x: Tensor, *arguments: Any, **kwargs: Any) -> Tensor:
        return getattr(x, self.name)(*arguments, **kwargs)


def _maximum(node: fx.Node, function: str) -> nn.Module | None:
    arguments = dict(zip(("input", "dim", "keepdim"), node.args, strict=False)) | node.kwargs
    axes = arguments.get("dim", arguments.get("axis"))
    if isinstance(axes, int):
        axes = (axes,)
    if not isinstance(axes, tuple | list) or not all(isinstance(axis, int) for axis in axes):
        return None
    if 0 in axes or (function == "max" and len(_values_of(node)) < len(node.users)):
        return None
    return MaxOver(tuple(axes), bool(arguments.get("keepdim", False)))


def _values_of(node: fx.Node) -> list[fx.Node]:
    """Return the users of ``torch.max(x, dim)`` that take its values."""
    if _name_of(node) != "max":
        return []
    return [
        user
        for user in node.users
        if (user.target is operator.getitem and user.args[1] == 0)
        or (user.target is getattr and user.args[1] == "values")
    ]


def _returns_indices(node: fx.Node) -> bool:
    return bool(node.kwargs.get("return_indices"))


def _without(kwargs: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in kwargs.items() if name not in names}


def _path(name: str) -> str:
    return f"{name}: " if name else ""


def _owner(node: fx.Node, module: nn.Module, name: str) -> str:
    """Return the module whose code calls an operation, by its dotted name and class."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    inner = str(stack[-1][0]) if stack else ""
    owner = module.get_submodule(inner)
    return f"{_path('.'.join(filter(None, (name, inner))))}{type(owner).__name__}"


def _place(node: fx.Node) -> str:
    """Return where in the user's code an operation is, as far as the tracer knows."""
    lines = [line.strip() for line in (node.stack_trace or "").splitlines() if line.strip()]
    return f" ({lines[-1]})" if lines else ""
