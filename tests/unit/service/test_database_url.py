import pytest

from aos_service.database import create_engine, database_url, describe
from aos_service.errors import DatabaseError


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
def test_every_spelling_of_postgresql(scheme: str) -> None:
    url = database_url(f"{scheme}://user:p%40ss@db.example:6543/name\n")
    assert url.drivername == "postgresql+asyncpg"
    assert (url.username, url.password, url.host, url.port, url.database) == (
        "user",
        "p@ss",
        "db.example",
        6543,
        "name",
    )


def connect_arguments(text: str) -> dict[str, object]:
    """What asyncpg is called with."""
    url = database_url(text)
    arguments: dict[str, object] = url.get_dialect()().create_connect_args(url)[1]
    return arguments


def test_a_unix_socket_as_embedded_servers_name_it() -> None:
    assert connect_arguments("postgresql://postgres:@/postgres?host=/tmp/a%20b/run") == {
        "user": "postgres",
        "database": "postgres",
        "host": "/tmp/a b/run",
    }


def test_tls_as_other_programs_spell_it() -> None:
    assert connect_arguments("postgres://user@host/name?sslmode=require")["ssl"] == "require"
    assert connect_arguments("postgres://user@host/name?ssl=verify-full")["ssl"] == "verify-full"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read: write it like"),
        ("5cff9c0e", "cannot be read: write it like"),
        ("postgres://user:5cff9c0e@host:port/name", "cannot be read: write it like"),
        ("mysql://user:5cff9c0e@host/name", "mysql:// is no PostgreSQL address: write it like"),
        ("sqlite:///name", "sqlite:// is no PostgreSQL address: write it like"),
        ("postgres://user:5cff9c0e@host", "names no database: write it like"),
        (
            "postgres://user:5cff9c0e@host/name?pool=1&sslmode=x",
            "pool is not understood; allowed: host, port, sslmode, ssl",
        ),
    ],
)
def test_other_addresses_are_refused_without_showing_the_password(text: str, message: str) -> None:
    with pytest.raises(DatabaseError) as caught:
        database_url(text)
    assert message in str(caught.value)
    assert "5cff9c0e" not in str(caught.value)


def test_a_description_hides_password_and_driver() -> None:
    assert describe(database_url("postgres://user:5cff9c0e@host/name")) == "postgresql://user:***@host/name"


def test_the_pool_s_bounds() -> None:
    engine = create_engine(
        database_url("postgres://u@h/n"), pool_min=2, pool_max=5, connect_timeout=1, acquire_timeout=1
    )
    assert "Pool size: 2" in engine.pool.status()
    for low, high in ((0, 5), (6, 5), (-1, -1)):
        with pytest.raises(
            DatabaseError, match=f"a pool of {low} to {high} connections cannot be: use 1 <= minimum"
        ):
            create_engine(
                database_url("postgres://u@h/n"),
                pool_min=low,
                pool_max=high,
                connect_timeout=1,
                acquire_timeout=1,
            )
