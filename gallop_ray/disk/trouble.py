"""Errors of the storage: their classes, and a sentence with the fix for each."""

import errno
import os
import re

NO_SPACE = "there is no space left"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_ANSWERS = {
    errno.ENOSPC: (NO_SPACE, "make space"),
    errno.EDQUOT: ("this user's quota is used up", "make space, or have the quota raised"),
    errno.EROFS: ("the storage is read-only", "make it writable again, or give another folder as output"),
    errno.EACCES: ("this user has no permission", "change its mode or owner, or give another folder as output"),
    errno.EPERM: ("this user has no permission", "change its mode or owner, or give another folder as output"),
    errno.EIO: ("the storage fails (input/output error)", "look at the disk and at its mount"),
    errno.ESTALE: ("the storage has lost it (stale file handle)", "mount the storage again"),
    errno.ENOTCONN: ("the storage is gone (not connected)", "mount the storage again"),
    errno.ENODEV: ("the storage is gone (no such device)", "mount the storage again"),
    errno.ENXIO: ("the storage is gone (no such device)", "mount the storage again"),
    errno.EFBIG: ("the storage takes no file so large", "give another folder as output"),
    errno.ENAMETOOLONG: ("the name is too long", "give a shorter one"),
    errno.EMFILE: ("this process has too many files open", "raise its limit (ulimit -n)"),
    errno.ENFILE: ("this machine has too many files open", "raise its limit (fs.file-max)"),
}
_OS_ERROR = re.compile(r"\(os error (\d+)\)")


def as_os_error(error: BaseException, path: object = None) -> OSError | None:
    """The operating system's error in an exception: an OSError itself, or one in a library's message.

    safetensors, which is written in Rust, ends its messages with "(os error 28)".
    """
    if isinstance(error, OSError):
        if error.errno and error.filename is None and path is not None:
            return OSError(error.errno, os.strerror(error.errno), str(path))
        return error
    if (found := _OS_ERROR.search(str(error))) is not None:
        return OSError(int(found.group(1)), os.strerror(int(found.group(1))), None if path is None else str(path))
    return None


def is_disk_full(error: BaseException) -> bool:
    """Whether a write failed because there is no space left."""
    found = as_os_error(error)
    # By the text as well, which is all that some libraries keep.
    return (found is not None and found.errno in _FULL) or any(os.strerror(number) in str(error) for number in _FULL)


def is_over_quota(error: BaseException) -> bool:
    """Whether a write failed because of this user's quota, whatever the disk has free."""
    found = as_os_error(error)
    return (found is not None and found.errno == errno.EDQUOT) or os.strerror(errno.EDQUOT) in str(error)


def is_storage_trouble(error: BaseException) -> bool:
    """Whether an exception comes from the storage and not from a program: every run would meet it."""
    found = as_os_error(error)
    # EREMOTEIO: of a bucket, whose errors are whole sentences.
    return is_disk_full(error) or (found is not None and found.errno in (*_ANSWERS, errno.EREMOTEIO))


def described_trouble(error: BaseException, path: object = None) -> str:
    """One sentence: which file, what is wrong, what to do.

    path: what was being written or read, where the error itself does not say.
    """
    found = as_os_error(error, path)
    if found is None or found.errno is None:
        return str(error).strip() or type(error).__name__
    what, fix = _ANSWERS.get(found.errno, (found.strerror or os.strerror(found.errno), ""))
    where = f"{found.filename}: " if found.filename is not None else ""
    return f"{where}{what}{fix and f'; {fix}'}"
