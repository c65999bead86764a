"""What a command of `aos` may stop with; each message says what to do next."""


class CliError(Exception):
    """The command cannot go on."""


class KeyFileExistsError(CliError):
    """The keystore file exists already and is not overwritten: a lost key cannot be made again."""


class PasswordError(CliError):
    """No usable password was given for a keystore."""


class EmbeddedError(CliError):
    """An embedded PostgreSQL or Valkey cannot start or stop."""
