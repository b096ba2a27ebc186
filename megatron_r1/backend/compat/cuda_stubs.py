"""Stubs for torch.cuda on a machine without CUDA, so that megatron-core runs on the CPU with gloo.

Megatron asks torch.cuda for the current device, streams, events and random state in many places, without a
switch for the CPU. `install()` must run before the first import of megatron; with CUDA it does nothing. Each
stub is here because megatron-core 0.19.2 fails without it.
"""

import contextlib
import functools
import os
from collections.abc import Callable
from typing import Any

import torch
import torch.utils._device

CPU = torch.device("cpu")

# Factories that megatron-core calls with a literal device="cuda" or with pin_memory=True.
FACTORIES = (
    "arange",
    "empty",
    "empty_like",
    "full",
    "ones",
    "rand",
    "randn",
    "tensor",
    "zeros",
    "zeros_like",
)


class NoStream:
    """A stream whose work is always done: the CPU runs in order."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def wait_stream(self, stream: "NoStream") -> None:
        pass

    def wait_event(self, event: "NoEvent") -> None:
        pass

    def record_event(self, event: "NoEvent | None" = None) -> "NoEvent":
        return event or NoEvent()

    def synchronize(self) -> None:
        pass

    @staticmethod
    def priority_range() -> tuple[int, int]:
        return (0, 0)


class NoEvent:
    """An event that has already happened."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def record(self, stream: NoStream | None = None) -> None:
        pass

    def wait(self, stream: NoStream | None = None) -> None:
        pass

    def synchronize(self) -> None:
        pass

    def query(self) -> bool:
        return True


class DefaultGenerators:
    """torch.cuda.default_generators[i]: always the CPU's generator."""

    def __getitem__(self, index: int) -> torch.Generator:
        return torch.default_generator


def install() -> None:
    """Install the stubs; a no-op with CUDA, and the second time."""
    if torch.cuda.is_available() or torch.cuda.Stream is NoStream:
        return
    # otherwise Megatron's jit_fuser compiles with inductor: minutes, without gain at this size
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    _stand_in_for_devices()
    _stand_in_for_streams()
    _stand_in_for_random_state()
    _stand_in_for_tensor_methods()


def _returning(value: Any) -> Callable[..., Any]:
    """A new function each time: dynamo's rules are keyed by function, and it refuses one under two names."""
    return lambda *args, **kwargs: value


def _stand_in_for_devices() -> None:
    cuda: Any = torch.cuda
    cuda.current_device = lambda: CPU
    cuda.get_device_capability = _returning((8, 0))
    for name in ("set_device", "synchronize", "empty_cache", "reset_peak_memory_stats"):
        setattr(cuda, name, _returning(None))
    for name in ("memory_allocated", "max_memory_allocated", "memory_reserved"):
        setattr(cuda, name, _returning(0))
    for name in ("range_push", "range_pop"):
        setattr(cuda.nvtx, name, _returning(None))
    # `with torch.device("meta")` caches a list of the factories at first use. If it held our wrappers,
    # transformers' from_pretrained would silently leave its RoPE buffers uninitialised: fill the cache
    # before.
    torch.utils._device._device_constructors()
    for name in FACTORIES:
        setattr(torch, name, _on_cpu(getattr(torch, name)))


def _stand_in_for_streams() -> None:
    cuda: Any = torch.cuda
    stream = NoStream()
    cuda.Stream, cuda.Event = NoStream, NoEvent
    cuda.current_stream, cuda.default_stream = _returning(stream), _returning(stream)
    cuda.stream = lambda stream: contextlib.nullcontext()
    cuda.is_current_stream_capturing = lambda: False


def _stand_in_for_random_state() -> None:
    cuda: Any = torch.cuda
    cuda._lazy_call = lambda callback, **kwargs: callback()
    cuda._lazy_init = _returning(None)
    cuda.default_generators = DefaultGenerators()
    cuda.get_rng_state = cuda.random.get_rng_state = lambda device=None: torch.get_rng_state()
    cuda.set_rng_state = cuda.random.set_rng_state = lambda state, device=None: torch.set_rng_state(state)
    cuda.manual_seed = cuda.manual_seed_all = torch.default_generator.manual_seed


def _stand_in_for_tensor_methods() -> None:
    tensor: Any = torch.Tensor
    module: Any = torch.nn.Module
    tensor.cuda = module.cuda = lambda self, *args, **kwargs: self
    tensor.pin_memory = lambda self, *args, **kwargs: self
    tensor.record_stream = _returning(None)
    original_type = tensor.type

    # Megatron's optimizers group parameters by the string "torch.cuda.FloatTensor"
    def type_with_cuda_names(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if args or kwargs:
            return original_type(self, *args, **kwargs)
        return original_type(self).replace("torch.", "torch.cuda.", 1)

    tensor.type = type_with_cuda_names


def _on_cpu(factory: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    @functools.wraps(factory)
    def wrapped(*args: Any, **kwargs: Any) -> torch.Tensor:
        kwargs.pop("pin_memory", None)
        device = kwargs.get("device")
        if device is not None and torch.device(device).type == "cuda":
            kwargs["device"] = CPU
        return factory(*args, **kwargs)

    return wrapped
