"""A recording double of TensorRT, made from its documented interface: builds nothing, notes every call.

Copied beside a test as `tensorrt.py` or `tensorrt_rtx.py`, so that the child process imports it too. The plan
that it "builds" is the JSON text of the calls; a context that "executes" fills each row of its outputs with
three times the mean of that row of its first input, by the addresses that it was given. TENSORRT_DOUBLE says
which it is:

    10   NetworkDefinitionCreationFlag has EXPLICIT_BATCH and STRONGLY_TYPED, BuilderFlag has FP16
    11   strong typing is always on; neither of those flags is left
    rtx  targets, runtime configuration and cache, validity of engines
"""

import ctypes
import json
import os
from enum import IntEnum

import onnx

KIND = os.environ.get("TENSORRT_DOUBLE", "11")
__version__ = {"10": "10.9.0.34", "11": "11.4.0.106", "rtx": "1.7.1.116"}[KIND]
calls: list = []


def note(*call):
    calls.append(list(call))


NetworkDefinitionCreationFlag = IntEnum(
    "NetworkDefinitionCreationFlag",
    {"10": {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1}, "11": {"KEPT": 7}, "rtx": {"STRONGLY_TYPED": 1}}[KIND],
)
TensorIOMode = IntEnum("TensorIOMode", {"NONE": 0, "INPUT": 1, "OUTPUT": 2})


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def __init__(self):
        note("ILogger")


class Host:
    """IHostMemory: a buffer."""

    def __new__(cls, data):
        return memoryview(data)


class Builder:
    def __init__(self, logger):
        self.logger = logger

    def create_network(self, flags=0):
        note("create_network", flags)
        return Network()

    def create_builder_config(self):
        return IBuilderConfig()

    def create_optimization_profile(self):
        return Profile()

    def build_serialized_network(self, network, config):
        note("build_serialized_network")
        if network.path.endswith("hangs.onnx"):
            import time

            time.sleep(60)
        if network.path.endswith("unbuildable.onnx"):
            self.logger.log(ILogger.ERROR, "no kernel for this graph")
            return None
        self.logger.log(ILogger.WARNING, "this is a double")
        return Host(
            json.dumps({"calls": calls, "inputs": network.inputs, "outputs": network.outputs}).encode()
        )


class Network:
    path, inputs, outputs, num_layers = "", None, None, 0


class Profile:
    def set_shape(self, name, low, best, high):
        note("set_shape", name, low, best, high)


class ParserError:
    def desc(self):
        return "an operator that it does not know"

    def node_name(self):
        return "odd_node"

    def node(self):
        return 0

    def node_operator(self):
        return "Odd"


class OnnxParser:
    num_errors = 1

    def __init__(self, network, logger):
        self.network = network

    def parse_from_file(self, path):
        model = onnx.load(path)
        self.network.path = path
        self.network.num_layers = len(model.graph.node)
        for field in ("input", "output"):
            entries = {
                entry.name: [dim.dim_value or -1 for dim in entry.type.tensor_type.shape.dim]
                + [onnx.helper.tensor_dtype_to_np_dtype(entry.type.tensor_type.elem_type).name]
                for entry in getattr(model.graph, field)
            }
            setattr(self.network, field + "s", entries)
        return not path.endswith("unreadable.onnx")

    def get_error(self, index):
        return ParserError()


class TimingCache:
    def __init__(self, data):
        self.data = data

    def serialize(self):
        return Host(self.data + b"+measured")


class IBuilderConfig:
    def add_optimization_profile(self, profile):
        note("add_optimization_profile")
        return 0

    def create_timing_cache(self, data):
        note("create_timing_cache", data.decode())
        return TimingCache(data)

    def set_timing_cache(self, cache, ignore_mismatch):
        note("set_timing_cache", ignore_mismatch)
        self.cache = cache
        return not cache.data.startswith(b"other GPU")

    def get_timing_cache(self):
        return self.cache

    def set_flag(self, flag):
        raise AssertionError("precision lies in the graph; no builder flag is wanted")


class Runtime:
    def __init__(self, logger):
        pass

    def deserialize_cuda_engine(self, plan):
        note("deserialize_cuda_engine")
        return None if plan == b"foreign" else ICudaEngine(json.loads(plan))


class ICudaEngine:
    def __init__(self, plan):
        self.inputs, self.outputs = plan["inputs"], plan["outputs"]
        self.names = [*self.inputs, *self.outputs]
        self.num_io_tensors = len(self.names)

    def get_tensor_name(self, index):
        return self.names[index]

    def get_tensor_mode(self, name):
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def create_execution_context(self, config=None):
        note("create_execution_context", config is not None)
        return IExecutionContext(self)


class IExecutionContext:
    def __init__(self, engine):
        self.engine = engine
        self.shapes, self.addresses = {}, {}

    def set_input_shape(self, name, shape):
        note("set_input_shape", name, shape)
        self.shapes[name] = tuple(shape)
        described = self.engine.inputs[name][:-1]
        return len(described) == len(shape)

    def get_tensor_shape(self, name):
        rows = next(shape[0] for shape in self.shapes.values() if shape)
        return tuple(rows if size == -1 else size for size in self.engine.outputs[name][:-1])

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream):
        note("execute_async_v3", stream)
        first = next(iter(self.engine.inputs))
        rows, *rest = self.shapes[first]
        width = 1
        for size in rest:
            width *= size
        read = (ctypes.c_float * (rows * width)).from_address(self.addresses[first])
        for name, described in self.engine.outputs.items():
            size = 1
            for length in self.get_tensor_shape(name)[1:]:
                size *= length
            kind = ctypes.c_uint8 if described[-1] == "uint8" else ctypes.c_float
            written = (kind * (rows * size)).from_address(self.addresses[name])
            for row in range(rows):
                value = 3 * sum(read[row * width : (row + 1) * width]) / width
                for place in range(size):
                    written[row * size + place] = kind(int(value) if kind is ctypes.c_uint8 else value).value
        return first != "refused"


if KIND == "10":

    class BuilderFlag(IntEnum):
        FP16 = 0
        INT8 = 1


if KIND == "rtx":

    class ComputeCapability(IntEnum):
        NONE = 0
        CURRENT = 1
        SM75 = 75
        SM86 = 86
        SM89 = 89
        SM120 = 120

    IBuilderConfig.set_compute_capability = lambda self, capability, index: note(
        "set_compute_capability", int(capability), index
    )

    class EngineValidity(IntEnum):
        VALID = 0
        SUBOPTIMAL = 1
        INVALID = 2

    class EngineInvalidityDiagnostics(IntEnum):
        VERSION_MISMATCH = 1
        UNSUPPORTED_CC = 2
        OLD_CUDA_DRIVER = 4

    validity = [EngineValidity.VALID, 0]  # what the next question is answered
    Runtime.get_engine_validity = lambda self, plan: tuple(validity)

    class RuntimeCache:
        data = b"empty"

        def serialize(self):
            return Host(self.data + b"+compiled")

        def deserialize(self, data):
            note("runtime cache", data.decode())
            self.data = data
            return True

    class IRuntimeConfig:
        def create_runtime_cache(self):
            return RuntimeCache()

        def set_runtime_cache(self, cache):
            note("set_runtime_cache")

    class DynamicShapesKernelSpecializationStrategy(IntEnum):
        LAZY = 0
        EAGER = 1

    ICudaEngine.create_runtime_config = lambda self: IRuntimeConfig()
    capturable = [True]
    IExecutionContext.is_stream_capturable = lambda self, stream: capturable[0]
