"""Showing the answer to a private job: only to its project, and only when it is one of an enclave to which the prompt was sealed."""

from aos_cli.checks import Expected, check_job
from aos_cli.client import JsonObject
from aos_cli.private import hold, open_answers


def opened_rows(document: JsonObject, expected: Expected) -> list[JsonObject]:
    """Return the rows of a job's results with each answer opened by `expected.key`.

    Raises `CliError` when a check on the job fails, or one could not be made that has to pass before an answer is shown.
    """
    hold(check_job(document, expected))
    opened = (
        {answer.operator: answer.text for answer in open_answers(document, expected.key)}
        if expected.key
        else {}
    )
    return [
        {**row, "result": opened[str(row["operator"])]} if row.get("result") else row for row in expected.rows
    ]


def without_sealed(rows: list[JsonObject], detail: JsonObject) -> list[JsonObject]:
    """Return the rows with a word in place of each answer that is sealed, which nobody could read."""
    job = detail.get("job")
    if not isinstance(job, dict) or job.get("sealed") is None:
        return rows
    said = "(sealed: --reply-key FILE opens it, with the file that was made with the job)"
    return [{**row, "result": said} if row.get("result") else row for row in rows]
