"""The operator: has its worker run jobs and score others' answers, and sends what it signed until that is accepted.

Read `runner` first, which puts it together. `session` is the protocol without I/O, and `link` drives it over a
WebSocket. `jobs` carries a job from its dispatch to its accepted result; `outbox` is the one way out for all that
carries a clock. `workshop` asks the worker, `subjects` says what is scored, `statements` signs. Behind `store`,
`queue` and `worker` stand PostgreSQL, Redis and the model, each with a stand-in in `memory` and `stub`.
"""
