"""The dispatcher's alembic environment."""

from aos_dispatcher.tables import Base
from aos_service.alembic_env import run

run(Base.metadata)
