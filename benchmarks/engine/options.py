"""What all measurements are asked to do."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import contenders
import model


@dataclass(frozen=True)
class Options:
    """The interpreter of worker and bare loop, a model (None: the random one), prompts of `prompt` tokens or words, outputs of `output` tokens, and how often."""

    python: str
    model: Path | None
    threads: int
    rounds: int
    prompt: int
    output: int

    def path(self) -> Path:
        """The file to run, in which no output ends by itself."""
        return model.endless(self.model) if self.model else model.path()

    def setting(self, slots: int) -> contenders.Setting:
        """For so many jobs at once; words take up to three tokens each."""
        return contenders.Setting(
            self.python, self.path(), self.threads, slots, 4 * self.prompt + self.output
        )

    def prompts(self, count: int, salt: int) -> list[str]:
        """So many prompts; those of another salt have nothing in common with them."""
        ask: Callable[[int, int], str] = model.words if self.model else model.text
        return [ask(self.prompt, 1000 * salt + number) for number in range(count)]
