"""The graph of a model folder: verified, opened with onnxruntime, compared with its model.json."""

from fervor.artifacts.model_info import GRAPH, ModelInfo
from fervor.errors import ModelError
from fervor.io.onnx_session import Session


__all__ = ["open_session"]


def open_session(
    info: ModelInfo, threads: int, *, name: str = GRAPH, device: str = "cpu"
) -> Session:
    """Load one of a folder's two graphs, after its bytes and shapes were found to be as described.

    Raises:
        ModelError: another file than model.json describes, or a damaged one.
    """
    path = info.path_of(name)
    session = Session(path, str(path), threads, device, sha256=info.sha256[name])
    inputs, outputs = session.inputs, session.outputs
    if set(inputs) != {"image"} or "logits" not in outputs:
        raise ModelError(
            f"{path} has inputs {sorted(inputs)} and outputs {sorted(outputs)}: "
            "expected image -> logits, embedding, local"
        )
    if [inputs["image"][1:], outputs["logits"][1:]] != [
        [3, info.input.size, info.input.size],
        [len(info.labels)],
    ]:
        raise ModelError(
            f"{path} maps {inputs['image']} to {outputs['logits']}: model.json says "
            f"[b, 3, {info.input.size}, {info.input.size}] to [b, {len(info.labels)}]"
        )
    return session
