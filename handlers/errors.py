"""The one error tree. It knows no server, no model and no store; standard library only.

    CellstateError
    ├── RequestError             the client's request cannot be served as it is
    │   ├── MalformedJson        400  not JSON, or not one request object
    │   ├── UnknownField         400  a field that the contract does not have
    │   ├── InvalidInput         422  shape, type, range, NaN, infinity
    │   ├── NonFiniteResult      422  the model left the numbers; nothing was applied
    │   └── TooLarge             413  more than a configured limit
    ├── AccessError              the key does not allow the request
    │   ├── Unauthenticated      401  no key, or none that is known and valid
    │   └── Forbidden            403  the key lacks the scope
    ├── SessionError             the session is not where the client thinks
    │   ├── SessionNotFound      404  there is none; start it with step 0
    │   ├── StepConflict         409  it is at another step or generation
    │   ├── SessionExists        409  it was started already
    │   ├── ModelChanged         409  its state belongs to another version of the model
    │   ├── SessionClosed        410  it was ended
    │   └── SessionExpired       410  it was idle for too long
    ├── ServiceError             the service's side
    │   ├── Overloaded           429  retryable; the session or the workers are busy
    │   ├── QuotaExceeded        429  retryable; there is no room for another session
    │   ├── StoreUnavailable     503  retryable; the session store does not answer
    │   ├── Draining             503  retryable; the server is stopping
    │   ├── SessionUnreadable    503  the stored record is corrupt, or of a newer release
    │   └── InternalError        500  a defect of ours
    └── ConfigurationError       raised at start-up only: refuses to start

`code` is part of the contract and never changes; the message may. `retryable` promises that sending the same request again
is safe and may succeed.
"""

from typing import Any, ClassVar

RETRY_AFTER = "1"  # seconds


class CellstateError(Exception):
    """Base of every error the service raises; `status` is the HTTP status, `code` the stable machine-readable name."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the HTTP response, beside those of every response: when to send the request again, where that may help."""
        return {"Retry-After": RETRY_AFTER} if self.retryable else {}

    def body(self) -> dict[str, Any]:
        """The `error` object of the HTTP contract."""
        error: dict[str, Any] = {"code": self.code, "message": self.message, "details": self.details}
        if self.retryable:
            error["retryable"] = True
        return error


class RequestError(CellstateError):
    status, code = 400, "bad_request"


class MalformedJson(RequestError):
    code = "malformed_json"


class UnknownField(RequestError):
    code = "unknown_field"


class InvalidInput(RequestError):
    status, code = 422, "invalid_input"


class NonFiniteResult(RequestError):
    status, code = 422, "non_finite_result"


class TooLarge(RequestError):
    status, code = 413, "too_large"


class AccessError(CellstateError):
    status, code = 403, "access_denied"
    key = ""  # name of the key, where it is known


class Unauthenticated(AccessError):
    status, code = 401, "unauthenticated"

    @property
    def headers(self) -> dict[str, str]:
        return {"WWW-Authenticate": 'Bearer realm="cellstate"'}  # RFC 9110, 11.6.1, and RFC 6750, 3


class Forbidden(AccessError):
    code = "forbidden"


class SessionError(CellstateError):
    status, code = 409, "session_conflict"


class SessionNotFound(SessionError):
    status, code = 404, "session_not_found"


class StepConflict(SessionError):
    code = "step_conflict"


class SessionExists(SessionError):
    code = "session_exists"


class ModelChanged(SessionError):
    code = "model_changed"


class SessionClosed(SessionError):
    status, code = 410, "session_closed"


class SessionExpired(SessionError):
    status, code = 410, "session_expired"


class ServiceError(CellstateError):
    status, code = 503, "unavailable"


class Overloaded(ServiceError):
    status, code, retryable = 429, "overloaded", True


class QuotaExceeded(ServiceError):
    status, code, retryable = 429, "quota_exceeded", True


class StoreUnavailable(ServiceError):
    """`message` is for the log and may name addresses and files; clients read `public`."""

    code, retryable = "store_unavailable", True

    def __init__(self, message: str, public: str = "the session store is unavailable", **details: Any) -> None:
        super().__init__(message, **details)
        self.public = public

    def body(self) -> dict[str, Any]:
        return super().body() | {"message": self.public}


class Draining(ServiceError):
    code, retryable = "draining", True


class SessionUnreadable(ServiceError):
    code = "session_unreadable"


class InternalError(ServiceError):
    status, code = 500, "internal_error"


class ConfigurationError(CellstateError):
    """The service refuses to start; never becomes a response."""
