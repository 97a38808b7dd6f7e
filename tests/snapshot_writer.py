"""Writes checkpoints in other projects' layouts, from names and tensors alone, for the readers' tests."""

from __future__ import annotations

import io
import pickle
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


class Named:
    """A global that is written by name, whether or not such a module exists."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def __call__(self) -> None:
        raise AssertionError("only a name")


class Call:
    """An object that pickles as a call of `function` with `args`."""

    def __init__(self, function: Named, *args: Any) -> None:
        self.function, self.args = function, args


class Writer(pickle._Pickler):  # type: ignore[name-defined]
    """The standard pickler, with names that need not exist and tensors and numpy scalars as torch 1.7 wrote
    them."""

    def __init__(self, file: io.BytesIO, protocol: int, numpy_module: str) -> None:
        super().__init__(file, protocol)
        self.numpy_module = numpy_module

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if isinstance(obj, Named):
            if id(obj) in self.memo:
                self.write(self.get(self.memo[id(obj)][0]))
                return
            if self.proto >= 4:
                super().save(obj.module)
                super().save(obj.name)
                self.write(pickle.STACK_GLOBAL)
            else:
                self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
            self.memoize(obj)
            return
        super().save(obj, save_persistent_id)

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, Call):
            return obj.function, obj.args
        if isinstance(obj, torch.Tensor):
            storage = io.BytesIO()
            torch.save(flat_storage(obj), storage, _use_new_zipfile_serialization=False)
            data = Call(LOAD_FROM_BYTES, storage.getvalue())
            tensor = Call(
                REBUILD_TENSOR, data, 0, tuple(obj.shape), obj.contiguous().stride(), False, OrderedDict()
            )
            if isinstance(obj, torch.nn.Parameter):
                return REBUILD_PARAMETER, (tensor, True, OrderedDict())
            return tensor.function, tensor.args
        if isinstance(obj, np.generic):
            return Named(self.numpy_module, "scalar"), (obj.dtype, obj.tobytes())
        return NotImplemented


def flat_storage(tensor: torch.Tensor) -> Any:
    """The storage of a contiguous copy, typed as torch 1.x pickled it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tensor.detach().clone(memory_format=torch.contiguous_format).storage()


REBUILD_TENSOR = Named("torch._utils", "_rebuild_tensor_v2")
REBUILD_PARAMETER = Named("torch._utils", "_rebuild_parameter")
LOAD_FROM_BYTES = Named("torch.storage", "_load_from_bytes")
PERSISTENT = Named("torch_utils.persistence", "_reconstruct_persistent_obj")
EASY_DICT = Named("dnnlib.util", "EasyDict")


def dumps(value: Any, protocol: int = 3, numpy_module: str = "numpy.core.multiarray") -> bytes:
    """`value` as one pickle."""
    file = io.BytesIO()
    Writer(file, protocol, numpy_module).dump(value)
    return file.getvalue()


def module(
    class_name: str,
    parameters: Mapping[str, Any] | None = None,
    buffers: Mapping[str, Any] | None = None,
    children: Mapping[str, Any] | None = None,
    **attributes: Any,
) -> Call:
    """One persistent module, with the keys that an nn.Module of torch 1.7 has."""
    state: dict[str, Any] = {
        "training": False,
        "_parameters": OrderedDict(parameters or {}),
        "_buffers": OrderedDict(buffers or {}),
        "_non_persistent_buffers_set": set(),
        "_backward_hooks": OrderedDict(),
        "_forward_hooks": OrderedDict(),
        "_forward_pre_hooks": OrderedDict(),
        "_state_dict_hooks": OrderedDict(),
        "_load_state_dict_pre_hooks": OrderedDict(),
        "_modules": OrderedDict(children or {}),
        **attributes,
        "_init_args": (),
        "_init_kwargs": Call(EASY_DICT),
    }
    meta = {"type": "class", "version": 6, "module_src": "raise SystemExit('this text was executed')\n"}
    return Call(PERSISTENT, {**meta, "class_name": class_name, "state": state})


def module_tree(
    tensors: Mapping[str, torch.Tensor],
    attributes: Mapping[str, Mapping[str, Any]],
    classes: Mapping[str, str],
) -> Call:
    """Nested persistent modules out of dotted tensor names.

    attributes: path of a module ("" is the root) to its plain attributes. classes: path to class name.
    """

    def build(path: str) -> Call:
        prefix = f"{path}." if path else ""
        inside = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        own = {name: t for name, t in inside.items() if "." not in name}
        children = dict.fromkeys(name.split(".")[0] for name in inside if "." in name)
        is_buffer = {name: name in ("resample_filter", "noise_const", "w_avg") for name in own}
        return module(
            classes.get(path, "Layer"),
            {
                name: torch.nn.Parameter(t, t.is_floating_point())
                for name, t in own.items()
                if not is_buffer[name]
            },
            {name: t for name, t in own.items() if is_buffer[name]},
            {child: build(prefix + child) for child in children},
            **attributes.get(path, {}),
        )

    return build("")
