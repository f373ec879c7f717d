"""nn.Module → Graph: one `torch.export`, made functional, with arguments by name."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram

from edgeprune.errors import ModelError, UnsupportedModel
from edgeprune.graph.attributes import forget
from edgeprune.graph.groups import Graph, Node, Ref, copied

logger = logging.getLogger(__name__)


def trace(model: nn.Module, inputs: Sequence[Tensor]) -> Graph:
    """Export `model` once, with a free batch size where the model allows it.

    Args:
        model: in evaluation mode; it is not changed.
        inputs: example inputs; those that share the leading size of the first are taken to
            share a batch axis.

    Raises:
        ModelError: the model fails on these inputs.
        UnsupportedModel: torch.export cannot capture it (control flow that depends on data).
    """
    inputs = tuple(inputs)
    try:
        with torch.no_grad():
            model(*inputs)
    except Exception as error:
        shapes = ", ".join("×".join(map(str, x.shape)) for x in inputs)
        raise ModelError(
            f"the model fails on the example inputs ({shapes}): {_first_line(error)}. "
            "Check --input against what the model's forward expects."
        ) from error
    program, free = _export(model, inputs)
    module = program.module()
    assert isinstance(module, fx.GraphModule)
    _inline(module)
    _make_functional(module)
    _name_once(module)
    module.recompile()
    nodes = {node.name: _node(node, module) for node in module.graph.nodes if not _is_guard(node)}
    weights = {
        n.target: _attribute(module, n.target).detach() for n in nodes.values() if n.operation == "weight"
    }
    lead = int(inputs[0].shape[0]) if inputs and inputs[0].dim() else 1
    return Graph(
        program=program,
        module=module,
        nodes=nodes,
        inputs=tuple(n.name for n in nodes.values() if n.operation == "input" and n.shape is not None),
        outputs=tuple(ref for n in nodes.values() if n.operation == "output" for ref in n.sources()),
        weights=weights,
        batch=None if free else lead,
        traced_batch=max(2, lead) if free else lead,
    )


def _export(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[ExportedProgram, bool]:
    """Export with a symbolic batch axis if possible, else with the sizes as they are."""
    lead = inputs[0].shape[0] if inputs and inputs[0].dim() else 0
    if lead:
        widened = tuple(torch.cat([x, x]) if x.dim() and x.shape[0] == lead == 1 else x for x in inputs)
        spec = tuple({0: Dim.AUTO} if x.dim() and x.shape[0] == max(lead, 2) else None for x in widened)
        try:
            with _silence():
                program = torch.export.export(_fresh(model), widened, dynamic_shapes=spec, strict=False)
        except Exception as error:  # torch.export raises many kinds; the second try tells
            logger.info("no free batch size: %s", _first_line(error))
        else:
            first = next(n for n in program.graph.nodes if n.name in program.graph_signature.user_inputs)
            if _is_free(first.meta["val"].shape[0]):
                return program, True
    try:
        with _silence():
            return torch.export.export(_fresh(model), inputs, strict=False), False
    except Exception as error:
        raise UnsupportedModel(
            f"torch.export cannot capture the model: {_first_line(error)}. What cannot be captured "
            "cannot be exported to ONNX either; rewrite control flow that depends on the data "
            "(torch.where, torch.cond) or pass a submodule without it."
        ) from error


def _fresh(model: nn.Module) -> nn.Module:
    """A copy that remembers nothing of earlier runs, so that no value of theirs becomes a constant."""
    made = copied(model)
    forget(made)
    return made


def _is_free(size: int | torch.SymInt) -> bool:
    """Whether a size is symbolic and the model has not settled it to one number."""
    return isinstance(size, torch.SymInt) and size.node.maybe_as_int() is None


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Swallow what torch.export prints and logs when it fails; the error says it in one line."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
        ):
            # a hook that computes a weight anew at each run (an older weight norm) assigns it
            warnings.filterwarnings("ignore", "The tensor attribute.*assigned during export")
            yield
    finally:
        logging.disable(disabled)


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:300]}" if text else type(error).__name__


def _is_guard(node: fx.Node) -> bool:
    """Checks that torch.export adds about its inputs; they compute nothing."""
    return (node.op == "call_module" and "guard" in str(node.target)) or (
        node.op == "call_function" and ("_assert" in str(node.target) or "sym_constrain" in str(node.target))
    )


def _make_functional(module: fx.GraphModule) -> None:
    """Drop guards; replace `relu_` by `relu` and let later readers see the new value.

    An in-place operation on a view of another tensor, or on a tensor that has been viewed before,
    is left alone: a reader elsewhere would not see the change.
    """
    graph = module.graph
    for node in list(graph.nodes):
        if _is_guard(node) and not node.users:
            graph.erase_node(node)
    order = {node: k for k, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            continue
        packet, _, overload = str(node.target).removeprefix("aten.").partition(".")
        if not packet.endswith("_") or packet.startswith("_") or not node.args:
            continue
        functional = getattr(getattr(torch.ops.aten, packet[:-1], None), overload, None)
        changed = node.args[0]
        if functional is None or not isinstance(changed, fx.Node) or _is_view(changed):
            continue
        if any(_is_view(user) for user in changed.users if order[user] < order[node]):
            continue
        node.target = functional
        later = {user for user in changed.users if order[user] > order[node]}
        changed.replace_all_uses_with(node, delete_user_cb=later.__contains__)
    graph.lint()


def _is_view(node: fx.Node) -> bool:
    target = node.target
    return isinstance(target, torch._ops.OpOverload) and any(
        a.alias_info is not None and not a.alias_info.is_write for a in target._schema.arguments
    )


def _inline(module: fx.GraphModule) -> None:
    """Put the body of regions that only set a mode (autocast, gradients) where they are called.

    The regions compute the same on this machine: the model was traced in full precision.
    """
    graph = module.graph
    for node in list(graph.nodes):
        if node.op != "call_function" or getattr(node.target, "__name__", "") not in MODES:
            continue
        place = next(k for k, a in enumerate(node.args) if isinstance(a, fx.Node) and a.op == "get_attr")
        holder = node.args[place]
        assert isinstance(holder, fx.Node)
        body = _attribute(module, str(holder.target))
        inner = list(body.graph.nodes)
        given = iter(node.args[place + 1 :])
        known = {n: next(given) for n in inner if n.op == "placeholder"}
        with graph.inserting_before(node):
            for n in inner:
                if n.op not in ("placeholder", "output"):
                    known[n] = graph.node_copy(n, known.__getitem__)
                    if n.op == "get_attr":
                        _adopt(module, body, str(n.target))
        result = next(n for n in inner if n.op == "output").args[0]
        outputs = [known[r] if isinstance(r, fx.Node) else r for r in _listed(result)]
        for user in list(node.users):
            if getattr(user.target, "__name__", "") == "getitem":
                user.replace_all_uses_with(outputs[user.args[1]])
                graph.erase_node(user)
        if node.users:
            node.replace_all_uses_with(outputs[0])
        graph.erase_node(node)
        if not holder.users:
            graph.erase_node(holder)


MODES = ("wrap_with_autocast", "wrap_with_set_grad_enabled")


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, tuple | list) else (value,)


def _adopt(module: nn.Module, body: nn.Module, path: str) -> None:
    """Let `module` have the constant that a region of it holds under a simple name."""
    if not hasattr(module, path.partition(".")[0]):
        setattr(module, path, _attribute(body, path))


def _name_once(module: fx.GraphModule) -> None:
    """Read a tensor that has several names (tied weights) by the first of them, and forget the others."""
    names: dict[tuple[int, torch.Size, tuple[int, ...]], str] = {}
    others: set[str] = set()
    for node in module.graph.nodes:
        value = _attribute(module, str(node.target)) if node.op == "get_attr" else None
        if not isinstance(value, Tensor) or not value.numel():
            continue
        given = str(node.target)
        node.target = names.setdefault((value.data_ptr(), value.shape, value.stride()), given)
        if node.target != given:
            others.add(given)
    for name in others:
        owner, _, leaf = name.rpartition(".")
        delattr(module.get_submodule(owner), leaf)


def _attribute(module: nn.Module, path: str) -> Any:
    value: Any = module
    for part in path.split("."):
        value = getattr(value, part)
    return value


def _node(node: fx.Node, module: fx.GraphModule) -> Node:
    value = node.meta.get("val")
    if node.op == "get_attr" and value is None:
        value = _attribute(module, str(node.target))
    shape: tuple[int, ...] | None = None
    shapes: tuple[tuple[int, ...], ...] = ()
    floating = True
    if isinstance(value, Tensor):
        shape, floating = _sizes(value), value.dtype.is_floating_point
    elif isinstance(value, tuple | list):
        shapes = tuple(_sizes(v) if isinstance(v, Tensor) else () for v in value)
    operation, target = _kind(node)
    return Node(node.name, operation, target, _arguments(node), shape, shapes, floating, _scope(node))


def _kind(node: fx.Node) -> tuple[str, str]:
    if node.op == "placeholder":
        return "input", str(node.target)
    if node.op == "get_attr":
        return "weight", str(node.target)
    if node.op == "output":
        return "output", "output"
    target = str(node.target)
    if target.startswith("aten."):
        return target.split(".")[1], target
    if isinstance(node.target, torch._ops.OpOverload):  # a custom operation, of its own namespace
        return target.rpartition(".")[0], target
    name = getattr(node.target, "__name__", target)
    # arithmetic on sizes must not be taken for the ATen operation of the same name
    return name if name == "getitem" else f"python.{name}", target


def _sizes(value: Tensor) -> tuple[int, ...]:
    return tuple(d if isinstance(d, int) else int(d.node.hint) for d in value.shape)


def _arguments(node: fx.Node) -> Mapping[str, Any]:
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        found: dict[str, Any] = {}
        for k, argument in enumerate(target._schema.arguments):
            if k < len(node.args):
                found[argument.name] = _refs(node.args[k])
            elif argument.name in node.kwargs:
                found[argument.name] = _refs(node.kwargs[argument.name])
            else:
                found[argument.name] = argument.default_value
        return found
    if node.op == "call_function" and getattr(target, "__name__", "") == "getitem":
        return {"input": _refs(node.args[0]), "index": _refs(node.args[1])}
    positional = {str(k): _refs(value) for k, value in enumerate(node.args)}
    return {**positional, **{key: _refs(value) for key, value in node.kwargs.items()}}


def _refs(value: Any) -> Any:
    if isinstance(value, fx.Node):
        return Ref(value.name)
    if isinstance(value, tuple | list):
        return [_refs(item) for item in value]
    if isinstance(value, dict):
        return {key: _refs(item) for key, item in value.items()}
    return value


def _scope(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return ""
    path = next(reversed(stack.values()))[0]
    return str(path)
