"""What a bucket's errors mean: whether a request may work later, and what to tell the user."""

import errno
import re

_CODE = re.compile(r"<Code>([\w.]+)</Code>")
_STATUS = re.compile(r"status code: (\d+)")
_PASSING = (408, 409, 425, 429)
_PASSING_CODE = re.compile(r"RequestTimeout|SlowDown|InternalError|ServiceUnavailable|.*Throttl.*")  # S3's 400 too
_FIX = (
    "give a bucket that exists as output, and credentials that may read, write, list and delete there: by "
    "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or the machine's role, AWS_REGION, AWS_ENDPOINT_URL"
)


class BucketTrouble(OSError):
    """A bucket refuses what is asked, or is away for longer than could be waited. A whole sentence with the fix."""

    def __init__(self, address: str, what: str) -> None:
        super().__init__(errno.EREMOTEIO, what, address)


class BucketAway(BucketTrouble):
    """It does not answer, or says that it cannot now."""


def refused(address: str, error: Exception) -> BucketTrouble:
    """What to raise for an error that no later try can pass."""
    return BucketTrouble(address, f"the bucket refuses this ({reason(error)}); {_FIX}")


def away(address: str, error: Exception) -> BucketAway:
    """What to raise where no more time is left for another try."""
    return error if isinstance(error, BucketAway) else silent(address, f"the bucket does not answer ({reason(error)})")


def silent(address: str, what: str) -> BucketAway:
    """A bucket that does not answer, with the fix for what is likelier than an outage."""
    return BucketAway(address, f"{what}; {_FIX}")


def passes(error: Exception) -> bool:
    """Whether it may work later: no answer, cut answers, 5xx and the like."""
    from obstore.exceptions import GenericError

    if isinstance(error, GenericError):
        code, status = _CODE.search(str(error)), _STATUS.search(str(error))
        if code is not None and _PASSING_CODE.fullmatch(code[1]):
            return True
        return status is None or int(status[1]) >= 500 or int(status[1]) in _PASSING
    return isinstance(error, ConnectionError | TimeoutError | BucketAway)


def reason(error: Exception) -> str:
    """A few words of an error whose text is long, without addresses of requests."""
    text = str(error)
    if code := _CODE.search(text):
        return code[1]
    if status := _STATUS.search(text):
        return f"HTTP {status[1]}"
    for words in ("credential", "timed out", "dns error", "error sending request", "connection"):
        if words in text.lower():
            return {"credential": "no credentials", "error sending request": "no connection"}.get(words, words)
    return type(error).__name__ if "obstore" in type(error).__module__ else first_words(text)


def first_words(text: str) -> str:
    """The beginning of a text's first line."""
    return (text.strip().splitlines() or [""])[0][:80]
