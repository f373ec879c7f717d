"""nn.Module → ONNX file: torch.onnx.export, private metadata removed, batch size as asked."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from edgeprune.errors import UnsupportedModel
from edgeprune.files import atomic, sha256_of
from edgeprune.graph.copies import sharing
from edgeprune.records.run import Artifact

logger = logging.getLogger(__name__)

LARGEST_BYTES = 1_500_000_000
"""Above this the weights go to a second file, since one protobuf message cannot exceed 2 GiB."""


def export(
    module: nn.Module,
    inputs: Sequence[Tensor],
    path: Path,
    *,
    dynamic_batch: bool = False,
    opset: int | None = None,
    names: Sequence[str] = (),
) -> Artifact:
    """Write `module` as one ONNX file (weights beside it above 1.5 GB).

    Node metadata of the exporter, which holds source paths and code lines, is removed.

    Args:
        module: in evaluation mode.
        inputs: example inputs; their sizes are the file's, but for the batch where it is dynamic.
        names: of the inputs in the file; those of the module's forward by default.

    Raises:
        UnsupportedModel: the exporter cannot express the model.
        StorageError: the file cannot be written.
    """
    program = _program(module, tuple(inputs), dynamic_batch, opset, names)
    _strip(program)
    size = sum(p.numel() * p.element_size() for p in module.state_dict().values() if isinstance(p, Tensor))
    _save(program, path, size > LARGEST_BYTES)
    return describe(path, path.parent)


def describe(path: Path, folder: Path) -> Artifact:
    """The record of an ONNX file that lies in `folder`."""
    beside = path.with_name(path.name + ".data")
    model = onnx.load(path, load_external_data=False)
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    size = path.stat().st_size + (beside.stat().st_size if beside.exists() else 0)
    return Artifact(str(path.relative_to(folder)), sha256_of(path), size, opset)


def _program(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    dynamic_batch: bool,
    opset: int | None,
    names: Sequence[str],
) -> onnx.ModelProto:
    shapes = None
    if dynamic_batch:
        lead = inputs[0].shape[0]
        inputs = tuple(torch.cat([x, x]) if x.dim() and x.shape[0] == lead == 1 else x for x in inputs)
        width = max(lead, 2)
        batch = torch.export.Dim("batch", min=1)
        shapes = tuple({0: batch} if x.dim() and x.shape[0] == width else None for x in inputs)
    quiet = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = quiet.level
    try:
        quiet.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # captured here, because the exporter tries other ways when this fails, and one of them
            # fixes sizes that were asked to be free
            captured = torch.export.export(sharing(module), inputs, dynamic_shapes=shapes, strict=False)
            made = torch.onnx.export(
                captured,
                dynamo=True,
                external_data=False,
                opset_version=opset,
                input_names=list(names) or None,
                verbose=False,
            )
    except Exception as error:
        text = str(error).strip().splitlines()
        dynamic = " Without --dynamic-batch the sizes are fixed, which may help." if dynamic_batch else ""
        raise UnsupportedModel(
            f"the ONNX exporter cannot express the model: {type(error).__name__}: "
            f"{text[0][:300] if text else ''}.{dynamic}"
        ) from error
    finally:
        quiet.setLevel(level)
    assert made is not None
    return made.model_proto


def _strip(model: onnx.ModelProto) -> None:
    """Remove stack traces, source paths and documentation from every node and value."""

    def strip_graph(graph: onnx.GraphProto) -> None:
        del graph.metadata_props[:]
        graph.doc_string = ""
        for item in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
            del item.metadata_props[:]
            item.doc_string = ""
        for node in graph.node:
            for attribute in node.attribute:
                for inner in [attribute.g] if attribute.HasField("g") else list(attribute.graphs):
                    strip_graph(inner)

    strip_graph(model.graph)
    for function in model.functions:
        del function.metadata_props[:]
        function.doc_string = ""
        for node in function.node:
            del node.metadata_props[:]
            node.doc_string = ""
    del model.metadata_props[:]
    model.doc_string = ""


def _save(model: onnx.ModelProto, path: Path, external: bool) -> None:
    with atomic(path) as temporary:
        if external:
            beside = path.with_name(path.name + ".data")
            beside.unlink(missing_ok=True)  # onnx appends to what is there
            onnx.save(model, temporary, save_as_external_data=True, location=beside.name)
        else:
            temporary.write_bytes(model.SerializeToString(deterministic=True))


def stamp(path: Path, entries: Mapping[str, str]) -> None:
    """Put `edgeprune.*` provenance into a file's model-level metadata, replacing all that was there.

    Raises:
        StorageError: the file cannot be written.
    """
    model = onnx.load(path, load_external_data=False)
    del model.metadata_props[:]
    for key in sorted(entries):
        entry = model.metadata_props.add()
        entry.key, entry.value = f"edgeprune.{key}", entries[key]
    with atomic(path) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))
