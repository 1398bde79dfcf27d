"""MLflow: the login that it takes for an address, and the engine that it keeps for a SQLite file."""

from typing import Any

from mlflow import MlflowClient
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from gallop_ray.compat.probe import require


def probe() -> None:
    """Raises Incompatible."""
    require(
        "mlflow",
        {
            "SqlAlchemyStore._get_or_create_engine": lambda: SqlAlchemyStore._get_or_create_engine,
            "MlflowClient._tracking_client": lambda: "_tracking_client" in MlflowClient.__init__.__code__.co_names,
        },
    )


def login_of(uri: str) -> Any:
    """The credentials that MLflow itself takes for a server's address, which no public function tells."""
    return MlflowClient(uri)._tracking_client.store.get_host_creds()


def close_engine(uri: str) -> None:
    """Close the connections to a database that MLflow keeps open for this address."""
    SqlAlchemyStore._get_or_create_engine(uri).dispose()
