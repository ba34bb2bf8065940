"""Drops all that a device receives, for as long as a descriptor is open: an XDP program of two instructions.

The program hangs on the device by a BPF link, and the kernel takes it off when the last descriptor of that link is
closed, however its process ends; nothing else of the device changes. It runs in generic mode, ahead of bridges, packet
filters and taps, and needs nothing of the driver. Sources: ``linux/bpf.h`` (union bpf_attr), ``bpf_xdp_link_attach()``
in ``net/core/dev.c``; such links exist since Linux 5.9.
"""

import ctypes
import errno
import os
import struct

_BPF_PROG_LOAD, _BPF_LINK_CREATE = 5, 28
_BPF_PROG_TYPE_XDP, _BPF_XDP = 6, 37
_XDP_FLAGS_SKB_MODE = 0x2
_XDP_DROP = 1
#: ``r0 = XDP_DROP; exit``: struct bpf_insn is opcode, registers, offset, immediate.
_DROP = struct.pack("=BBhi", 0xB7, 0, 0, _XDP_DROP) + struct.pack("=BBhi", 0x95, 0, 0, 0)
_LICENSE = b"GPL\0"
_NAME = b"criu_veth"

#: Number of bpf(2) by machine, for programs of 64 bits.
_SYSCALLS = {"x86_64": 321, "ppc64le": 361, "s390x": 351, "aarch64": 280, "riscv64": 280, "loongarch64": 280}


def load_drop() -> int:
    """Return a descriptor of the program.

    Raises OSError: this kernel has none, or does not let us.
    """
    code, license_ = (ctypes.create_string_buffer(data, len(data)) for data in (_DROP, _LICENSE))
    places = (ctypes.addressof(code), ctypes.addressof(license_))
    attr = struct.pack("=IIQQ", _BPF_PROG_TYPE_XDP, len(_DROP) // 8, *places)
    return _bpf(_BPF_PROG_LOAD, attr + struct.pack("=IIQII16s", 0, 0, 0, 0, 0, _NAME))


def attach(program: int, ifindex: int) -> int:
    """Have a device run the program; return the descriptor whose closing ends that.

    Raises OSError: EBUSY or EEXIST if it has a program already, ENODEV if it is gone.
    """
    return _bpf(_BPF_LINK_CREATE, struct.pack("=IIII", program, ifindex, _BPF_XDP, _XDP_FLAGS_SKB_MODE) + bytes(32))


def _bpf(command: int, attr: bytes) -> int:
    number = _SYSCALLS.get(os.uname().machine) if ctypes.sizeof(ctypes.c_void_p) == 8 else None
    if number is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    buffer = ctypes.create_string_buffer(attr, len(attr))
    found: int = call(ctypes.c_long(number), ctypes.c_int(command), buffer, ctypes.c_uint(len(attr)))
    if found < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return found
