"""Seccomp: a Linux process gives up system calls, for itself and its descendants, without privileges.

It covers what neither Landlock nor a network namespace does: Unix sockets of other programs; modes, owners, times and
attributes of files that cannot even be read; and UDP where there is no namespace. A refused call fails with EPERM.
See https://docs.kernel.org/userspace-api/seccomp_filter.html. Imports are kept few, as in `server.datasets.sandbox`.
"""

import ctypes
import errno
import os
import struct
import sys
from collections.abc import Iterator

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP = 38, 22
_MODE_FILTER = 2
_ALLOW, _REFUSE = 0x7FFF_0000, 0x0005_0000 | errno.EPERM
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
"""Codes of the filter's instructions; `linux/bpf_common.h`."""
_NUMBER_OFFSET, _ARCHITECTURE_OFFSET, _FIRST_ARGUMENT_OFFSET = 0, 4, 16
"""Offsets of the call's number, its architecture and the low half of its first argument in `struct seccomp_data`."""
_ARCHITECTURES = {"x86_64": 0xC000_003E, "aarch64": 0xC000_00B7}
_X32 = 0x4000_0000
"""Numbers from here on are calls of the x32 interface, which name the same functions again."""
# fmt: off
_CALLS: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198), "io_uring_setup": (425, 425),
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452),
    "chown": (92, None), "lchown": (94, None), "fchown": (93, 55), "fchownat": (260, 54),
    "utime": (132, None), "utimes": (235, None), "futimesat": (261, None), "utimensat": (280, 88),
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "setxattrat": (463, 463),
    "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16), "removexattrat": (466, 466),
    "file_setattr": (469, 469), "truncate": (76, 45),
    "kill": (62, 129), "tkill": (200, 130), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424), "pidfd_getfd": (438, 438), "ptrace": (101, 117),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "process_madvise": (440, 440),
    "setpriority": (141, 140), "ioprio_set": (251, 30), "migrate_pages": (256, 238), "move_pages": (279, 239),
    "shmget": (29, 194), "semget": (64, 190), "msgget": (68, 186), "mq_open": (240, 180),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "bpf": (321, 280),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282),
}
"""Numbers on x86_64 and aarch64 of the calls that are refused: sockets; modes, owners, times and attributes of files;
other processes; memory and keys shared with them; parts of the kernel that no decoder needs."""
_CALLS_ON_ITSELF = {
    "prlimit64": (302, 261), "sched_setaffinity": (203, 122), "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118), "sched_setattr": (314, 274),
}
"""Calls that are refused unless their first argument, a process, is 0: the caller."""
# fmt: on


def restrict() -> bool:
    """Give up the system calls listed above. Returns False, with nothing changed, where that is not possible."""
    if sys.platform != "linux" or sys.byteorder != "little" or os.uname().machine not in _ARCHITECTURES:
        return False
    filtering = b"".join(_program(os.uname().machine))
    code = ctypes.create_string_buffer(filtering, len(filtering))
    program = struct.pack("@HP", len(filtering) // 8, ctypes.addressof(code))
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    return bool(libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, program, 0, 0) == 0)


def _program(machine: str) -> Iterator[bytes]:
    """The filter's instructions. Jumps count the instructions that are left out."""
    place = list(_ARCHITECTURES).index(machine)
    yield _instruction(_LOAD, _ARCHITECTURE_OFFSET)
    yield _instruction(_EQUAL, _ARCHITECTURES[machine], 1, 0)
    yield _instruction(_RETURN, _REFUSE)  # a 32-bit call has other numbers
    yield _instruction(_LOAD, _NUMBER_OFFSET)
    if machine == "x86_64":
        yield _instruction(_AT_LEAST, _X32, 0, 1)
        yield _instruction(_RETURN, _REFUSE)
    for numbers in _CALLS.values():
        if (number := numbers[place]) is not None:
            yield _instruction(_EQUAL, number, 0, 1)
            yield _instruction(_RETURN, _REFUSE)
    for numbers in _CALLS_ON_ITSELF.values():
        yield _instruction(_EQUAL, numbers[place], 0, 4)
        yield _instruction(_LOAD, _FIRST_ARGUMENT_OFFSET)
        yield _instruction(_EQUAL, 0, 1, 0)
        yield _instruction(_RETURN, _REFUSE)
        yield _instruction(_RETURN, _ALLOW)
    yield _instruction(_RETURN, _ALLOW)


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)
