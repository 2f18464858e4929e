"""The CUDA driver: `Driver`, the few calls that are needed of it, and the real one, by ctypes."""

import ctypes
from typing import Any, NamedTuple, Protocol

BLOCKING_SYNC = 4
"""CU_CTX_SCHED_BLOCKING_SYNC: a thread that waits for the device sleeps. FFmpeg refuses a context with other flags."""

_HOST, _DEVICE = 1, 2  # CUmemorytype


class DeviceError(OSError):
    """A GPU cannot be had, or something on it failed; the message is one line for the operator."""


class Span(NamedTuple):
    """Rows of bytes, in the host's memory or in the device's.

    Attributes:
        address: of the first byte.
        pitch_bytes: from one row to the next.
        on_device: whose memory it is.
    """

    address: int
    pitch_bytes: int
    on_device: bool


class Driver(Protocol):
    """What is needed of the CUDA driver. All calls that concern memory, streams and copies are made with the
    device's context pushed; any thread.

    Every call raises `DeviceError` where the driver says no.
    """

    def count(self) -> int:
        """How many devices there are; makes no context."""
        ...

    def name(self, device: int) -> str:
        """What the maker calls it."""
        ...

    def total_bytes(self, device: int) -> int:
        """Its memory."""
        ...

    def retain(self, device: int, flags: int) -> int:
        """The device's primary context, which the decoder and onnxruntime share; with these flags.

        Raises:
            DeviceError: it is in use with other flags, ...
        """
        ...

    def release(self, device: int) -> None:
        """Let the primary context go."""
        ...

    def push(self, context: int) -> None:
        """Make it this thread's context."""
        ...

    def pop(self) -> None:
        """Make the one before it this thread's context."""
        ...

    def free_bytes(self) -> int:
        """Memory that is free now."""
        ...

    def stream(self) -> int:
        """A new blocking stream: what is put into it starts when the work before it in the default stream, which the
        decoder copies in, is done."""
        ...

    def destroy_stream(self, stream: int) -> None:
        """The opposite of `stream`."""
        ...

    def synchronize(self, stream: int) -> None:
        """Wait for all that was put into it."""
        ...

    def allocate(self, nbytes: int) -> int:
        """Device memory."""
        ...

    def free(self, address: int) -> None:
        """The opposite of `allocate`."""
        ...

    def pin(self, address: int, nbytes: int) -> None:
        """Lock pages of the host's memory, so that the device copies from and to them by itself."""
        ...

    def unpin(self, address: int) -> None:
        """The opposite of `pin`."""
        ...

    def copy(self, source: Span, target: Span, width_bytes: int, rows: int, stream: int) -> None:
        """Put a copy of so many rows into the stream."""
        ...


class _Copy2D(ctypes.Structure):
    """CUDA_MEMCPY2D of cuda.h."""

    _fields_ = (
        ("src_x", ctypes.c_size_t),
        ("src_y", ctypes.c_size_t),
        ("src_type", ctypes.c_int),
        ("src_host", ctypes.c_void_p),
        ("src_device", ctypes.c_uint64),
        ("src_array", ctypes.c_void_p),
        ("src_pitch", ctypes.c_size_t),
        ("dst_x", ctypes.c_size_t),
        ("dst_y", ctypes.c_size_t),
        ("dst_type", ctypes.c_int),
        ("dst_host", ctypes.c_void_p),
        ("dst_device", ctypes.c_uint64),
        ("dst_array", ctypes.c_void_p),
        ("dst_pitch", ctypes.c_size_t),
        ("width", ctypes.c_size_t),
        ("height", ctypes.c_size_t),
    )


# Every function with its arguments' types: a pointer given as a Python int would be cut to 32 bits.
_P, _U64, _SIZE, _INT, _UINT = ctypes.c_void_p, ctypes.c_uint64, ctypes.c_size_t, ctypes.c_int, ctypes.c_uint
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cuInit": (_UINT,),
    "cuGetErrorName": (_INT, _P),
    "cuGetErrorString": (_INT, _P),
    "cuDeviceGetCount": (_P,),
    "cuDeviceGet": (_P, _INT),
    "cuDeviceGetName": (ctypes.c_char_p, _INT, _INT),
    "cuDeviceTotalMem_v2": (_P, _INT),
    "cuDevicePrimaryCtxGetState": (_INT, _P, _P),
    "cuDevicePrimaryCtxSetFlags_v2": (_INT, _UINT),
    "cuDevicePrimaryCtxRetain": (_P, _INT),
    "cuDevicePrimaryCtxRelease_v2": (_INT,),
    "cuCtxPushCurrent_v2": (_P,),
    "cuCtxPopCurrent_v2": (_P,),
    "cuMemGetInfo_v2": (_P, _P),
    "cuStreamCreate": (_P, _UINT),
    "cuStreamDestroy_v2": (_P,),
    "cuStreamSynchronize": (_P,),
    "cuMemAlloc_v2": (_P, _SIZE),
    "cuMemFree_v2": (_U64,),
    "cuMemHostRegister_v2": (_P, _SIZE, _UINT),
    "cuMemHostUnregister": (_P,),
    "cuMemcpy2DAsync_v2": (_P, _P),
}


class CudaDriver:
    """The real driver (NVIDIA's libcuda). Made once per process, by `gpus`; ctypes lets go of the GIL in every call.

    Source: the CUDA driver API reference, versions 12 and 13.

    Args:
        library: its file name.

    Raises:
        DeviceError: there is no driver, or it does not start.
    """

    def __init__(self, library: str = "libcuda.so.1") -> None:
        try:
            self._library: Any = ctypes.CDLL(library)
            for name, types in _SIGNATURES.items():
                function = getattr(self._library, name)
                function.argtypes, function.restype = types, ctypes.c_int
        except (OSError, AttributeError) as error:
            raise DeviceError("no NVIDIA driver was found") from error
        self._call("cuInit", 0)

    def count(self) -> int:
        """See `Driver`."""
        found = ctypes.c_int()
        self._call("cuDeviceGetCount", ctypes.byref(found))
        return found.value

    def name(self, device: int) -> str:
        """See `Driver`."""
        text = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", text, len(text), self._handle(device))
        return text.value.decode("utf-8", "replace")

    def total_bytes(self, device: int) -> int:
        """See `Driver`."""
        found = ctypes.c_size_t()
        self._call("cuDeviceTotalMem_v2", ctypes.byref(found), self._handle(device))
        return found.value

    def retain(self, device: int, flags: int) -> int:
        """See `Driver`."""
        handle, own, active, context = self._handle(device), ctypes.c_uint(), ctypes.c_int(), ctypes.c_void_p()
        self._call("cuDevicePrimaryCtxGetState", handle, ctypes.byref(own), ctypes.byref(active))
        if own.value != flags:
            # Newer drivers change an active context, older ones refuse, and then whoever made it was too early.
            self._call("cuDevicePrimaryCtxSetFlags_v2", handle, flags)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), handle)
        return context.value or 0

    def release(self, device: int) -> None:
        """See `Driver`."""
        self._call("cuDevicePrimaryCtxRelease_v2", self._handle(device))

    def push(self, context: int) -> None:
        """See `Driver`."""
        self._call("cuCtxPushCurrent_v2", context)

    def pop(self) -> None:
        """See `Driver`."""
        self._call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))

    def free_bytes(self) -> int:
        """See `Driver`."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value

    def stream(self) -> int:
        """See `Driver`."""
        made = ctypes.c_void_p()
        self._call("cuStreamCreate", ctypes.byref(made), 0)  # 0 = CU_STREAM_DEFAULT: it waits for the default stream
        return made.value or 0

    def destroy_stream(self, stream: int) -> None:
        """See `Driver`."""
        self._call("cuStreamDestroy_v2", stream)

    def synchronize(self, stream: int) -> None:
        """See `Driver`."""
        self._call("cuStreamSynchronize", stream)

    def allocate(self, nbytes: int) -> int:
        """See `Driver`."""
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), nbytes)
        return address.value

    def free(self, address: int) -> None:
        """See `Driver`."""
        self._call("cuMemFree_v2", address)

    def pin(self, address: int, nbytes: int) -> None:
        """See `Driver`."""
        self._call("cuMemHostRegister_v2", address, nbytes, 0)

    def unpin(self, address: int) -> None:
        """See `Driver`."""
        self._call("cuMemHostUnregister", address)

    def copy(self, source: Span, target: Span, width_bytes: int, rows: int, stream: int) -> None:
        """See `Driver`."""
        what = _Copy2D(width=width_bytes, height=rows, src_pitch=source.pitch_bytes, dst_pitch=target.pitch_bytes)
        what.src_type = _DEVICE if source.on_device else _HOST
        what.dst_type = _DEVICE if target.on_device else _HOST
        if source.on_device:
            what.src_device = source.address
        else:
            what.src_host = source.address
        if target.on_device:
            what.dst_device = target.address
        else:
            what.dst_host = target.address
        self._call("cuMemcpy2DAsync_v2", ctypes.byref(what), stream)

    def _handle(self, device: int) -> int:
        handle = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(handle), device)
        return handle.value

    def _call(self, function: str, *arguments: Any) -> None:
        result = getattr(self._library, function)(*arguments)
        if result != 0:
            name, words = (self._told(told, result) for told in ("cuGetErrorName", "cuGetErrorString"))
            raise DeviceError(f"CUDA: {function} failed: {words or 'unknown'} ({name or result})")

    def _told(self, function: str, result: int) -> str:
        text = ctypes.c_char_p()
        known = getattr(self._library, function)(result, ctypes.byref(text)) == 0
        return (text.value or b"").decode("ascii", "replace") if known else ""
