"""UploadLimit: a request that is larger than a server wants is refused before it is read, or while it is."""

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class UploadLimit:
    """ASGI middleware: reading a body of more bytes raises HTTPException 413, also where it does not say its length.

    Args:
        app: what reads it.
        most: bytes of a body.
    """

    def __init__(self, app: ASGIApp, most: int):
        self.app = app
        self.most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        received = 0

        async def counted() -> Message:
            nonlocal received
            self._check(int(declared))
            message = await receive()
            received += len(message.get("body", b""))
            self._check(received)
            return message

        return await self.app(scope, counted, send)

    def _check(self, size: int) -> None:
        if size > self.most:
            raise HTTPException(413, f"the upload is larger than {self.most / 1e6:g} MB, the limit of this server")
