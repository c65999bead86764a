"""The operator's alembic environment."""

from aos_operator.tables import Base
from aos_service.alembic_env import run

run(Base.metadata)
