"""Downloads that a person asked for by name, and their failure in one line."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import requests

from registry import UserError

_SECONDS = 10.0  # without an answer, until a host is given up


@contextlib.contextmanager
def downloading(what: str, instead: str, host: str | None = None) -> Iterator[None]:
    """Within this context, a library may download, and does not wait for long where nothing
    answers.

    Args:
        what: is downloaded, for the message.
        instead: what to give where there is no network, for the message.
        host: an address that is asked first, for libraries that try again and again for minutes.

    Raises:
        UserError: in place of any error but another `UserError`.
    """
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_SECONDS)
    try:
        if host is not None:
            requests.head(host, timeout=_SECONDS)
        yield
    except UserError:
        raise
    # Each library has its own errors for a network that is not there, `Exception` among them.
    except Exception as error:
        cause = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"{what} cannot be downloaded ({cause}): download once where there is a network and "
            f"give {instead}"
        ) from error
    finally:
        socket.setdefaulttimeout(before)
