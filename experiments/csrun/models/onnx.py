"""Models in ONNX files, computed by onnxruntime on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from csrun.errors import RunError, first_line
from csrun.models.base import BaseModel

_INPUT_TYPES = {"tensor(float16)": np.float16, "tensor(float)": np.float32, "tensor(double)": np.float64}


class OnnxModel(BaseModel):
    """An ONNX graph with one input, ``(b, *in)``, and one of its outputs, ``(b, *out)``.

    The graph is always computed on one thread and on the same number of inputs, of which zeros make up the last, so
    that last digits depend neither on threads nor on how many inputs come. The file is a buffer of the module, so that
    it is a part of the digest of its weights and goes with it to other processes.

    Parameters
    ----------
    path : str or Path
        Of a graph that holds its weights.
    output : str, optional
        Name of the output; by default the first.
    batch : int
        Inputs a call, where the graph leaves their number open.

    Raises
    ------
    RunError
        onnxruntime is missing, or there is no such graph in the file.
    """

    content: Tensor

    def __init__(self, path: str | Path, *, output: str | None = None, batch: int = 1) -> None:
        super().__init__()
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise RunError(f"{path} cannot be read ({error.strerror}): expected an ONNX file") from error
        self.register_buffer("content", torch.frombuffer(bytearray(content), dtype=torch.uint8))
        self._session = session = _session(content, path)
        inputs, outputs = session.get_inputs(), [one.name for one in session.get_outputs()]
        types = ", ".join(dict.fromkeys(one.type for one in inputs))
        if all(one.type not in _INPUT_TYPES for one in inputs):  # as of tokens, their mask and their kinds
            raise RunError(
                f"{path} takes {types}: expected floating-point numbers, to which noise can be added; of a model "
                "of tokens certify the part after their embedding"
            )
        if len(inputs) != 1:
            names = ", ".join(one.name for one in inputs)
            raise RunError(f"{path} has the inputs {names}: expected one, the one that is certified")
        (given,) = inputs
        if output is not None and output not in outputs:
            raise RunError(f"{path} has no output '{output}': expected one of {', '.join(outputs)}")
        self._input, self._type = given.name, _INPUT_TYPES[given.type]
        self._output = outputs[0] if output is None else output
        self.batch = given.shape[0] if isinstance(given.shape[0], int) else batch

    @property
    def metadata(self) -> dict[str, str]:
        """Whatever else the file says, such as the alphabet of a text recogniser."""
        found: dict[str, str] = self._opened().get_modelmeta().custom_metadata_map
        return found

    def forward(self, inputs: Tensor) -> Tensor:
        rows = inputs.detach().cpu().numpy().astype(self._type)
        answers = [self._answers(rows[start : start + self.batch]) for start in range(0, len(rows), self.batch)]
        return torch.from_numpy(np.concatenate(answers)).to(inputs.device)

    def _answers(self, rows: NDArray[Any]) -> NDArray[Any]:
        padded = np.zeros((self.batch, *rows.shape[1:]), dtype=rows.dtype)
        padded[: len(rows)] = rows
        (answers,) = self._opened().run([self._output], {self._input: padded})
        if len(answers) != self.batch:
            raise RunError(
                f"the output {self._output} has shape {answers.shape} for {self.batch} inputs: expected one row each"
            )
        return np.asarray(answers[: len(rows)])

    def _opened(self) -> Any:
        """The session; made anew in another process, as it cannot be sent."""
        if self._session is None:
            self._session = _session(self.content.cpu().numpy().tobytes(), "the graph")
        return self._session

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_session": None}


def _session(content: bytes, what: object) -> Any:
    """A session on one thread, which sends nothing home."""
    try:
        import onnxruntime
    except ImportError as error:
        raise RunError(
            "ONNX files need onnxruntime, which is not installed: pip install 'centersmooth[ocr]'"
        ) from error
    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    options.log_severity_level = 4  # fatal ones alone: errors are raised, and told in a line
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own kinds have no common base
        raise RunError(f"{what} is no ONNX graph that onnxruntime reads: {first_line(error)}") from error
