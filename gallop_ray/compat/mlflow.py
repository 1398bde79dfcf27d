"""MLflow: the credentials that it uses for a server, and the engine that it caches for an SQLite file."""

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
    """The credentials that MLflow itself uses for a server, which no public function returns."""
    return MlflowClient(uri)._tracking_client.store.get_host_creds()


def close_engine(uri: str) -> None:
    """Close the connections that MLflow keeps open to the database at this address."""
    SqlAlchemyStore._get_or_create_engine(uri).dispose()
