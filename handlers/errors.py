"""The one error tree. It knows no server, no model and no store; standard library only.

    CellstateError
    ├── RequestError             the client's request cannot be served as it is
    │   ├── MalformedJson        400  not JSON, or not one request object
    │   ├── UnknownField         400  a field that the contract does not have
    │   ├── InvalidInput         422  shape, type, range, NaN, infinity
    │   ├── NonFiniteResult      422  the model left the numbers; nothing was applied
    │   └── TooLarge             413  more than a configured limit
    ├── SessionError             the session is not where the client thinks
    │   ├── SessionNotFound      404
    │   ├── StepConflict         409  details: expected
    │   ├── SessionExists        409
    │   ├── ModelChanged         409
    │   ├── SessionClosed        410
    │   └── SessionExpired       410
    ├── ServiceError             the service's side
    │   ├── Overloaded           429  retryable
    │   ├── QuotaExceeded        429  retryable; there is no room for another session
    │   ├── StoreUnavailable     503  retryable
    │   ├── Draining             503  retryable
    │   ├── SessionUnreadable    503  the stored record is corrupt, or of a newer release
    │   └── InternalError        500  a defect of ours
    └── ConfigurationError       raised at start-up only: refuses to start

`code` is part of the contract and never changes; the message may. `retryable` promises that sending the same request again
is safe and may succeed.
"""

from typing import Any, ClassVar


class CellstateError(Exception):
    """Base of every error the service raises; `status` is the HTTP status, `code` the stable machine-readable name."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    phrase: ClassVar[str] = "Internal Server Error"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details

    def body(self) -> dict[str, Any]:
        """The `error` object of the HTTP contract."""
        error: dict[str, Any] = {"code": self.code, "message": self.message, "details": self.details}
        if self.retryable:
            error["retryable"] = True
        return error


class RequestError(CellstateError):
    status, code, phrase = 400, "bad_request", "Bad Request"


class MalformedJson(RequestError):
    code = "malformed_json"


class UnknownField(RequestError):
    code = "unknown_field"


class InvalidInput(RequestError):
    status, code, phrase = 422, "invalid_input", "Unprocessable Entity"


class NonFiniteResult(RequestError):
    status, code, phrase = 422, "non_finite_result", "Unprocessable Entity"


class TooLarge(RequestError):
    status, code, phrase = 413, "too_large", "Payload Too Large"


class SessionError(CellstateError):
    status, code, phrase = 409, "session_conflict", "Conflict"


class SessionNotFound(SessionError):
    status, code, phrase = 404, "session_not_found", "Not Found"


class StepConflict(SessionError):
    code = "step_conflict"


class SessionExists(SessionError):
    code = "session_exists"


class ModelChanged(SessionError):
    code = "model_changed"


class SessionClosed(SessionError):
    status, code, phrase = 410, "session_closed", "Gone"


class SessionExpired(SessionError):
    status, code, phrase = 410, "session_expired", "Gone"


class ServiceError(CellstateError):
    status, code, phrase = 503, "unavailable", "Service Unavailable"


class Overloaded(ServiceError):
    status, code, phrase, retryable = 429, "overloaded", "Too Many Requests", True


class QuotaExceeded(ServiceError):
    status, code, phrase, retryable = 429, "quota_exceeded", "Too Many Requests", True


class StoreUnavailable(ServiceError):
    code, retryable = "store_unavailable", True


class Draining(ServiceError):
    code, retryable = "draining", True


class SessionUnreadable(ServiceError):
    code = "session_unreadable"


class InternalError(ServiceError):
    status, code, phrase = 500, "internal_error", "Internal Server Error"


class ConfigurationError(CellstateError):
    """The service refuses to start; never becomes a response."""
