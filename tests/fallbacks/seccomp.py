"""Makes the kernel refuse system calls of this process: a seccomp filter, a BPF program that the kernel runs.

    install([Refusal("madvise", errno.EINVAL, argument=2, value=22)])

A filter cannot be removed, and holds for threads and processes made later: use it in a process made for it, after
its imports (the loader maps libraries). Sources: seccomp(2), linux/filter.h, linux/seccomp.h, and the tables of
system calls of x86-64 and arm64.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass

# Numbers on x86-64 and on arm64, which uses the generic table.
_NUMBERS = {
    "cachestat": (451, 451),
    "clone": (56, 220),
    "clone3": (435, 435),
    "io_setup": (206, 0),
    "io_submit": (209, 2),
    "madvise": (28, 233),
    "mincore": (27, 232),
    "mmap": (9, 222),
    "openat": (257, 56),
    "preadv2": (327, 286),
}
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, AUDIT_ARCH_*

# BPF_LD|BPF_W|BPF_ABS, BPF_ALU|BPF_AND|BPF_K, BPF_JMP|BPF_JEQ|BPF_K, BPF_RET|BPF_K
_LOAD, _AND, _JUMP_EQUAL, _RETURN = 0x20, 0x54, 0x15, 0x06
_OFFSET_NUMBER, _OFFSET_MACHINE, _OFFSET_ARGUMENTS = 0, 4, 16
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_ALL_BITS = 0xFFFFFFFF
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2


@dataclass(frozen=True)
class Refusal:
    """One system call that fails from now on.

    Attributes:
        call: its name, one of those in the table above.
        number: the errno it fails with.
        argument: which argument to look at, from 0; None refuses every such call.
        value: what the argument is, in its low 32 bits, when the call is refused.
        mask: the bits of the argument that count.
        unless: turns that round: the call is refused when the argument is anything else.
    """

    call: str
    number: int
    argument: int | None = None
    value: int = 0
    mask: int = _ALL_BITS
    unless: bool = False


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_ushort), ("yes", ctypes.c_ubyte), ("no", ctypes.c_ubyte), ("value", ctypes.c_uint32))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.POINTER(_Instruction)))


def why_unavailable() -> str | None:
    """Why no filter can be installed here, in words; None where it can."""
    if platform.machine() not in _MACHINES:
        return f"the system calls of {platform.machine()} are not in the table"
    try:
        with open("/proc/sys/kernel/seccomp/actions_avail") as actions:
            return None if "errno" in actions.read().split() else "this kernel's seccomp returns no errno"
    except OSError:
        return "this kernel has no seccomp"


def install(refusals: Sequence[Refusal]) -> None:
    """Installs the filter in this thread, for it and for all threads that it starts.

    Raises:
        OSError: the kernel refuses the filter.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    code = [instruction for refusal in refusals for instruction in _compile(refusal)] + [
        _Instruction(_RETURN, 0, 0, _ALLOW)
    ]
    program = _Program(len(code), (_Instruction * len(code))(*code))
    refused = libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    refused = refused or libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0)
    if refused:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _compile(refusal: Refusal) -> list[_Instruction]:
    """Instructions that return the errno where every condition holds, and else fall through to what follows them."""
    column, machine = _MACHINES[platform.machine()]
    conditions = [
        (_OFFSET_MACHINE, _ALL_BITS, machine, True),
        (_OFFSET_NUMBER, _ALL_BITS, _NUMBERS[refusal.call][column], True),
    ]
    if refusal.argument is not None:
        offset = _OFFSET_ARGUMENTS + 8 * refusal.argument
        conditions.append((offset, refusal.mask, refusal.value & _ALL_BITS, not refusal.unless))
    code: list[_Instruction] = []
    for position, (offset, mask, value, equal) in enumerate(conditions):
        skip = 3 * (len(conditions) - position - 1) + 1  # what is left of this refusal
        code.append(_Instruction(_LOAD, 0, 0, offset))
        code.append(_Instruction(_AND, 0, 0, mask))
        code.append(_Instruction(_JUMP_EQUAL, 0 if equal else skip, skip if equal else 0, value))
    return [*code, _Instruction(_RETURN, 0, 0, _ERRNO | refusal.number)]
