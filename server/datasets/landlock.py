"""Landlock: a Linux process gives up access to files and to TCP, for itself and its descendants, without privileges.

Called through `syscall`, because the C library has no functions for it. See https://docs.kernel.org/userspace-api/landlock.html.
Imports are kept few, as in `server.datasets.sandbox`.
"""

import ctypes
import os
import stat
import struct
import sys
from collections.abc import Iterable

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
"""Numbers of the system calls, the same on all architectures."""
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1
_PR_SET_NO_NEW_PRIVS = 38
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
_FILE_RIGHTS = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
"""Rights that a file can have; the others are of folders."""
_TCP = 1 << 0 | 1 << 1
"""To bind and to connect."""
_SCOPES = 1 << 0 | 1 << 1
"""Abstract Unix sockets, and signals to processes outside."""
_REMOVE_DIR, _REMOVE_FILE, _MAKE_DIR, _MAKE_REG = 1 << 4, 1 << 5, 1 << 7, 1 << 8
READ = _EXECUTE | _READ_FILE | _READ_DIR
LIST = _READ_DIR
WRITE = _READ_FILE | _READ_DIR | _WRITE_FILE | _TRUNCATE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG
"""To read and write plain files and folders: no links, which others might follow, no pipes, and nothing to execute."""


def version() -> int:
    """Version of the kernel's interface; 0 without Landlock."""
    if sys.platform != "linux":
        return 0
    try:
        return max(0, _syscall(_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION))
    except OSError:
        return 0


def restricts_tcp() -> bool:
    """Whether `restrict` covers TCP too."""
    return version() >= 4


def restrict(rules: Iterable[tuple[str, int]]) -> bool:
    """Give up all access to files but to what lies at the paths of `rules`, with the given rights, and all TCP.

    Paths that do not exist are left out. Returns False, with nothing changed, where the kernel has no Landlock.
    """
    number = version()
    if not number:
        return False
    rights = _all_rights(number)
    attributes = struct.pack("=QQQ", rights, _TCP if restricts_tcp() else 0, _SCOPES if number >= 6 else 0)
    try:
        ruleset = _syscall(_CREATE_RULESET, attributes, len(attributes), 0)
        for path, allowed in rules:
            _add_rule(ruleset, path, allowed & rights)
        ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        _syscall(_RESTRICT_SELF, ruleset, 0)
        os.close(ruleset)
    except OSError:
        return False
    return True


def _all_rights(number: int) -> int:
    """All rights of files and folders that this version of the interface handles."""
    count = 13 if number == 1 else 14 if number == 2 else 15 if number < 5 else 16
    return (1 << count) - 1


def _add_rule(ruleset: int, path: str, allowed: int) -> None:
    if sys.platform != "linux":  # not reached: for type checkers
        return
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            allowed &= _FILE_RIGHTS
        if allowed:
            _syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, struct.pack("=Qi", allowed, descriptor), 0)
    finally:
        os.close(descriptor)


def _syscall(number: int, *arguments: bytes | int | None) -> int:
    """Result of a system call. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    words = [each if each is None or isinstance(each, bytes) else ctypes.c_long(each) for each in arguments]
    result = int(libc.syscall(ctypes.c_long(number), *words))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
