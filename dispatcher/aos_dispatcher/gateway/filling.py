"""Prompts that editors have made for filling in themselves, by the template of the model's family (Twinny and Continue do)."""

from dataclasses import replace

from aos_dispatcher.gateway.requests import Wanted
from aos_dispatcher.gateway.served import Served
from aos_dispatcher.tables import JsonObject
from aos_protocol.fim import FimTemplate, choose, split


def taken_apart(wanted: Wanted, model: Served) -> Wanted:
    """Return the request with each such prompt taken apart into prompt and suffix, where the model can fill in.

    Left as it is, its markers would be read as plain text, since no text of a job may pass for a marker.
    """
    template = choose(model.name) if "fim" in model.able else None
    if template is None:
        return wanted
    return replace(wanted, jobs=[_apart(job, template) for job in wanted.jobs])


def _apart(job: JsonObject, template: FimTemplate) -> JsonObject:
    if "suffix" in job or "prompt" not in job:
        return job
    parts = split(template, job["prompt"])
    return job if parts is None else job | {"prompt": parts[0], "suffix": parts[1]}
