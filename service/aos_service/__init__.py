"""How a process of ours starts: settings, keys, logs and the database.

Start with `settings.load_settings` and `logs.configure_logs`; `keys.load_signer` gives a process its name
and `database` its tables. Nothing here knows what the process does: this package imports `aos_protocol` only.
"""
