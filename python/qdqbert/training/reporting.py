# SPDX-License-Identifier: Apache-2.0
"""What a run shows while it goes on: a bar, printed logs, and ``log.jsonl``."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from qdqbert.serialization.atomic import naming, write_text
from qdqbert.serialization.folder_change import sweep
from qdqbert.training.arguments import TrainingArguments
from qdqbert.training.callback import TrainerCallback
from qdqbert.training.trainer_state import TrainerControl, TrainerState

__all__ = [
    "LOG_NAME",
    "JsonLinesCallback",
    "PrinterCallback",
    "ProgressCallback",
    "log_level",
    "log_text",
    "metrics_text",
]

LOG_NAME = "log.jsonl"


def log_text(logs: Mapping[str, Any]) -> str:
    """Return logged figures as people read them: ``loss 0.3321, learning_rate 2.5e-05``.

    Parameters
    ----------
    logs : mapping
    """
    words = []
    for name, value in logs.items():
        words.append(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}")
    return ", ".join(words)


def metrics_text(split: str, metrics: Mapping[str, Any]) -> str:
    """Return figures under a title, one a line, sorted by name.

    Parameters
    ----------
    split : str
    metrics : mapping
    """
    texts = {name: _text_of(name, value) for name, value in metrics.items()}
    names, values = max(map(len, texts), default=0), max(map(len, texts.values()), default=0)
    lines = [f"  {name:<{names}} = {texts[name]:>{values}}" for name in sorted(texts)]
    return "\n".join([f"***** {split} metrics *****", *lines])


@contextlib.contextmanager
def log_level(level: str | None) -> Iterator[None]:
    """Set the level of this package's logger while the block runs.

    Parameters
    ----------
    level : str or None
        ``"debug"`` ...; None and ``"passive"`` leave it alone.
    """
    logger = logging.getLogger("qdqbert")
    before = logger.level
    if level not in (None, "passive"):
        logger.setLevel(str(level).upper())
    try:
        yield
    finally:
        logger.setLevel(before)


class ProgressCallback(TrainerCallback):
    """Bars on the standard error: steps, loss, learning rate, samples a second and the time left."""

    def __init__(self) -> None:
        self.training_bar: Any = None
        self.prediction_bar: Any = None

    def on_train_begin(  # noqa: D102
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        from tqdm.auto import tqdm

        self.training_bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            desc=args.run_name or "training",
            unit="step",
            dynamic_ncols=True,
        )
        self._first_step = self._step = state.global_step
        self._samples, self._begin = 0, time.monotonic()

    def on_step_end(  # noqa: D102
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        figures = kwargs["step_metrics"]
        self._samples += figures["samples"]
        seconds = max(time.monotonic() - self._begin, 1e-9)
        text = f"loss {figures['loss']:.4g}, lr {figures['learning_rate']:.3g}"
        self.training_bar.set_postfix_str(f"{text}, {self._samples / seconds:.3g} samples/s", refresh=False)
        self.training_bar.update(state.global_step - self._step)
        self._step = state.global_step

    def on_prediction_step(  # noqa: D102
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        from tqdm.auto import tqdm

        if self.prediction_bar is None:
            self.prediction_bar = tqdm(
                total=_length_of(kwargs["eval_dataloader"]),
                desc="evaluating",
                unit="batch",
                leave=self.training_bar is None,
                dynamic_ncols=True,
            )
        self.prediction_bar.update(1)

    def on_evaluate(  # noqa: D102
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._close_prediction_bar()

    def on_predict(  # noqa: D102
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._close_prediction_bar()

    def on_log(  # noqa: D102
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.training_bar is not None:
            self.training_bar.write(f"step {state.global_step}: {log_text(kwargs['logs'])}", file=sys.stderr)

    def on_train_end(  # noqa: D102
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._close()

    def on_train_abort(  # noqa: D102
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._close()

    def _close_prediction_bar(self) -> None:
        if self.prediction_bar is not None:
            self.prediction_bar.close()
            self.prediction_bar = None

    def _close(self) -> None:
        self._close_prediction_bar()
        if self.training_bar is not None:
            self.training_bar.close()
            self.training_bar = None


class PrinterCallback(TrainerCallback):
    """Print what is logged, a dict on a line."""

    def on_log(  # noqa: D102
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        print(kwargs["logs"], flush=True)


class JsonLinesCallback(TrainerCallback):
    """Write what is logged to ``log.jsonl``, one JSON object a line, as it happens.

    A line has what ``state.log_history`` has, and ``elapsed_s``, seconds of training so far.  A run that is
    resumed cuts the file back to its checkpoint first, so that it ends as that of a run which never stopped.

    Parameters
    ----------
    path : str or path, optional
        By default ``log.jsonl`` in the arguments' ``logging_dir``, or in their ``output_dir``.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self._path = None if path is None else Path(path)
        self._elapsed_s = 0.0
        self._begin: float | None = None

    def state_dict(self) -> dict[str, Any]:  # noqa: D102
        return {"elapsed_s": self._seconds()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: D102
        self._elapsed_s = float(state["elapsed_s"])

    def on_train_begin(  # noqa: D102
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._begin = time.monotonic()
        if state.global_step == 0:
            self._elapsed_s = 0.0
        path = self._file(args)
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent)
        lines = _lines(path)[: len(state.log_history)]
        if [entry.get("step") for entry in lines] != [entry.get("step") for entry in state.log_history]:
            lines = state.log_history
        write_text(path, "".join(f"{json.dumps(entry)}\n" for entry in lines))

    def on_log(  # noqa: D102
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        entry = {**state.log_history[-1], "elapsed_s": round(self._seconds(), 3)}
        path = self._file(args)
        path.parent.mkdir(parents=True, exist_ok=True)
        with naming(path), open(path, "a", encoding="utf-8") as file:
            file.write(f"{json.dumps(entry)}\n")

    def on_train_end(  # noqa: D102
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._elapsed_s, self._begin = self._seconds(), None

    def on_train_abort(  # noqa: D102
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._elapsed_s, self._begin = self._seconds(), None

    def _seconds(self) -> float:
        return self._elapsed_s + (0.0 if self._begin is None else time.monotonic() - self._begin)

    def _file(self, args: TrainingArguments) -> Path:
        return Path(args.log_folder) / LOG_NAME if self._path is None else self._path


def _text_of(name: str, value: Any) -> str:
    if name.endswith("_runtime"):
        seconds = float(value)
        return f"{int(seconds) // 3600}:{int(seconds) % 3600 // 60:02d}:{seconds % 60:05.2f}"
    if name == "total_flos":
        return f"{float(value):.3e}"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a log, up to a line that a killed process left torn."""
    entries: list[dict[str, Any]] = []
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return entries
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            break
        if not isinstance(entry, dict):
            break
        entries.append(entry)
    return entries


def _length_of(batches: Any) -> int | None:
    try:
        return len(batches)
    except TypeError:
        return None
