"""The names of sessions inside a store: each tenant has a namespace of its own, so that equal ids of two tenants are two sessions."""

from handlers.keys import DEFAULT_TENANT

SEPARATOR = "~"  # neither a tenant nor a session's id may contain it


def session_name(tenant: str, id: str) -> str:
    """Return the name of a tenant's session; that of the default tenant is the id, as in stores from before there were tenants."""
    return id if tenant == DEFAULT_TENANT else f"{tenant}{SEPARATOR}{id}"


def tenant_of(name: str) -> str:
    """Return the tenant that a session belongs to, by its name."""
    tenant, separator, _ = name.partition(SEPARATOR)
    return tenant if separator else DEFAULT_TENANT


def session_id(name: str) -> str:
    """Return the id by which the tenant knows the session."""
    return name.rpartition(SEPARATOR)[2]
