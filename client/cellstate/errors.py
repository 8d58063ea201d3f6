"""Every error that the client raises, as one tree.

CellstateError
├── ApiError                     the service or its host answered with an error: status, code, details, retryable
│   ├── RequestError             the request cannot be served as it is
│   │   ├── MalformedJson, UnknownField              400
│   │   ├── InvalidInput, NonFiniteResult            422
│   │   └── TooLarge                                 413
│   ├── AccessError
│   │   ├── Unauthenticated                          400 of TorchServe, 401
│   │   └── Forbidden                                403
│   ├── SessionError             the session is not where the client thinks
│   │   ├── SessionNotFound                          404
│   │   ├── StepConflict, SessionExists, ModelChanged  409
│   │   └── SessionClosed, SessionExpired            410
│   ├── ServiceError             the service cannot serve now
│   │   ├── Overloaded, QuotaExceeded                429
│   │   ├── StoreUnavailable, Draining, SessionUnreadable  503
│   │   └── InternalError                            500
│   └── HostError                an answer without a code of the service: TorchServe's own, or a proxy's
│       └── ModelNotFound                            404
├── ConnectionFailed             no answer came back
├── DeadlineExceeded             no attempt was answered in time; also a TimeoutError
├── UnexpectedReply              the answer is not what the API promises
└── NotReturned                  a result does not have this field; also a LookupError
"""

from collections.abc import Mapping
from typing import Any, ClassVar

RETRYABLE_STATUS = frozenset(
    {408, 429, 500, 502, 503, 504, 507}
)  # of answers without a code; TorchServe says 500 or 507 when a worker died


class CellstateError(Exception):
    """Base of every error of this package. `remedy` says in one sentence what the caller can do."""

    remedy: ClassVar[str] = ""
    retryable: bool = False


class ApiError(CellstateError):
    """An error answer.

    `status` is the HTTP status; for one row of a batch, the status that this code has alone. `code` is the stable name of the error, and
    `details` holds its values, such as the `expected` step. `retryable` promises that the same request may be sent again: the client has
    already done so until its deadline. `retry_after` is how many seconds the server asked to wait.
    """

    code: str = ""
    status: int = 400

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str = "",
        details: Mapping[str, Any] | None = None,
        retryable: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message, self.retryable, self.retry_after = message, retryable, retry_after
        self.code, self.status = code or type(self).code, status or type(self).status
        self.details = dict(details or {})

    def __str__(self) -> str:
        return f"{self.status} {self.code}: {self.message}"


class RequestError(ApiError):
    """The request cannot be served as it is."""

    remedy = "Correct the request as the message says; nothing was applied."


class MalformedJson(RequestError):
    code = "malformed_json"


class UnknownField(RequestError):
    code = "unknown_field"


class InvalidInput(RequestError):
    code, status = "invalid_input", 422


class NonFiniteResult(RequestError):
    code, status = "non_finite_result", 422
    remedy = "Check the inputs: the model's result left the finite numbers. Nothing was applied."


class TooLarge(RequestError):
    code, status = "too_large", 413
    remedy = "Send fewer steps, rows or fields at a time; nothing was applied."


class AccessError(ApiError):
    """The API key does not allow the request."""


class Unauthenticated(AccessError):
    code, status = "unauthenticated", 401
    remedy = "Give an API key that the server knows; a callable or the path of a file is read again when the server refuses the key."


class Forbidden(AccessError):
    code, status = "forbidden", 403
    remedy = "Use a key whose scopes include this request."


class SessionError(ApiError):
    """The session is not where the client thinks."""

    status = 409

    @property
    def expected(self) -> int | None:
        """The step at which the session is, where the service said so."""
        return self._number("expected")

    @property
    def generation(self) -> int | None:
        """The session's generation, where the service said so."""
        return self._number("generation")

    def _number(self, name: str) -> int | None:
        value = self.details.get(name)
        return value if isinstance(value, int) else None


class SessionNotFound(SessionError):
    code, status = "session_not_found", 404
    remedy = "Start the session at step 0; its state is not on this server."


class StepConflict(SessionError):
    code = "step_conflict"
    remedy = (
        "Somebody else moved the session, or an earlier step of yours was applied. Call resume(), and go on from the stream's position."
    )


class SessionExists(SessionError):
    code = "session_exists"
    remedy = "Continue the session, close it, or use another id."


class ModelChanged(SessionError):
    code = "model_changed"
    remedy = "Send the step to the model version that made the state, or close the session and start anew."

    @property
    def version(self) -> str | None:
        """The version of the model that has the session's state, where the service said so."""
        value = self.details.get("version")
        return value if isinstance(value, str) else None


class SessionClosed(SessionError):
    code, status = "session_closed", 410
    remedy = "Use another id."


class SessionExpired(SessionError):
    code, status = "session_expired", 410
    remedy = "Start the session anew: client.stream(model, id, position=0)."


class ServiceError(ApiError):
    """The service cannot serve the request now."""

    status = 503


class Overloaded(ServiceError):
    code, status = "overloaded", 429
    remedy = "Send the same request again later; nothing was applied."


class QuotaExceeded(ServiceError):
    code, status = "quota_exceeded", 429
    remedy = "Close sessions that are no longer needed; nothing was applied."


class StoreUnavailable(ServiceError):
    code = "store_unavailable"
    remedy = "Send the same request again later; it is applied once, however often it is sent."


class Draining(ServiceError):
    code = "draining"
    remedy = "Send the same request to another server, or again later; nothing was applied."


class SessionUnreadable(ServiceError):
    code = "session_unreadable"
    remedy = "The stored session is damaged or of a newer release: tell the operator, or use another id."


class InternalError(ServiceError):
    code, status = "internal_error", 500
    remedy = "Tell the operator. The message says whether the request may have been applied; the same step can be sent again."


class HostError(ApiError):
    """TorchServe or a proxy answered, and not the service itself."""

    code = "host_error"


class ModelNotFound(HostError):
    code, status = "model_not_found", 404
    remedy = "Check the model's name and version."


class ConnectionFailed(CellstateError):
    """No answer came back: the connection could not be made, or broke, or the attempt timed out."""

    remedy = "Check the URL and the network. A step may have been applied: the same step can be sent again."

    def __init__(self, message: str, *, retryable: bool = True) -> None:
        super().__init__(message)
        self.retryable = retryable


class DeadlineExceeded(CellstateError, TimeoutError):
    """No attempt was answered within the deadline; `__cause__` is the last attempt's error."""

    remedy = "Whether a step was applied is not known. Call the same method with the same inputs again: it is applied once."


class UnexpectedReply(CellstateError):
    """An answer with status 200 is not what the API promises, for example a proxy's page."""

    remedy = "Check that the URL is a Cellstate server's."


class NotReturned(CellstateError, LookupError):
    """The result does not have this field."""

    remedy = "Name the field in `returns`."


def _leaves(kind: type[ApiError]) -> list[type[ApiError]]:
    below = [leaf for child in kind.__subclasses__() for leaf in _leaves(child)]
    return below or [kind]


BY_STATUS: Mapping[int, type[ApiError]] = {401: Unauthenticated, 403: Forbidden, 404: ModelNotFound, 413: TooLarge}  # of the host
BY_CODE: Mapping[str, type[ApiError]] = {kind.code: kind for kind in _leaves(ApiError)}


def api_error(error: Mapping[str, Any], status: int | None = None, retry_after: float | None = None) -> ApiError:
    """The exception for the API's `error` object; one row of a batch has no `status` of its own. Raises KeyError without a `code`."""
    code = str(error["code"])
    kind, details, retryable = BY_CODE.get(code, ApiError), error.get("details"), error.get("retryable") is True
    details = details if isinstance(details, dict) else {}
    return kind(str(error.get("message", code)), status=status, code=code, details=details, retryable=retryable, retry_after=retry_after)


def host_error(status: int, kind: str, message: str, retry_after: float | None = None) -> ApiError:
    """The exception for an answer that is not in the API's form; `kind` is TorchServe's name of the error, where it gave one."""
    known = BY_STATUS.get(status, HostError)
    retryable = known is HostError and status in RETRYABLE_STATUS
    return known(message, status=status, details={"type": kind}, retryable=retryable, retry_after=retry_after)
