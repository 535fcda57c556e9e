"""One ONNX graph in ONNX Runtime: loaded from the models folder, run on the processor."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelbake.errors import IntegrityError, MachineError
from modelbake.runtime.processors import usable_cores


class Session:
    """The graph at `path`; safe for several threads.

    `threads` bounds the threads of one operator, by default the cores that this process may use. `brief` loads in half the time
    for a process that runs a few batches and ends: it leaves the weights as they are on the disk, which makes each run slower.
    """

    def __init__(self, path: Path, threads: int | None = None, brief: bool = False) -> None:
        # Read by onnxruntime at import; without it, it writes a device id into the home folder (1.29 and later).
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        import onnxruntime

        if not path.is_file():
            raise MachineError(f"{path} does not exist although the manifest lists it; build or copy the bundle again.")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # Left to itself, onnxruntime counts the machine's cores, not the container's, and binds its threads to them.
        options.intra_op_num_threads = usable_cores() if threads is None else threads
        # Plans of memory are kept for every shape ever seen, and texts come in any; they save no time.
        options.enable_mem_pattern = False
        if brief:
            options.add_session_config_entry("session.disable_prepacking", "1")
            # Threads that spin while they wait would do so through most of a short life.
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session: Any = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            # onnxruntime's exceptions share no base class of their own.
            raise IntegrityError(
                f"{path}: ONNX Runtime cannot load this graph ({error}); build or copy the bundle again."
            ) from error
        self._path = path
        self.input_names = tuple(value.name for value in self._session.get_inputs())
        self.output_names = tuple(value.name for value in self._session.get_outputs())

    def run(self, inputs: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
        """All outputs by name, for one array per input; IntegrityError where the graph does not take these inputs."""
        try:
            values: Sequence[NDArray[np.generic]] = self._session.run(None, dict(inputs))
        except Exception as error:
            raise IntegrityError(
                f"{self._path}: the graph fails on its inputs ({error}); build or copy the bundle again."
            ) from error
        return dict(zip(self.output_names, values, strict=True))
