"""The operator's alembic environment."""

from aos_service.alembic_env import run

run()
