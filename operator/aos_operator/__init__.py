"""The operator: takes jobs from a dispatcher, has its worker run them, and sends signed results until they are accepted.

Read `runner` first, which puts it together. `session` is the protocol without I/O, and `link` drives it over a
WebSocket. `jobs` carries a job from its dispatch to its accepted result; `outbox` is the one way out for all that
carries a clock. Behind `store`, `queue` and `worker` stand PostgreSQL, Redis and the model, each with a stand-in in
`memory` and `stub`.
"""
