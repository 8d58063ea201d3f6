"""The KServe V1 protocol: the schemas of its requests and replies."""

from handlers.settings import Settings
from openapi.schema import NUMBER, Schema, array, matrix, one_of, record, ref

LIMITS = Settings()


def schemas() -> dict[str, Schema]:
    """Return the schemas of requests and replies."""
    windows = array(ref("Inputs"), f"At most `max_instances` ({LIMITS.max_instances} unless configured).", 1, LIMITS.max_instances)
    prediction = one_of(array(NUMBER), matrix("For a model that predicts at every step."))
    return {
        "WindowsRequest": record({"instances": windows}, ["instances"], "Many windows; the first error is the whole answer."),
        "WindowsReply": record({"predictions": array(prediction, "One prediction for each window, in order.")}, ["predictions"]),
    }
